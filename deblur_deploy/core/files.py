"""Files that appear whole or not at all, and the folder for what can be made again."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deblur_deploy.core.errors import ArtifactError

PARTIAL = ".partial"
"""Part of the names of files that are being written. :func:`remove_partials` removes those that a killed run left."""


@contextmanager
def whole_file(path: Path, *, follow_links: bool = False) -> Iterator[Path]:
    """A hidden file beside ``path`` to write to: put in its place in the end, when it is on the disk, or removed.

    After an error the older file stays. Folders above are made. What is not a regular file (a pipe) is given as it
    is. The hidden file ends like ``path``, for libraries that go by the suffix.

    Args:
        path: The file.
        follow_links: Where ``path`` is a link, whether it stays one, and what it leads to is replaced; else the link
            is, and what it leads to keeps its bytes.

    Raises:
        ArtifactError: The folder or file cannot be written.
    """
    partial: Path | None = None
    try:
        if path.exists() and not path.is_file():
            yield path
            return
        target = _behind_links(path) if follow_links else path
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix, suffix = f".{_shortened(target.stem)}.", f"{PARTIAL}{target.suffix}"
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=target.parent)
        os.close(handle)
        partial = Path(name)
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)  # temporary files are private
        partial.replace(target)
        partial = None
    except OSError as err:
        raise ArtifactError(f"{path} cannot be written: {err}", hint="check permissions and free space") from err
    finally:
        if partial is not None:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def _shortened(stem: str) -> str:
    """The first 80 bytes: file systems count bytes and take 255, and a part of a character is not a name on all."""
    return os.fsencode(stem)[:80].decode(errors="ignore")


def _behind_links(path: Path) -> Path:
    target = Path(os.path.realpath(path))
    if target.is_symlink():  # what is left of a loop; Path.resolve says so in other ways from one Python to the next
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, as :func:`whole_file` does; a link stays one.

    Raises:
        ArtifactError: It cannot be written; an older file stays.
    """
    with whole_file(path, follow_links=True) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_partials(folder: Path, *, below: bool = False) -> None:
    """Remove the hidden files that a killed run left; nobody else may be writing there.

    Args:
        folder: Where; it need not exist.
        below: In the folders below, too.

    Raises:
        ArtifactError: One cannot be removed.
    """
    pattern = f".*.????????{PARTIAL}*"
    try:
        for stale in folder.rglob(pattern) if below else folder.glob(pattern):
            if stale.is_file():
                stale.unlink(missing_ok=True)
    except OSError as err:
        raise ArtifactError(f"{folder} cannot be written: {err}", hint="check its permissions") from err


def check_writable(directory: Path) -> None:
    """Find out before minutes of work whether a directory can be made or written, and touch nothing.

    Raises:
        ArtifactError: It cannot, with the reason.
    """
    try:
        nearest = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(f"{nearest} is a file")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {nearest}")
    except OSError as err:
        raise ArtifactError(f"{directory} cannot be written: {err}", hint="name another directory") from err


def user_cache(name: str) -> Path:
    """The folder of one kind of thing, which may not be there yet.

    Args:
        name: What is kept, such as ``kernels``.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or _home_cache()) / "deblur-deploy" / name


@functools.cache
def _home_cache() -> Path:
    """``~/.cache``; for a user without a home, as in many containers, a folder that this process alone can use."""
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return Path(tempfile.mkdtemp(prefix="deblur-deploy-"))
