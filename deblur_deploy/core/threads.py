"""How many threads to compute with, on which cores, and how they wait for each other.

Libraries start one thread for each core of the machine. In a container, under ``taskset`` or beside another busy
process that is too many: threads that share a core wait for each other in turn. A measurement stays on the same cores
from its first sample to its last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_STAT = Path("/proc/stat")

SHARED = 0.5
"""Cores that others keep busy from which on the machine counts as shared."""

_LEAST_WATCH_S = 0.1
"""Ten of the ticks of 10 ms that Linux counts in."""

_BUSY_FIELDS = (0, 1, 2, 5, 6, 7)
"""Of a line of ``/proc/stat`` (see ``man 5 proc``): user, nice, system, irq, softirq, steal."""


def usable_cores() -> int:
    """Processor cores that this process may use, which in a container may be fewer than there are.

    A quota of processor time (``docker run --cpus``) counts like so many cores, rounded up.
    """
    quota = _quota()
    allowed = len(_allowed_cpus())
    return allowed if quota is None else max(1, min(allowed, -int(-quota // 1)))


def default_threads() -> int:
    """Threads to compute with by default: one for each usable core, hyper-threads of one core counted once.

    ``OMP_NUM_THREADS`` is a smaller number that the user has set for all libraries.
    """
    cores = len({_siblings(cpu) for cpu in _allowed_cpus()})
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(cores, usable_cores(), int(wanted) if wanted.isdecimal() and int(wanted) else cores)


def choose_cores(threads: int) -> list[int]:
    """Cores for so many threads: as many as there are, one hyper-thread of each core before the second of any.

    Args:
        threads: At least 1.

    Returns:
        Numbers of logical processors, in ascending order; nothing where the system does not say.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    rank: dict[int, int] = {}
    taken: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = _siblings(cpu)
        rank[cpu] = taken[siblings] = taken.get(siblings, -1) + 1
    return sorted(sorted(rank, key=lambda cpu: (rank[cpu], cpu))[:threads])


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait, in libraries that are loaded from now on.

    By default they spin. With a second busy process on the same cores, a spinning thread holds the core that the thread
    it waits for needs: PyTorch on two cores became 10 to 25 times slower. ``OMP_WAIT_POLICY`` of the user stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def waits_passively() -> bool:
    """Whether threads of this process are to sleep while they wait."""
    return os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"


class BusyWatch:
    """Watches from its making on how many of the usable cores other processes keep busy."""

    def __init__(self) -> None:
        self._ticks = _busy_ticks()
        self._started, self._own = time.perf_counter(), time.process_time()

    def busy_cores(self, at_least_s: float = _LEAST_WATCH_S) -> float | None:
        """How many there were in the mean.

        Args:
            at_least_s: Shortest time to watch; the rest of it is slept.

        Returns:
            Between 0 and the number of usable cores; None where the system does not say.
        """
        if self._ticks is None:
            return None
        time.sleep(max(0.0, self._started + at_least_s - time.perf_counter()))
        ticks = _busy_ticks()
        watched, ours = time.perf_counter() - self._started, time.process_time() - self._own
        assert ticks is not None
        busy = (ticks - self._ticks) / os.sysconf("SC_CLK_TCK")
        return max(0.0, busy - ours) / watched

    def yield_if_shared(self) -> None:
        """Wait passively from now on where others keep half a core busy; to be called before libraries are loaded."""
        if not waits_passively() and (self.busy_cores() or 0.0) >= SHARED:
            wait_passively()


def _busy_ticks() -> int | None:
    """Clock ticks for which the usable cores have not been idle since the machine was started."""
    try:
        lines = _STAT.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    names = {f"cpu{cpu}" for cpu in _allowed_cpus()}
    rows = (line.split() for line in lines)
    return sum(int(row[1 + field]) for row in rows if row and row[0] in names for field in _BUSY_FIELDS)


def _allowed_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _siblings(cpu: int) -> str:
    """A name for the core that a logical processor is part of."""
    try:
        return (_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def _quota() -> float | None:
    """Cores' worth of time that the process's control groups give it, or None where there is no limit."""
    return min(_quotas(), default=None)


def _quotas() -> Iterator[float]:
    """The limits of the process's control group and of those around it, of cgroup version 2 or 1."""
    with suppress(OSError, ValueError):
        for line in _OWN_CGROUP.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = _CGROUPS / controllers if controllers else _CGROUPS
            group = root / path.lstrip("/")
            for folder in (group, *group.parents):
                yield from _limit(folder)
                if folder == root:
                    break


def _limit(folder: Path) -> Iterator[float]:
    """The limit that a control group sets, if it sets one."""
    with suppress(OSError, ValueError):
        given, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        if given != "max":
            yield int(given) / int(period)
    with suppress(OSError, ValueError):
        given, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        if int(given) > 0:
            yield int(given) / int(period)


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
