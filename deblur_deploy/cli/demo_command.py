"""``deblur-deploy demo``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from deblur_deploy.artifact import load_artifact, shipped_generator
from deblur_deploy.cli.console import Output
from deblur_deploy.cli.export_trt_command import report_engine
from deblur_deploy.cli.options import RUNS, Json, Runs


def command(
    source: Annotated[
        Path | None, typer.Argument(help="Float checkpoint artifact. Left out: the shipped generator.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of your own sharp photographs, at least 640x360. Left out: the shipped ones."),
    ] = None,
    target: Annotated[str, typer.Option(help="Card to build the engine for.")] = "RTX 2080 Ti",
    quick: Annotated[bool, typer.Option("--quick", help="The same road with short fine-tuning and timing.")] = False,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Prune, quantize, export, build and time a generator on real photographs; a second run goes on where it was."""
    from deblur_deploy.cli.findings import HEADINGS, measure_latency, measure_quality, summary_rows, write_summary
    from deblur_deploy.cli.journey import DemoConfig, travel

    output = Output(as_json)
    started = time.perf_counter()
    artifact = load_artifact(source) if source else shipped_generator()
    config = DemoConfig(target=target, photos=str(images) if images else None)
    config = config.quick() if quick else config
    directory = runs / ("demo-quick" if quick else "demo")
    output.say(f"source    {artifact.directory}")

    journey = travel(artifact, config, directory, output)
    quality = measure_quality(journey, config, directory, output)
    bench = measure_latency(journey, config, directory, output)
    rows = summary_rows(journey, quality, bench)
    output.say("")
    output.table(HEADINGS, rows)
    output.say("")
    output.say(f"blurred input {quality['blurred_db']:.2f} dB, mean of {quality['images']} photographs")
    if images is not None and not (images / "set.toml").is_file():
        output.say("note      tuned and evaluated on the same photographs (a set.toml would split them)")
    for row in bench["results"]:
        if row["skipped"]:
            output.say(f"skipped   {Path(row['artifact']).name} on {row['runtime']}: {row['skipped']}")
    report_engine(output, journey.engine)
    output.say(f"          {journey.engine.path}")
    output.say(f"pictures  {directory / 'pictures'}")
    write_summary(directory / "summary.md", rows, quality)
    output.say(f"table     {directory / 'summary.md'}")
    output.say(f"finished in {time.perf_counter() - started:.0f} s")
    output.emit({"rows": [dict(zip(HEADINGS, row, strict=True)) for row in rows], "quality": quality, "bench": bench})
