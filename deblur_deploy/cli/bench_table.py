"""``deblur-deploy bench --latency-table``: the times that pruning to a frame time needs, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.prune_command import pruning_source
from deblur_deploy.cli.prune_to_time import say_table
from deblur_deploy.config import FrameTimeConfig, PruneConfig
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.files import check_writable
from deblur_deploy.core.images import parse_resolution

NewTable = Annotated[
    Path | None,
    typer.Option(
        "--latency-table",
        help="Only measure the frame times that `prune --max-ms` needs for a float checkpoint, and write them to this "
        "JSON file; an interrupted one is completed.",
    ),
]
TableInt8 = Annotated[bool, typer.Option("--int8", help="With --latency-table: times as after `qat`.")]
TableRounding = Annotated[int, typer.Option(help="With --latency-table: as for `prune`.")]


@dataclass(frozen=True)
class TableOptions:
    """The options for a table.

    Args:
        path: The file, None where no table is asked for.
        int8: Whether frames are timed as after ``qat``.
        round_to: Widths are multiples of this.
        res: Size of the frame.
        runtimes: What is timed: one runtime, or none for OpenVINO.
    """

    path: Path | None
    int8: bool
    round_to: int
    res: str
    runtimes: Sequence[str]

    def check(self, others: bool) -> None:
        """Refuse options that a table cannot be combined with.

        Args:
            others: Whether an option of another measurement was given.

        Raises:
            ConfigError: There is such an option.
        """
        if self.path is None:
            if self.int8 or self.round_to != PruneConfig().round_to:
                raise ConfigError("--int8 and --round-to are for --latency-table", hint="give that too, or leave them")
            return
        if others:
            raise ConfigError(
                "--latency-table is a measurement of its own",
                hint="leave out all but the source, --runtime, --int8, --res, --round-to, --runs and --json",
            )
        if len(self.runtimes) > 1:
            raise ConfigError(f"--latency-table is for one runtime, not {len(self.runtimes)}", hint="name one")

    def config(self) -> FrameTimeConfig:
        """Settings of the clock; no budget is held here."""
        size = parse_resolution(self.res)
        runtime = self.runtimes[0] if self.runtimes else FrameTimeConfig(1.0).runtime
        # Which channels go makes no difference to the time: magnitude needs no pictures.
        prune = PruneConfig(round_to=self.round_to, importance="l2")
        return FrameTimeConfig(1.0, runtime, self.int8, size.width, size.height, prune)


def make_table(output: Output, sources: Sequence[str], runs: Path, options: TableOptions) -> None:
    """Time networks of a checkpoint's shapes, and write the table.

    Args:
        output: Where to print.
        sources: The checkpoint, or nothing for the newest.
        runs: Directory of all artifacts.
        options: The table; it has a path.

    Raises:
        DeblurDeployError: The network cannot be pruned, run or timed, or the file is for something else.
    """
    from deblur_deploy.compress.prune import load_float
    from deblur_deploy.compress.shaping import Shaping, TablePlace, check_table, timed_table
    from deblur_deploy.pipeline.frame_clock import FrameClock

    if len(sources) > 1:
        raise ConfigError(f"--latency-table is for one network, not {len(sources)}", hint="name one checkpoint")
    assert options.path is not None
    check_writable(options.path.parent)
    config, place = options.config(), TablePlace(options.path, is_given=True)
    artifact = pruning_source(output, Path(sources[0]) if sources else None, runs)
    with FrameClock(artifact, config) as clock, output.waiting("timing networks") as caption:
        check_table(clock, place)
        shaping = Shaping(load_float(artifact), config.prune)
        table = timed_table(shaping, clock, place, lambda done, of, ms: caption(f"{done} of {of}, {ms:.1f} ms"))
    say_table(output, table, place)
    output.emit(
        {
            "source": str(artifact.directory),
            "latency_table": str(options.path),
            "networks": len(table.timed),
            "spread": table.spread,
            "whole_ms": table.timed[0].ms,
            **dict(table.identity),
        }
    )
