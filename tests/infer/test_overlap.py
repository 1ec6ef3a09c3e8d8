"""Reading, transforming and writing overlap, keep their order, and all end when one of them fails."""

from __future__ import annotations

import threading
import time

import pytest

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.process_memory import peak_during
from deblur_deploy.infer.memory import MemoryGate, parse_memory
from deblur_deploy.infer.overlap import overlap


def test_items_come_through_in_order():
    written: list[int] = []
    overlap(iter(range(50)), lambda item: item * item, written.append)
    assert written == [item * item for item in range(50)]


def test_the_three_work_at_the_same_time():
    """With reading, transforming and writing 20 ms each, 10 items take less than half of what they would in turn."""

    def read():
        for item in range(10):
            time.sleep(0.02)
            yield item

    started = time.perf_counter()
    overlap(read(), lambda item: time.sleep(0.02), lambda item: time.sleep(0.02))
    assert time.perf_counter() - started < 0.45


def test_reading_runs_ahead_by_a_few_items_only():
    read: list[int] = []

    def items():
        for item in range(100):
            read.append(item)
            yield item

    seen: list[int] = []

    def slow(item):
        time.sleep(0.005)
        seen.append(len(read) - item)

    overlap(items(), lambda item: item, slow)
    assert max(seen) <= 6


def fail(*_: object) -> None:
    raise ConfigError("broken", hint="mend it")


def failing_items():
    yield 1
    fail()


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("items", "transform", "consume"),
    [
        (failing_items(), lambda item: item, lambda item: None),
        (iter(range(1000)), fail, lambda item: None),
        (iter(range(1000)), lambda item: item, fail),
    ],
    ids=["reading", "transforming", "writing"],
)
def test_a_failure_anywhere_ends_it(items, transform, consume):
    before = threading.active_count()
    with pytest.raises(ConfigError, match="broken"):
        overlap(items, transform, consume)
    assert threading.active_count() == before


@pytest.mark.timeout(20)
def test_the_gate_lets_in_what_fits_and_one_that_does_not_alone():
    gate, inside, peaks = MemoryGate(10), [0], []
    lock = threading.Lock()

    def visit(size):
        assert gate.enter(size, lambda: False)
        with lock:
            inside[0] += size
            peaks.append((inside[0], size))
        time.sleep(0.002)
        with lock:
            inside[0] -= size
        gate.leave(size)

    threads = [threading.Thread(target=visit, args=(size,)) for size in [4, 5, 3, 25, 4, 6, 2, 30, 8] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(peak <= 10 or peak == size for peak, size in peaks)
    assert any(peak > size for peak, size in peaks)


def test_whoever_waits_at_the_gate_can_give_up():
    gate = MemoryGate(10)
    assert gate.enter(8, lambda: False)
    assert not gate.enter(8, lambda: True)
    gate.leave(8)
    assert gate.enter(8, lambda: True)


@pytest.mark.parametrize(
    ("text", "count"),
    [("2GB", 2_000_000_000), ("800 mb", 800_000_000), ("1.5GiB", 1_610_612_736), ("4096", 4096), ("12 B", 12)],
)
def test_amounts_of_memory(text, count):
    assert parse_memory(text) == count


@pytest.mark.parametrize("text", ["", "two", "-1GB", "0", "0.0MB", "1TB", "iB", "1iB", "1e9", "9" * 40, "٣GB"])
def test_what_is_no_amount_of_memory(text):
    with pytest.raises(ConfigError, match="is not an amount of memory"):
        parse_memory(text)


def test_the_peak_of_an_action_is_measured():
    peak = peak_during(lambda: bytearray(b"x" * 50_000_000))
    assert peak is not None
    assert 90_000_000 < peak < 130_000_000  # the bytes, and their copy in the bytearray
