"""Progress where there is no terminal: a line now and then."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from deblur_deploy.cli import console
from deblur_deploy.cli.console import CountedProgress, Output, waiting_lines


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_every_ten_seconds_says_step_rate_and_time_left() -> None:
    clock, lines = Clock(), []
    progress = CountedProgress(lines.append, "pruning", clock)
    for step in range(1, 41):
        clock.now = step * 0.5
        progress.show(step, 160, f"loss {step}")
    assert lines == ["pruning: 20/160, 2/s, 1:10 left, loss 20", "pruning: 40/160, 2/s, 1:00 left, loss 40"]


def test_a_run_that_goes_on_is_not_taken_for_a_fast_one() -> None:
    clock, lines = Clock(), []
    progress = CountedProgress(lines.append, "training", clock)
    clock.now = 30.0
    progress.show(5001, 9001)
    clock.now = 50.0
    progress.show(5011, 9001)
    assert lines == ["training: 5001/9001", "training: 5011/9001, 0.5/s, 133:00 left"]


def test_nothing_is_said_of_what_is_soon_done() -> None:
    clock, lines = Clock(), []
    progress = CountedProgress(lines.append, "evaluating", clock)
    clock.now = 9.9
    progress.show(10, 10)
    assert lines == []


def test_a_wait_without_steps_is_told_by_the_clock() -> None:
    lines: list[str] = []
    with waiting_lines(lines.append, "measuring", every_s=0.01) as caption:
        caption("window 1")
        while len(lines) < 2:
            time.sleep(0.005)
    told = len(lines)
    time.sleep(0.05)
    assert len(lines) == told
    assert lines[-1] == "measuring: window 1, 0:00 so far"


@pytest.mark.parametrize("terminal", [False, True])
def test_logs_get_lines_and_terminals_bars(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr(console, "EVERY_S", 0.0)
    output, written = Output(), io.StringIO()
    output.console = Console(file=written, force_terminal=terminal, width=200)
    with output.tuning("pruning") as on_step:
        on_step(1, 4, 0.25)
        on_step(2, 4, 0.125)
    with output.counting("evaluating", 4) as on_image:
        on_image(1)
    assert ("pruning: 2/4" in written.getvalue()) is not terminal
    assert ("evaluating: 1/4" in written.getvalue()) is not terminal
