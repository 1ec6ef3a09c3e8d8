"""The done log: a line of JSON for each finished file, so that a second run can continue where the first stopped."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deblur_deploy.core.artifact import hash_file
from deblur_deploy.core.errors import ArtifactError

DONE_LOG = ".deblur-infer.jsonl"


@dataclass(frozen=True)
class Fingerprint:
    """Everything besides the input that decides how a result looks.

    Args:
        artifact: sha256 of the network's payload.
        runtime: What it runs on.
        version: Version of this package.
        settings: Everything else: tiles, memory, format, quality, codec.
    """

    artifact: str
    runtime: str
    version: str
    settings: dict[str, Any]


class DoneLog:
    """The finished files of an output folder.

    Each line is written and flushed to the disk after its file is in place. A line that a killed run left unfinished is
    ignored.

    Args:
        out: The output folder; it is made when the first line is written.
        fingerprint: Network, runtime and settings of this run.

    Raises:
        ArtifactError: The done log cannot be read.
    """

    def __init__(self, out: Path, fingerprint: Fingerprint) -> None:
        self._path = out / DONE_LOG
        self._fingerprint = asdict(fingerprint)
        self._done: dict[str, dict[str, Any]] = {}
        self.measured: dict[str, int] = {}
        for line in self._lines():
            if "done" in line:
                self._done[line["done"]] = line
            elif line.get("network") == self._network:
                self.measured.update(line.get("measured", {}))

    @property
    def _network(self) -> list[str]:
        return [self._fingerprint["artifact"], self._fingerprint["runtime"], self._fingerprint["version"]]

    def is_done(self, name: str, source: Path, target: Path) -> bool:
        """Whether the result of a file is there, made from the same bytes in the same way, and unchanged since."""
        line = self._done.get(name)
        if line is None or line.get("recipe") != self._fingerprint or line.get("target") != target.name:
            return False
        return target.is_file() and line["output"] == hash_file(target) and line["input"] == hash_file(source)

    def add(self, name: str, input_hash: str, target: Path) -> None:
        """Record a finished file."""
        line = {"done": name, "input": input_hash, "output": hash_file(target), "target": target.name}
        self._append(line | {"recipe": self._fingerprint})

    def remember(self, measured: dict[str, int]) -> None:
        """Record what was measured about the network, so that the next run need not measure it again."""
        if measured != self.measured:
            self._append({"network": self._network, "measured": measured})
            self.measured = dict(measured)

    def _lines(self) -> list[dict[str, Any]]:
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as err:
            raise ArtifactError(f"{self._path} cannot be read: {err}", hint="remove it to start anew") from err
        lines = []
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                lines.append(entry)
        return lines

    def _append(self, entry: dict[str, Any]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    torn = file.read(1) != b"\n"
                else:
                    torn = False
                file.write(b"\n" * torn + json.dumps(entry).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as err:
            raise ArtifactError(
                f"{self._path} cannot be written: {err}", hint="check permissions and free space"
            ) from err
