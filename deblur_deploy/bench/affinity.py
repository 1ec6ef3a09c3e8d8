"""Keeping a measurement on the same processor cores from its first sample to its last."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from deblur_deploy.core.threads import choose_cores


@contextmanager
def pinned(threads: int) -> Iterator[list[int]]:
    """Keep the whole process on as many cores as a measurement has threads, and let it go again.

    Linux pins threads, not processes: those that exist are pinned one by one, those that are started inside the
    context inherit it.

    Args:
        threads: Processor threads of the measurement.

    Yields:
        The cores (see :func:`~deblur_deploy.core.threads.choose_cores`); nothing where the system does not pin.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield []
        return
    allowed, cores = os.sched_getaffinity(0), choose_cores(threads)
    _pin_all_threads(set(cores))
    try:
        yield cores
    finally:
        _pin_all_threads(allowed)


def _pin_all_threads(cores: Set[int]) -> None:
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that has ended meanwhile
            os.sched_setaffinity(int(task.name), cores)
