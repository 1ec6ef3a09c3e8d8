"""The gates of ``deblur-deploy bench``: an earlier measurement, and a budget of milliseconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deblur_deploy.cli.console import Output
from deblur_deploy.core.errors import BudgetError, ConfigError

if TYPE_CHECKING:
    from deblur_deploy.bench.measure import BenchReport


@dataclass(frozen=True)
class Gates:
    """The gates that a measurement must pass.

    Args:
        baseline: JSONL file of an earlier measurement, or None.
        fail_below: Lowest speed, relative to the earlier one, that does not count as a loss.
        other_device: Whether the earlier one may be of another device.
        budget_ms: Upper limit for the fastest stable median of one frame, or None.
        res: Size of that frame, WIDTHxHEIGHT.
    """

    baseline: Path | None = None
    fail_below: float = 0.95
    other_device: bool = False
    budget_ms: float | None = None
    res: str = "640x360"

    def __post_init__(self) -> None:
        if not 0 < self.fail_below < math.inf:
            raise ConfigError(f"--fail-below is {self.fail_below:g}", hint="give a positive number, such as 0.95")
        if self.budget_ms is not None and not 0 < self.budget_ms < math.inf:
            raise ConfigError(f"--budget-ms is {self.budget_ms:g}", hint="give milliseconds, such as 15")

    def check_baseline(self, threads: int | None, output: Output) -> None:
        """Check, before minutes of measuring, whether the earlier measurement can be compared with one made here.

        Args:
            threads: Processor threads that will be used, or None for all.
            output: Where to say that it is of another device, if that is allowed.

        Raises:
            ArtifactError: The file holds no measurement.
            ConfigError: It is of another device.
        """
        if self.baseline is None:
            return
        from deblur_deploy.bench.compare import device_differences, refuse_other_device
        from deblur_deploy.bench.device import device_facts
        from deblur_deploy.bench.records import read_jsonl
        from deblur_deploy.core.threads import default_threads

        here, earlier = device_facts() | {"threads": threads or default_threads()}, read_jsonl(self.baseline)
        differences = [text for old in earlier for text in device_differences(here, old["device"])]
        if not self.other_device:
            refuse_other_device(differences, self.baseline)
        for difference in dict.fromkeys(differences):
            output.say(f"warning   {self.baseline.name} was measured on another device: {difference}")

    def judge(self, report: BenchReport, output: Output, result: dict[str, Any]) -> BudgetError | None:
        """Print what comes out, and put it into the JSON object.

        Returns:
            The first gate that was missed, or None.
        """
        from deblur_deploy.bench.compare import check_latency_budget
        from deblur_deploy.bench.records import report_records

        missed = None
        records = report_records(report)
        try:
            if self.baseline is not None:
                self._compare(records, self.baseline, output, result)
            if self.budget_ms is not None:
                rows = [record for record in records if record["res"] == self.res and record["batch"] == 1]
                check_latency_budget(rows, self.budget_ms)
        except BudgetError as err:
            missed = err
        return missed

    def _compare(self, records: list[dict[str, Any]], path: Path, output: Output, result: dict[str, Any]) -> None:
        import dataclasses

        from deblur_deploy.bench.compare import check_comparison, compare
        from deblur_deploy.bench.records import read_jsonl

        comparisons = compare(records, read_jsonl(path), self.fail_below)
        result["comparison"] = [dataclasses.asdict(row) for row in comparisons]
        output.table(
            [f"against {path.name}", "x earlier [95 %]", "", ""],
            [
                [
                    row.name,
                    f"{row.ratio:.2f} [{row.ratio_ci[0]:.2f}, {row.ratio_ci[1]:.2f}]"
                    if row.ratio and row.ratio_ci
                    else "",
                    row.verdict,
                    row.note,
                ]
                for row in comparisons
            ],
        )
        check_comparison(comparisons, self.fail_below)
