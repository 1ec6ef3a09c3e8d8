"""What there is to do: which files of what was named, and where each result goes."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.files import PARTIAL
from deblur_deploy.infer.film_suffixes import FILM_SUFFIXES
from deblur_deploy.infer.picture import FORMATS

DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})

Kind = Literal["picture", "video", "dicom"]

_SUFFIX_OF = {"png": ".png", "jpg": ".jpg", "jpeg": ".jpg", "tif": ".tif", "tiff": ".tif", "webp": ".webp"} | {
    "avif": ".avif",
    "bmp": ".bmp",
}


@dataclass(frozen=True)
class Job:
    """One file to restore.

    Args:
        source: The file.
        target: Where its result goes.
        name: What it is called in reports: its path below the folder that was named.
        obstacle: Why it must not be restored, or None.
    """

    source: Path
    target: Path
    name: str
    obstacle: ConfigError | None = None

    @property
    def kind(self) -> Kind:
        """What the file is, going by its suffix."""
        suffix = self.source.suffix.lower()
        return "video" if suffix in FILM_SUFFIXES else "dicom" if suffix in DICOM_SUFFIXES else "picture"


def parse_format(text: str) -> tuple[str, str]:
    """Pillow's name of a format, and the suffix of its files, from what the user calls it, such as ``jpg``.

    Raises:
        ConfigError: There is no such format.
    """
    suffix = _SUFFIX_OF.get(text.lower().removeprefix("."))
    if suffix is None:
        raise ConfigError(f"there is no format {text!r}", hint=f"choose one of {', '.join(sorted(_SUFFIX_OF))}")
    return FORMATS[suffix], suffix


def find_jobs(inputs: Sequence[Path], out: Path, pattern: str | None = None, suffix: str | None = None) -> list[Job]:
    """List what is to be done, in the order in which it was named; folders recursively, sorted by name.

    Args:
        inputs: Files and folders.
        out: Folder for the results; files of folders keep their path below the folder.
        pattern: Takes of folders only files whose name, or path below the folder, matches, such as ``*.png``.
        suffix: Suffix for pictures, instead of their own.

    Raises:
        ArtifactError: An input is missing, or a folder holds nothing that fits.
        ConfigError: Results would be written over inputs or over each other.
    """
    jobs: list[Job] = []
    for given in inputs:
        if given.is_dir():
            jobs += _folder_jobs(given, out, pattern, suffix)
        elif given.exists():
            jobs.append(_job(given, out, given.name, suffix))
        else:
            raise ArtifactError(f"there is no {given}", hint="check the path")
    _check_targets(jobs)
    return jobs


def _folder_jobs(folder: Path, out: Path, pattern: str | None, suffix: str | None) -> list[Job]:
    check_apart(folder, out)
    jobs = [_job(path, out, str(path.relative_to(folder)), suffix) for path in inputs_under(folder, out, pattern)]
    if not jobs:
        wanted = f"files that match {pattern!r}" if pattern else "pictures or videos"
        raise ArtifactError(f"{folder} holds no {wanted}", hint="check the path and --pattern")
    return jobs


def check_apart(folder: Path, out: Path) -> None:
    """Refuse to write the results of a folder into the folder itself.

    Raises:
        ConfigError: They are the same.
    """
    if folder.resolve() == out.resolve():
        raise ConfigError(f"--out is the input folder {folder}", hint="name another folder: inputs are never replaced")


def inputs_under(folder: Path, out: Path, pattern: str | None) -> Iterator[Path]:
    """Files of a folder that can be restored, sorted; not hidden ones, nor what lies in ``out``."""
    results = out.resolve()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        if results in path.resolve().parents:
            continue
        if _known(path) and (pattern is None or _matches(relative, pattern)):
            yield path


def folder_job(folder: Path, path: Path, out: Path, suffix: str | None) -> Job:
    """The job for one file of a folder."""
    return _job(path, out, str(path.relative_to(folder)), suffix)


def _known(path: Path) -> bool:
    suffix = path.suffix.lower()
    return (suffix in FORMATS or suffix in FILM_SUFFIXES or suffix in DICOM_SUFFIXES) and PARTIAL not in path.suffixes


def _matches(relative: Path, pattern: str) -> bool:
    return fnmatch.fnmatchcase(relative.name, pattern) or fnmatch.fnmatchcase(str(relative), pattern)


def _job(source: Path, out: Path, name: str, suffix: str | None) -> Job:
    target = out / name
    job = Job(source, target, name)
    return Job(source, target.with_suffix(suffix), name) if suffix and job.kind == "picture" else job


def _check_targets(jobs: Sequence[Job]) -> None:
    targets = Targets()
    inputs = {job.source.resolve() for job in jobs}
    for job in jobs:
        if (conflict := targets.conflict(job, inputs)) is not None:
            raise conflict


class Targets:
    """Which result comes from which file, so that none is written over an input or over another."""

    def __init__(self) -> None:
        self._sources: dict[Path, Path] = {}

    def conflict(self, job: Job, inputs: Set[Path]) -> ConfigError | None:
        """What stands against a job, or None, and then its result is its file's from now on.

        Args:
            job: The job.
            inputs: Every input, resolved.
        """
        target = Path(os.path.realpath(job.target))  # Path.resolve fails on loops of links in Python 3.11
        if target in inputs:
            return ConfigError(
                f"the result of {job.source} would be written over the input {target}",
                hint="name another folder with --out: inputs are never replaced",
            )
        if (other := self._sources.setdefault(target, job.source)) != job.source:
            return ConfigError(
                f"{other} and {job.source} would both be written to {job.target}",
                hint="run them one after the other with different --out",
            )
        return None
