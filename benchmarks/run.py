"""Run the benchmark scenarios, keep what they measured, and render the tables.

A scenario is a TOML file: what kind of measurement, its parameters, and the target. Each run appends one line of JSON
to ``results/<device>/<scenario>.jsonl``, raw samples included; of several lines, the last one counts.

    python benchmarks/run.py [SCENARIO...] [--device-dir NAME] [--results DIR]
                             [--photos DIR] [--weights PATH] [--pairs DIR]
    python benchmarks/run.py gpu-proofs --minutes 8 --device-dir NAME
    python benchmarks/run.py --render

It runs from a checkout that is not installed too, and of the libraries needs only those of the scenarios that it runs.

Exit codes: 0 every target met, 1 a scenario could not run, 2 bad usage, 3 a target was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import checkout  # noqa: F401 - puts the package on the path
from gpu_proofs import GpuProofs
from measurement import Measurement
from rendering import describe_outcome, render
from scenario import Scenario, load_scenario, load_scenarios

from deblur_deploy.bench.device import device_facts
from deblur_deploy.core.errors import ConfigError, DeblurDeployError
from deblur_deploy.core.files import whole_file
from deblur_deploy.data.pairs import sharp_files

ROOT = Path(__file__).parent
EXIT_FAILED, EXIT_USAGE, EXIT_MISSED = 1, 2, 3


@dataclass(frozen=True)
class Destination:
    """Where and for how long scenarios run.

    Args:
        results: Directory of this device.
        minutes: How long one that is measured in steps may take; None where there is no haste.
    """

    results: Path
    minutes: float | None = None


def run_scenario(scenario: Scenario, destination: Destination) -> dict[str, Any]:
    """Measure, and append the record to ``<scenario>.jsonl``.

    Of a scenario that is measured in steps there is a whole record after each of them, so that nothing is lost where it
    is ended; the next step's takes its place.

    Args:
        scenario: What to measure.
        destination: Where and for how long.

    Returns:
        The record.

    Raises:
        DeblurDeployError: The scenario cannot run here; nothing is recorded.
    """
    load_before, record = round(os.getloadavg()[0], 2), dict[str, Any]()
    path = destination.results / f"{scenario.name}.jsonl"
    earlier = path.read_text(encoding="utf-8") if path.exists() else ""
    for found in _measure(scenario, destination.minutes):
        record = _record(scenario, found, load_before)
        with whole_file(path) as partial:
            partial.write_text(earlier + json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    return record


def _measure(scenario: Scenario, minutes: float | None) -> Iterator[Measurement]:
    work = scenario.work
    if isinstance(work, GpuProofs):
        yield from work.measure_in_steps(minutes)
    else:
        yield work.measure()


def _record(scenario: Scenario, found: Measurement, load_before: float) -> dict[str, Any]:
    """A line of a results file."""
    parameters = asdict(scenario.work)
    given = [name for name in _PLACES if parameters.get(name)]
    for name in given:  # where they lie on this machine is nobody's business
        parameters[name] = _contents(name, parameters[name])
    figure = round(found.figure, 6)
    device = device_facts()
    return {
        "scenario": scenario.name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python benchmarks/run.py {scenario.name}" + "".join(f" --{name} DIR" for name in given),
        "figure": figure,
        "unit": found.unit,
        "target": {key: value for key, value in asdict(scenario.target).items() if value is not None},
        "met": scenario.target.is_met(figure),
        "stable": found.stable,
        "note": found.note,
        "parameters": parameters,
        "versions": {"python": device.pop("python"), **device.pop("libraries")},
        "device": device | {"load_average_before": load_before},
        "details": found.details,
        "samples_ms": found.samples_ms,
    }


_PLACES = ("weights", "pairs", "photos")
"""What scenarios can be given: a checkpoint, blurred and sharp pictures, sharp photographs to tune on."""


def _contents(name: str, place: Path) -> str:
    """What lies at a place, without the place."""
    return f"{len(sharp_files(place, 'calibration'))} photographs" if name == "photos" else place.name


def place(scenario: Scenario, places: Mapping[str, Path]) -> Scenario:
    """The scenario with what the user has given it.

    Raises:
        ConfigError: It takes nothing of that kind.
    """
    for name in places:
        if not hasattr(scenario.work, name):
            raise ConfigError(
                f"{scenario.name} takes no --{name}",
                hint="compression takes --photos, films --pairs, unpaired both, real-network and max-ms all three",
            )
    return replace(scenario, work=replace(scenario.work, **places))


def device_directory(facts: Mapping[str, Any]) -> str:
    """Name of a machine's directory: its processor and number of cores, such as ``intel-xeon-processor-2-cores``."""
    name = re.sub(r"\((r|tm|c)\)|@.*", " ", str(facts["cpu"]).lower())
    slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-") or "unknown"
    return f"{slug}-{facts['cores']}-core{'s' if facts['cores'] != 1 else ''}"


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Run scenarios or render the tables.

    Args:
        arguments: What follows the script on the command line.
        root: Directory of ``scenarios/``, ``results/`` and ``README.md``.

    Returns:
        The exit code.
    """
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what can go on later saves its state
    try:
        if options.render:
            (root / "README.md").write_text(render(root), encoding="utf-8")
            return 0
        named = [load_scenario(root / "scenarios" / f"{name}.toml") for name in options.scenario]
        scenarios = named or load_scenarios(root)
        places = {name: given for name in _PLACES if (given := getattr(options, name))}
        scenarios = [place(scenario, places) for scenario in scenarios]
        directory = options.device_dir or device_directory(device_facts())
        if not re.fullmatch(r"\w[\w.-]*", directory):
            raise ConfigError(f"--device-dir is {directory!r}", hint="give a plain name such as ryzen-9-16-cores")
        if options.minutes is not None and not 0 < options.minutes < 24 * 60:
            raise ConfigError(f"--minutes is {options.minutes:g}", hint="give a number of minutes, such as 8")
    except DeblurDeployError as err:
        print(f"Error: {err}", file=sys.stderr)
        return EXIT_USAGE if isinstance(err, ConfigError) else EXIT_FAILED
    destination = Destination((options.results or root / "results") / directory, options.minutes)
    return max([_run_and_tell(scenario, destination) for scenario in scenarios], default=0)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks/run.py", description="Run benchmark scenarios and record the figures.")
    parser.add_argument("scenario", nargs="*", help="names of scenario files; without any, all of them")
    parser.add_argument("--device-dir", metavar="NAME", help="directory under results/ instead of the processor's name")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where to put that directory")
    parser.add_argument("--minutes", type=float, metavar="M", help="how long gpu-proofs may take altogether")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="sharp photographs to tune on")
    parser.add_argument("--weights", type=Path, metavar="PATH", help="checkpoint of a published network")
    parser.add_argument("--pairs", type=Path, metavar="DIR", help="blurred and sharp pictures to evaluate on")
    parser.add_argument("--render", action="store_true", help="run nothing, write README.md from the recorded results")
    return parser.parse_args(arguments)


def _run_and_tell(scenario: Scenario, destination: Destination) -> int:
    """Run one scenario, print the outcome, and return its exit code; the scenarios after it run in any case."""
    print(f"{scenario.name}: {scenario.title} …", file=sys.stderr)
    try:
        record = run_scenario(scenario, destination)
    except DeblurDeployError as err:
        print(f"Error: {scenario.name} cannot run here, nothing is recorded: {err}", file=sys.stderr)
        return EXIT_FAILED
    for row in record["details"].get("proofs", ()):
        print(f"{row['verdict']:>8}  {row['claim']}: {row['found']}")
    print(f"{scenario.name}: {describe_outcome(record)} ({record['note']})")
    return 0 if record["met"] else EXIT_MISSED


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
