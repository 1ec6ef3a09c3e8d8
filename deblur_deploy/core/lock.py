"""Locks that keep two processes from writing one directory.

They are POSIX record locks: the system drops them with the process that holds them, however it ends, so that a killed
run leaves nothing behind that would stop the next; and the processes that it had started do not inherit them. A file
system that knows no such locks refuses them; there, a directory is written without one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deblur_deploy.core.errors import ArtifactError

_TAKEN = frozenset({errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN})
_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})


@dataclass
class _Held:
    """A lock of this process: how often it was asked for, and whether the file system knows locks."""

    count: int
    is_sure: bool


_held: dict[Path, _Held] = {}
"""By lock file: a command holds its directory for as long as it runs, and so does the stage that it calls."""


class DirectoryInUseError(ArtifactError):
    """Another process is writing the directory."""


@contextlib.contextmanager
def locked(directory: Path, *, inside: bool = False) -> Iterator[bool]:
    """Keep other processes from writing a directory, which need not exist.

    The lock is a file beside it, ``.NAME.lock``, that names the process. Folders that had to be made for it are removed
    again in the end if nothing else came into them. One process may lock a directory more than once.

    Args:
        directory: What is going to be written.
        inside: Put the lock into the directory, as ``.lock``: for one that stays and whose files are written one by
            one, such as a mounted one, beside which nothing may be written.

    Returns:
        A context whose value is whether no other process can be in it: False where there are no such locks.

    Raises:
        DirectoryInUseError: Another process holds it; the message names that process.
        ArtifactError: The lock cannot be written.
    """
    whole = directory.resolve()
    path = whole / ".lock" if inside else whole.parent / f".{whole.name}.lock"
    if held := _held.get(path):
        held.count += 1
        try:
            yield held.is_sure
        finally:
            held.count -= 1
        return
    made: list[Path] = []
    try:
        handle, is_sure = _acquire(path, directory, made)
        try:
            _held[path] = _Held(1, is_sure)
            yield is_sure
        finally:
            del _held[path]
            with contextlib.suppress(OSError):
                path.unlink()  # before it is let go: whoever opened it meanwhile sees that it is gone
            os.close(handle)
    finally:
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _acquire(path: Path, directory: Path, made: list[Path]) -> tuple[int, bool]:
    """Open and lock the file; folders that were made for it are added to ``made``.

    Returns:
        The open file, and whether the file system knows locks.
    """
    try:
        while True:
            try:
                _make_folders(path.parent, made)
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:  # another process has just removed a folder that it had made
                continue
            is_sure = _lock(handle, path, directory)
            if is_sure is not None:
                return handle, is_sure
            os.close(handle)
    except OSError as err:
        raise ArtifactError(f"{directory} cannot be written: {err}", hint="check permissions and free space") from err


def _make_folders(folder: Path, made: list[Path]) -> None:
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(exist_ok=True)
        made.append(missing)


def _lock(handle: int, path: Path, directory: Path) -> bool | None:
    """Lock an open file and write into it who holds it.

    Returns:
        Whether the file system knows locks; None where the file was removed by its last holder meanwhile.
    """
    is_sure = True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        if err.errno in _TAKEN:
            os.close(handle)
            raise _in_use(directory, path) from err
        if err.errno not in _UNSUPPORTED:
            os.close(handle)
            raise
        is_sure = False
    try:
        if not os.path.samestat(os.fstat(handle), path.stat()):
            return None
    except FileNotFoundError:
        return None
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps({"pid": os.getpid(), "command": shlex.join(sys.argv)}).encode(), 0)
    return is_sure


def _in_use(directory: Path, path: Path) -> DirectoryInUseError:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        process = f"process {holder['pid']} ({holder['command']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just taken the lock, or let it go
        process = "another process"
    return DirectoryInUseError(
        f"{directory} is in use by {process}", hint="wait until that has ended, or name another directory"
    )
