"""The README of the benchmarks: what is measured, how to repeat it, and the recorded figures as tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from claims import PublishedClaims, render_claims
from gpu_proofs import GpuProofs, render_proofs
from measurement import Target, spaced
from reading import Reading, claim_rows
from scenario import Scenario, load_scenarios

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.markdown_table import escape, markup_table, table

Record = dict[str, Any]
"""One line of a results file."""

_HEAD = """\
<!-- Written by `python benchmarks/run.py --render`; change the scenarios or the results instead. -->
# Benchmarks

Each scenario is a file of plain data in [`scenarios/`](scenarios): what is measured, with which parameters, and the
target. `run.py` measures it and appends one line to `results/<device>/<scenario>.jsonl` with the figure, every raw
sample, the machine, and the versions of all libraries. The tables below are rendered from these lines; of several, the
last one counts. A figure that misses its target is recorded and shown as missed; one whose last three windows of time
do not agree within 10 % is called unstable, and says more about the machine's other work than about this project.
Where a shipped generator has been replaced since, the record says so; it stays until that machine measures the new one.

## Run them again

On an idle machine, after `make venv`:

```
.venv/bin/python benchmarks/run.py                  # all scenarios
.venv/bin/python benchmarks/run.py help rtx-build   # some of them
.venv/bin/python benchmarks/run.py --render         # write this page anew
```

The directory of the results is named after the processor and the number of cores; `--device-dir NAME` gives it another
name. The exit code is 0 if every target was met, 3 if one was missed, 1 if a scenario could not run.
"""

_CLAIMS = """\
What was published of the networks and the method that this toolkit starts from, and what we have measured. A claim is
met or missed only where it was measured on the device that it names; else it is unproven, whatever our figure is.
`.venv/bin/python benchmarks/run.py {name}` measures all of them again, on an RTX card those too that need one.
"""

_PROOFS = """\
What no processor can show. Each line is proven or failed on the GPU that stands behind it, else it is unproven, with
the reason. `.venv/bin/python benchmarks/run.py {name}` runs the tests among them where there is a GPU, and records why
it could not where there is none; figures come from the scenarios that the commands name.
"""


def render(root: Path) -> str:
    """The text of ``README.md``.

    Args:
        root: Directory of ``scenarios/`` and ``results/``.

    Raises:
        ConfigError: A scenario is malformed.
        ArtifactError: A results file is damaged.
    """
    scenarios = load_scenarios(root)
    sections = [_HEAD, "## What they measure\n", *map(_describe_scenario, scenarios), "## Results\n"]
    devices = sorted(path for path in (root / "results").glob("*") if any(path.glob("*.jsonl")))
    sections += [_render_device(device, scenarios) for device in devices]
    if not devices:
        sections.append("None are recorded yet.\n")
    sections += [
        _render_claims(scenario, scenarios, devices)
        for scenario in scenarios
        if isinstance(scenario.work, PublishedClaims)
    ]
    sections += [_render_proofs(scenario, devices) for scenario in scenarios if isinstance(scenario.work, GpuProofs)]
    return "\n".join(sections)


def latest_record(path: Path) -> Record:
    """The line of a results file that counts, its last one.

    Raises:
        ArtifactError: It is no record.
    """
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
        describe_outcome(record)
    except (ValueError, IndexError, KeyError, TypeError) as err:
        raise ArtifactError(f"the last line of {path} is no record", hint="remove the line, or run it again") from err
    return record


def describe_outcome(record: Record) -> str:
    """Figure, target and outcome, such as ``2.3×, at most 3×: met``."""
    figure, target, outcome = _outcome(record)
    return f"{figure}, {target}: {outcome}"


def _outcome(record: Record) -> tuple[str, str, str]:
    unit = record["unit"]
    return (
        f"{record['figure']:.2f}{spaced(unit)}",
        Target(**record["target"]).describe(unit),
        ("met" if record["met"] else "missed") + ("" if record["stable"] else ", but unstable"),
    )


def _describe_scenario(scenario: Scenario) -> str:
    link = f"[`{scenario.name}`](scenarios/{scenario.name}.toml)"
    return f"- **{scenario.title}** ({link}). {scenario.about.strip()}\n"


def _render_device(directory: Path, scenarios: Sequence[Scenario]) -> str:
    """The table of one machine, and what the machine is."""
    titles = {scenario.name: scenario.title for scenario in scenarios}
    since = {scenario.name: scenario.since for scenario in scenarios}
    records = {path.stem: latest_record(path) for path in sorted(directory.glob("*.jsonl"))}
    rows = []
    for name, record in records.items():
        figure, target, outcome = _outcome(record)
        link = f"[{escape(titles.get(name, name))}](results/{directory.name}/{name}.jsonl)"
        replaced = since.get(name, "")
        earlier = f"**Of the generators shipped before {_day(replaced)}.** " if record["date"] < replaced else ""
        rows.append([link, figure, target, f"**{outcome}**", earlier + escape(record["note"]), _day(record["date"])])
    headings = ["scenario", "figure", "target", "", "measured", "date (UTC)"]
    lines = [f"### {directory.name}\n", *markup_table(headings, rows)]
    for name, record in records.items():
        if found := record["details"].get("table"):
            lines += ["", f"{titles.get(name, name)}:", "", *table(found["headings"], found["rows"])]
    if missing := [f"`{name}`" for name in titles if name not in records]:
        lines.append(f"\nNot measured on this machine: {', '.join(missing)}.")
    return "\n".join([*lines, "", *_describe_machines(records.values())]) + "\n"


def _day(date: str) -> str:
    """A date and, where it has one, its time to the minute."""
    return date[:16].replace("T", " ")


def _render_claims(scenario: Scenario, scenarios: Sequence[Scenario], devices: Sequence[Path]) -> str:
    """The list of published claims, each with what the recorded runs of its scenario say of it."""
    assert isinstance(scenario.work, PublishedClaims)
    claims = render_claims(scenario.work, _records(scenario, devices))
    read = [other for other in scenarios if isinstance(other.work, Reading)]
    claims["rows"] += [row for other in read for record in _records(other, devices) for row in claim_rows(record)]
    lines = [
        "## Published claims\n",
        _CLAIMS.format(name=scenario.name),
        *markup_table(claims["headings"], claims["rows"]),
    ]
    return "\n".join(lines) + "\n"


def _records(scenario: Scenario, devices: Sequence[Path]) -> list[Record]:
    """The latest record of a scenario on every device that has one, of the generators that are shipped now."""
    paths = [directory / f"{scenario.name}.jsonl" for directory in devices]
    records = [latest_record(path) for path in paths if path.exists()]
    return [record for record in records if record["date"] >= scenario.since]


def _render_proofs(scenario: Scenario, devices: Sequence[Path]) -> str:
    """The list of what a GPU has to prove, each with what the recorded runs say of it."""
    assert isinstance(scenario.work, GpuProofs)
    records = [{path.stem: latest_record(path) for path in sorted(device.glob("*.jsonl"))} for device in devices]
    proofs = render_proofs(scenario.work, records, scenario.name)
    lines = markup_table(proofs["headings"], proofs["rows"])
    return "\n".join(["## What a GPU has to prove\n", _PROOFS.format(name=scenario.name), *lines]) + "\n"


def _describe_machines(records: Iterable[Record]) -> list[str]:
    """One line for each set of facts among the records, with the scenarios that it belongs to."""
    by_facts: dict[str, list[str]] = {}
    for record in records:
        device, versions = record["device"], record["versions"]
        facts = [
            f"{device['cpu']}, {device['cores']} core{'s' if device['cores'] != 1 else ''}, {device['memory_gib']} GiB",
            f"instruction sets {' '.join(device['instruction_sets']) or 'not known'}",
            ", ".join(f"{name} {version}" for name, version in versions.items()),
        ]
        by_facts.setdefault("; ".join(facts), []).append(f"`{record['scenario']}`")
    return [f"- {', '.join(names)}: {facts}." for facts, names in by_facts.items()]
