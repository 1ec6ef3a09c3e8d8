"""How long a search for a frame time takes, and how true its predictions are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from max_ms import LEAST_CERTAIN, PRECISIONS, search_note
from measurement import Measurement
from time_contest import TimeContest

from deblur_deploy.config import FrameTimeConfig
from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.sources import shipped

_HEADINGS = ("precision", "networks", "table s", "scan s", "solution s", "predictions off", "at worst")


@dataclass(frozen=True)
class SearchTime:
    """The table of frame times of a shipped generator, its scan, and the solution, in FP32 and INT8.

    Args:
        source: Name of a shipped generator.
        budgets: For how many budgets it is solved, and predictions are held against measurements.
        runtime: What frames are timed in.
        resolution: Size of the frame.
    """

    source: str
    budgets: int
    runtime: str
    resolution: Resolution

    def measure(self) -> Measurement:
        """Seconds of the slower search: table, scan and one solution, as `prune --max-ms` does them.

        Raises:
            DeblurDeployError: The network cannot be pruned or timed.
        """
        from deblur_deploy.pipeline.frame_clock import FrameClock

        source = load_artifact(shipped("models") / self.source)
        searches: dict[str, dict[str, Any]] = {}
        for precision in PRECISIONS:
            size = self.resolution
            config = FrameTimeConfig(1.0, self.runtime, precision == "int8", size.width, size.height)
            with TemporaryDirectory() as folder, FrameClock(source, config) as clock:
                contest = TimeContest(source, config, clock, Path(folder) / "table.json")
                searches[precision] = contest.searched(self.budgets)
        whole = {precision: sum(found["seconds"].values()) for precision, found in searches.items()}
        rows = [_cells(precision, found) for precision, found in searches.items()]
        details = {"searches": searches, "table": {"headings": _HEADINGS, "rows": rows}}
        note = "; ".join(f"{precision}: {search_note(found)}" for precision, found in searches.items())
        stable = all(found["spread"] <= LEAST_CERTAIN for found in searches.values())
        return Measurement(max(whole.values()), "s", {}, note, details, stable)


def _cells(precision: str, found: dict[str, Any]) -> list[str]:
    seconds = [f"{found['seconds'][name]:.1f}" for name in ("table", "scan", "solve")]
    errors = [f"{found['error'][name]:.1%}" for name in ("median", "worst")]
    return [precision, str(found["networks"]), *seconds, *errors]
