"""The state of a run on disk, from which it can go on: safetensors for tensors, JSON for the rest, no pickle.

A state is a directory ``state-<step>`` that is renamed into place when it is whole; the one before it is removed only
then. Killed or out of space at any moment, a run leaves a whole state behind. Ctrl-C and SIGTERM wait for the end of a
step: a step is done or not, never half.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deblur_deploy.core.artifact import hash_file
from deblur_deploy.core.errors import ArtifactError, ConfigError

FORMAT_VERSION = 1
_TENSORS, _FACTS = "state.safetensors", "state.json"

_MAY_CHANGE = frozenset({"fit.lr", "fit.lr_final", "fit.clip_norm"})
"""What may be corrected between two parts of a run, such as a rate that led to NaN."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class SavedState:
    """A state as it was saved.

    Args:
        step: Optimiser steps done.
        tensors: Weights, moments, averages, generators' states and losses, by name.
        facts: Numbers that are not tensors.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class StateKeeper:
    """Saves states of one run now and then.

    Args:
        folder: Where they lie; made when the first is saved.
        minutes: Time between two of them.
        recipe: What the run is: plain data, compared when it goes on.
    """

    def __init__(self, folder: Path, minutes: float, recipe: Mapping[str, Any]) -> None:
        self.folder = folder
        self.minutes = minutes
        self.recipe = recipe
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._last >= 60 * self.minutes

    def save(self, state: SavedState) -> None:
        """Write a state, then remove older ones. One of the same step is the same state, and stays.

        Raises:
            ArtifactError: It cannot be written; the older state is still there.
        """
        target = self.folder / f"state-{state.step:08d}"
        if target.exists():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(".state-*"):
                shutil.rmtree(leftover)
            staging = Path(tempfile.mkdtemp(prefix=".state-", dir=self.folder))
            try:
                self._write(staging, state)
                staging.rename(target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            for older in self.folder.glob("state-*"):
                if older != target:
                    shutil.rmtree(older)
        except (OSError, SafetensorError) as err:
            raise ArtifactError(
                f"the state of the run cannot be written to {target}: {err}",
                hint="free some space, then go on with --resume; the state saved before it is kept",
            ) from err
        self._last = time.monotonic()

    def load(self) -> SavedState:
        """The newest state.

        Raises:
            ArtifactError: There is none, or it is damaged.
            ConfigError: It belongs to another recipe.
        """
        found = sorted(self.folder.glob("state-*"))
        if not found:
            raise ArtifactError(
                f"{self.folder} holds no saved state",
                hint="--out names the run to go on with; leave --resume out to start it",
            )
        try:
            record = json.loads((found[-1] / _FACTS).read_text(encoding="utf-8"))
            if record["format_version"] != FORMAT_VERSION or record["sha256"] != hash_file(found[-1] / _TENSORS):
                raise ValueError("the hash of its tensors does not match")
            state = SavedState(record["step"], load_file(found[-1] / _TENSORS), record["facts"])
            recipe = record["recipe"]
        except (OSError, ValueError, KeyError, SafetensorError) as err:
            raise ArtifactError(f"{found[-1]} is damaged: {err}", hint="remove it and start the run again") from err
        if changed := sorted(_differences(recipe, json.loads(json.dumps(self.recipe))) - _MAY_CHANGE):
            raise ConfigError(
                f"the run in {self.folder} had another recipe: {', '.join(changed)} differ",
                hint="go on with the recipe and --init that it was started with",
            )
        return state

    def clear(self) -> None:
        """Remove the states of a run that is done, and the folder if nothing else is in it."""
        for state in (*self.folder.glob("state-*"), *self.folder.glob(".state-*")):
            shutil.rmtree(state, ignore_errors=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _write(self, staging: Path, state: SavedState) -> None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        save_file(tensors, staging / _TENSORS)
        record = {
            "format_version": FORMAT_VERSION,
            "step": state.step,
            "sha256": hash_file(staging / _TENSORS),
            "facts": state.facts,
            "recipe": dict(self.recipe),
        }
        (staging / _FACTS).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for name in (_TENSORS, _FACTS):
            with (staging / name).open("rb") as file:
                os.fsync(file.fileno())


def _differences(before: Any, now: Any, path: str = "") -> set[str]:
    """Dotted names of the fields that differ between two tables of plain data."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {
            name
            for key in before.keys() | now.keys()
            for name in _differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
        }
    return set() if before == now else {path}


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is done, and then do what they would have done.

    Where the block fails, its error ends the run, and they are forgotten. Outside the main thread, where Python handles
    no signals, nothing has to wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    usual = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
