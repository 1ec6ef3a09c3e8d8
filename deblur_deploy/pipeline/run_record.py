"""What a run remembers beside its artifacts: its recipe, and the photographs that each stage was made with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.files import remove_partials, write_text
from deblur_deploy.data.pairs import hash_photos

_FILE = "run.json"
_FOLDERS = {"photos": "calibration", "evaluation": "evaluation"}
"""Settings that name a folder of photographs, and the split of it that is read."""


class RunRecord:
    """The record of one run directory.

    Args:
        directory: Where the run writes, and no other process does.
        recipe: The recipe's file, or None for a run that has none.

    Raises:
        ArtifactError: The directory holds the run of another recipe of the same name.
    """

    def __init__(self, directory: Path, recipe: Path | None = None) -> None:
        self._path = directory / _FILE
        self._recipe = str(recipe.resolve()) if recipe else None
        self._hashes: dict[tuple[str | None, str], str] = {}
        remove_partials(directory)
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            self._stages = dict(kept["stages"])
            before = kept["recipe"]
        except (OSError, ValueError, KeyError, TypeError):
            self._stages, before = {}, None  # there is none, or not a whole one: every stage runs again
        if isinstance(before, str) and before != self._recipe and Path(before).is_file():
            raise ArtifactError(
                f"{directory} holds the run of {before}, which is another recipe of that name",
                hint="rename one of the two recipes, or name another --runs",
            )

    def holds(self, artifact: Artifact, settings: Any) -> bool:
        """Whether an artifact was made with these settings, and with the photographs as they are now."""
        made = _without_folders(artifact.history[-1].config)
        wanted = _without_folders(json.loads(json.dumps(dataclasses.asdict(settings), default=str)))
        return made == wanted and self._stages.get(artifact.directory.name) == self._entry(artifact, settings)

    def note(self, artifact: Artifact, settings: Any) -> None:
        """Remember the photographs that an artifact has just been made with.

        Raises:
            ArtifactError: The record cannot be written.
        """
        self._stages[artifact.directory.name] = self._entry(artifact, settings)
        text = json.dumps({"recipe": self._recipe, "stages": self._stages}, indent=1) + "\n"
        write_text(self._path, text)

    def photographs(self, folder: str | None, split: Any) -> str:
        """sha256 over the photographs of a folder; each folder is read once."""
        key = (folder, split)
        if key not in self._hashes:
            self._hashes[key] = hash_photos(Path(folder) if folder else None, split)
        return self._hashes[key]

    def _entry(self, artifact: Artifact, settings: Any) -> dict[str, str]:
        tables = [settings, getattr(settings, "tuning", None)]
        hashes = [
            self.photographs(getattr(table, name), split)
            for table in tables
            for name, split in _FOLDERS.items()
            if hasattr(table, name)
        ]
        photographs = hashlib.sha256("".join(hashes).encode()).hexdigest()
        return {"written": artifact.history[-1].created, "sha256": artifact.sha256, "photographs": photographs}


def _without_folders(config: Any) -> Any:
    """Settings without the names of folders: what is in them counts, not where they are."""
    if not isinstance(config, dict):
        return config
    return {key: _without_folders(value) for key, value in config.items() if key not in _FOLDERS}
