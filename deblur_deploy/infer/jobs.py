"""The jobs of a run: which files are restored, and where each result goes."""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.files import PARTIAL
from deblur_deploy.core.film_suffixes import FILM_SUFFIXES, is_film_name
from deblur_deploy.core.formats import describe_suffixes, format_of_suffix, is_picture, suffixes
from deblur_deploy.infer.done_log import DONE_LOG

DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})

Kind = Literal["picture", "video", "dicom"]

EARLIER_RESULTS = "results of an earlier run"
"""What files below a folder with a done log are counted as."""

BROKEN_LINKS, NO_FILES = "broken links", "pipes and devices"
"""What is counted so that has the suffix of a picture or film, but nothing to read at once."""


@dataclass(frozen=True)
class Job:
    """One file to restore.

    Args:
        source: The file.
        target: Where its result goes.
        name: What it is called in reports: its path below the folder that was named.
        conflict: Why it is not restored, or None: its result would be written over another file.
        found: What the file is, where its suffix does not say.
    """

    source: Path
    target: Path
    name: str
    conflict: ConfigError | None = None
    found: Kind | None = None

    @property
    def kind(self) -> Kind:
        """What the file is, going by its suffix."""
        if self.found is not None:
            return self.found
        suffix = self.source.suffix.lower()
        return "video" if suffix in FILM_SUFFIXES else "dicom" if suffix in DICOM_SUFFIXES else "picture"


def parse_format(text: str) -> tuple[str, str]:
    """Pillow's name and the suffix of a format that the user names, such as ``jpg``.

    Raises:
        ConfigError: There is no such format.
    """
    row = format_of_suffix(f".{text.removeprefix('.')}")
    if row is None:
        choices = ", ".join(sorted(suffix[1:] for suffix in suffixes()))
        raise ConfigError(f"there is no format {text!r}", hint=f"choose one of {choices}")
    return row.name, row.suffixes[0]


def find_jobs(
    inputs: Sequence[Path],
    out: Path,
    pattern: str | None = None,
    suffix: str | None = None,
    passed: Counter[str] | None = None,
) -> list[Job]:
    """List the jobs in the order in which their files were named; folders recursively, sorted by name.

    Args:
        inputs: Files and folders.
        out: Folder for the results; files of folders keep their path below the folder.
        pattern: Takes only those files of folders whose name, or path below the folder, matches, such as ``*.png``;
            case is ignored.
        suffix: Suffix for pictures, instead of their own.
        passed: Counts by suffix the files of folders that were passed over.

    Returns:
        The jobs, with a conflict where the result would be written over an input or another result.

    Raises:
        ArtifactError: An input is missing, or a folder holds nothing that fits.
        ConfigError: Results would be written into an input folder itself.
    """
    jobs: list[Job] = []
    passed = Counter() if passed is None else passed
    for given in inputs:
        if given.is_dir():
            jobs += _folder_jobs(given, out, (pattern, suffix), passed)
        elif given.exists():
            jobs.append(_named_job(given, out, suffix))
        else:
            raise ArtifactError(f"there is no {given}", hint="check the path")
    return _without_conflicts(jobs)


def _named_job(given: Path, out: Path, suffix: str | None) -> Job:
    if _is_known(given) or not _is_film(given):
        return _job(given, out, given.name, suffix)
    return Job(given, out / given.name, given.name, found="video")


def _folder_jobs(folder: Path, out: Path, choice: tuple[str | None, str | None], passed: Counter[str]) -> list[Job]:
    check_apart(folder, out)
    pattern, suffix = choice
    others: Counter[str] = Counter()
    found = list(inputs_under(folder, out, pattern, others))
    passed.update(others)
    if not found:
        wanted = f"files that match {pattern!r}" if pattern else "pictures or videos"
        holds = f", only {describe_suffixes(others)}" if others else ""
        raise ArtifactError(f"{folder} holds no {wanted}{holds}", hint="check the path and --pattern")
    return [_job(path, out, str(path.relative_to(folder)), suffix) for path in found]


def check_apart(folder: Path, out: Path) -> None:
    """Refuse to write the results of a folder into the folder itself.

    Raises:
        ConfigError: They are the same.
    """
    if folder.resolve() == out.resolve():
        raise ConfigError(f"--out is the input folder {folder}", hint="name another folder: inputs are never replaced")


def inputs_under(folder: Path, out: Path, pattern: str | None, passed: Counter[str] | None = None) -> Iterator[Path]:
    """Files of a folder that can be restored, sorted, without hidden files and results.

    Results are the files in ``out`` and below any folder with a done log. ``folder`` itself may have one: the user
    named it.

    Args:
        folder: The folder.
        out: Where results go.
        pattern: As in :func:`find_jobs`.
        passed: Likewise.
    """
    results = out.resolve()
    earlier = {log.parent for log in folder.rglob(DONE_LOG) if log.parent != folder}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or path.is_dir():
            continue
        if results in path.resolve().parents or PARTIAL in path.suffixes:
            continue
        if not path.is_file():
            kind = NO_FILES if path.exists() else BROKEN_LINKS
        elif not earlier.isdisjoint(path.parents):
            kind = EARLIER_RESULTS
        elif _is_known(path):
            if pattern is None or _matches(relative, pattern):
                yield path
            continue
        else:
            kind = path.suffix.lower()
        if passed is not None:
            passed[kind] += 1


def folder_job(folder: Path, path: Path, out: Path, suffix: str | None) -> Job:
    """The job for one file of a folder."""
    return _job(path, out, str(path.relative_to(folder)), suffix)


def _is_known(path: Path) -> bool:
    return is_picture(path) or is_film_name(path) or path.suffix.lower() in DICOM_SUFFIXES


def _is_film(path: Path) -> bool:
    """Whether a file with an unknown suffix is a film; never without PyAV."""
    try:
        from deblur_deploy.infer.film.source import is_film
    except ModuleNotFoundError:
        return False
    return is_film(path)


def _matches(relative: Path, pattern: str) -> bool:
    wanted = pattern.lower()
    return any(fnmatch.fnmatchcase(text.lower(), wanted) for text in (relative.name, str(relative)))


def _job(source: Path, out: Path, name: str, suffix: str | None) -> Job:
    target = out / name
    job = Job(source, target, name)
    return Job(source, target.with_suffix(suffix), name) if suffix and job.kind == "picture" else job


def _without_conflicts(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, with a conflict where the result would be written over an input or another result."""
    inputs = {job.source.resolve() for job in jobs}
    sources: dict[Path, list[Path]] = {}
    for job in jobs:
        sources.setdefault(_behind(job.target), []).append(job.source)
    checked = []
    for job in jobs:
        others = [source for source in sources[_behind(job.target)] if source != job.source]
        conflict = _over_input(job, inputs) or (_over_each_other(job, others[0]) if others else None)
        checked.append(replace(job, conflict=conflict))
    return checked


def _behind(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve fails on loops of links in Python 3.11


def _over_input(job: Job, inputs: Set[Path]) -> ConfigError | None:
    target = _behind(job.target)
    if target not in inputs:
        return None
    return ConfigError(
        f"the result of {job.source} would be written over the input {target}",
        hint="name another folder with --out: inputs are never replaced",
    )


def _over_each_other(job: Job, other: Path) -> ConfigError:
    return ConfigError(
        f"{other} and {job.source} would both be written to {job.target}",
        hint="run them one after the other with different --out",
    )


class Targets:
    """Which result comes from which file, so that none is written over an input or over another."""

    def __init__(self) -> None:
        self._sources: dict[Path, Path] = {}

    def conflict(self, job: Job, inputs: Set[Path]) -> ConfigError | None:
        """The conflict of a job; or None, and then its result belongs to its file from now on.

        Args:
            job: The job.
            inputs: Every input, resolved.
        """
        if (conflict := _over_input(job, inputs)) is not None:
            return conflict
        other = self._sources.setdefault(_behind(job.target), job.source)
        return _over_each_other(job, other) if other != job.source else None
