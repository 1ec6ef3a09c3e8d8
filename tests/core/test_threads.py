"""How many threads to compute with, and on which cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deblur_deploy.core import threads
from deblur_deploy.core.threads import BusyWatch, choose_cores, default_threads, usable_cores, wait_passively

LINUX_ONLY = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")


@pytest.fixture
def _no_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "_OWN_CGROUP", tmp_path / "absent")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., None]:
    """A machine made of files: for each logical processor, those that share its core."""
    request.getfixturevalue("_no_limits")

    def build(*siblings: str) -> None:
        for cpu, names in enumerate(siblings):
            folder = tmp_path / f"cpu{cpu}" / "topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(f"{names}\n")
        monkeypatch.setattr(threads, "_CPUS", tmp_path)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(len(siblings))), raising=False)

    return build


def test_hyper_threads_of_a_core_count_once(machine: Callable[..., None]) -> None:
    machine("0-1", "0-1", "2-3", "2-3")
    assert usable_cores() == 4
    assert default_threads() == 2
    assert choose_cores(1) == [0]
    assert choose_cores(2) == [0, 2]
    assert choose_cores(3) == [0, 1, 2]
    assert choose_cores(9) == [0, 1, 2, 3]


@pytest.mark.usefixtures("_no_limits")
def test_a_system_without_affinity_has_all_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(threads, "_CPUS", Path("/absent"))
    assert usable_cores() == default_threads() == 3
    assert choose_cores(2) == []


@pytest.mark.parametrize(("said", "expected"), [("2", 2), ("9", 3), ("2,1", 2), ("0", 3), ("many", 3), ("", 3)])
def test_the_users_number_of_openmp_threads_counts_where_it_is_smaller(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, said: str, expected: int
) -> None:
    machine("0", "1", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert default_threads() == expected


QUOTAS: list[tuple[str, dict[str, str], int]] = [
    ("0::/", {"cpu.max": "150000 100000"}, 2),
    ("0::/", {"cpu.max": "max 100000"}, 4),
    ("0::/", {"cpu.max": "20000 100000"}, 1),
    ("0::/pods/one", {"pods/cpu.max": "300000 100000", "pods/one/cpu.max": "max 100000"}, 3),
    ("0::/pods/one", {"pods/one/cpu.max": "nonsense"}, 4),
    ("4:cpu,cpuacct:/box", {"cpu,cpuacct/box/cpu.cfs_quota_us": "200000"}, 2),
    ("4:cpu,cpuacct:/box", {"cpu,cpuacct/box/cpu.cfs_quota_us": "-1"}, 4),
    ("9:memory:/box", {"memory/box/cpu.max": "100000 100000"}, 4),
    ("nonsense", {}, 4),
]


@pytest.mark.parametrize("quota", QUOTAS, ids=str)
def test_a_containers_share_of_time_counts_as_cores(
    machine: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    quota: tuple[str, dict[str, str], int],
) -> None:
    own, files, expected = quota
    machine("0", "1", "2", "3")
    groups = tmp_path / "groups"
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(f"{text}\n")
        (groups / name).with_name("cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "own").write_text(f"{own}\n")
    monkeypatch.setattr(threads, "_CGROUPS", groups)
    monkeypatch.setattr(threads, "_OWN_CGROUP", tmp_path / "own")
    assert usable_cores() == default_threads() == expected


@LINUX_ONLY
def test_threads_follow_the_cores_that_the_process_may_use() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        "from deblur_deploy.core.threads import choose_cores, default_threads, usable_cores\n"
        f"import os; os.sched_setaffinity(0, {{{one}}})\n"
        "print(usable_cores(), default_threads(), choose_cores(4))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == f"1 1 [{one}]"


@LINUX_ONLY
@pytest.mark.usefixtures("_no_limits")
def test_another_process_that_computes_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            seen = BusyWatch().busy_cores(1.0)
        finally:
            busy.kill()
    assert seen is not None
    assert 0.3 < seen <= usable_cores() + 0.2


def test_where_the_system_does_not_say_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "_STAT", tmp_path / "absent")
    assert BusyWatch().busy_cores() is None


def stat_lines(busy: int, idle: int) -> str:
    return "".join(f"{name} {busy} 0 0 {idle} 0 0 0 0 0 0\n" for name in ("cpu ", *(f"cpu{n}" for n in range(64))))


@pytest.mark.parametrize(("ticks", "policy"), [(0, None), (100_000, "PASSIVE")])
def test_threads_sleep_while_they_wait_only_where_others_compute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ticks: int, policy: str | None
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(threads, "_STAT", tmp_path / "stat")
    (tmp_path / "stat").write_text(stat_lines(5, 5))
    watch = BusyWatch()
    (tmp_path / "stat").write_text(stat_lines(5 + ticks, 9))
    watch.yield_if_shared()
    assert os.environ.get("OMP_WAIT_POLICY") == policy


def test_waiting_asleep_is_a_default_and_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
