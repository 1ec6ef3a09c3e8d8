"""Probes: small programs, each in a process of its own, that say line by line what they have found so far."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from checkout import ROOT

LEAST_SECONDS = 5.0
"""With less time than this a probe is not started: CUDA alone takes seconds to come up."""

_PROGRAM = Path(__file__).with_name("gpu_probes.py")
_QUOTED = 300


@dataclass(frozen=True)
class Finding:
    """What was found of a claim.

    Args:
        verdict: ``proven``, ``failed`` or ``unproven``.
        found: What was seen, in a few words, or why nothing was.
        details: Whatever belongs to it, as plain data.
    """

    verdict: str
    found: str
    details: dict[str, Any] = field(default_factory=dict)

    def tell(self) -> None:
        """Print it for the process that started this one."""
        print(json.dumps(asdict(self), ensure_ascii=False), flush=True)


def run_probe(name: str, seconds: float, program: Path = _PROGRAM) -> Iterator[Finding]:
    """Run a probe and give what it finds, when it finds it.

    Args:
        name: Which one.
        seconds: Its budget; it is told of it, and ended a little after it.
        program: Where the probes are.

    Yields:
        Findings; the last one counts. Of a probe that crashes or does not end, what it had found before is kept.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(program), name, "--seconds", f"{seconds:.0f}"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)
    late = threading.Event()

    def end_it() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, end_it)
    errors: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    reader = threading.Thread(target=errors.extend, args=(process.stderr,), daemon=True)
    last: Finding | None = None
    timer.start()
    reader.start()
    try:
        for line in process.stdout:
            if line.startswith("{"):
                last = Finding(**json.loads(line))
                yield last
        code = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join(timeout=5)
        process.stdout.close()
        process.stderr.close()
    if late.is_set():
        yield _cut_short(last, seconds)
    elif code:
        reason = " ".join("".join(errors[-3:]).split())[-_QUOTED:]
        yield Finding("failed", f"the probe ended with {code}: {reason}", last.details if last else {})
    elif last is None:
        yield Finding("failed", "the probe said nothing")


def _cut_short(last: Finding | None, seconds: float) -> Finding:
    """What counts of a probe whose time is up: what it found on the way is not taken back by the clock."""
    told = f"not done after {seconds:.0f} s"
    return Finding("unproven", told) if last is None else replace(last, found=f"{last.found}; {told}")
