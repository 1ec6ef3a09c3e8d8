"""Scenario files: a measurement, its parameters and its target, as TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claims import PublishedClaims
from compression import Compression
from distillation import Distillation
from films import Films
from frame_floor import FrameFloor
from gpu_proofs import Emulation, GpuProofs
from kernels import KernelBuild, KernelPtx, KernelSpeed
from matrix import Matrix
from max_ms import MaxMs
from measurement import Target
from measurements import Frame, HelpStart, PruneGraph, RtxBuild
from networks import Networks
from published import PublishedCosts
from reading import Reading
from real_network import RealNetwork
from search_time import SearchTime
from shipped_pair import ShippedPair
from train_step import TrainStep
from unpaired import Unpaired
from users_time import Commands, Demo, SetUp
from ways_to_prune import WaysToPrune

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.tables import from_table

Work = (
    PruneGraph
    | RtxBuild
    | HelpStart
    | Frame
    | Compression
    | KernelBuild
    | KernelPtx
    | Emulation
    | KernelSpeed
    | Matrix
    | Networks
    | PublishedCosts
    | PublishedClaims
    | ShippedPair
    | GpuProofs
    | Commands
    | FrameFloor
    | Demo
    | SetUp
    | Reading
    | TrainStep
    | RealNetwork
    | MaxMs
    | SearchTime
    | Films
    | Unpaired
    | WaysToPrune
    | Distillation
)

KINDS: Mapping[str, type[Work]] = {
    "prune-graph": PruneGraph,
    "rtx-build": RtxBuild,
    "help": HelpStart,
    "frame": Frame,
    "compression": Compression,
    "kernel-build": KernelBuild,
    "kernel-ptx": KernelPtx,
    "emulation": Emulation,
    "kernel-speed": KernelSpeed,
    "matrix": Matrix,
    "published-costs": PublishedCosts,
    "published-claims": PublishedClaims,
    "shipped-pair": ShippedPair,
    "networks": Networks,
    "gpu-proofs": GpuProofs,
    "commands": Commands,
    "frame-floor": FrameFloor,
    "demo": Demo,
    "setup": SetUp,
    "reading": Reading,
    "train-step": TrainStep,
    "real-network": RealNetwork,
    "max-ms": MaxMs,
    "search-time": SearchTime,
    "films": Films,
    "unpaired": Unpaired,
    "ways-to-prune": WaysToPrune,
    "distillation": Distillation,
}
"""Kinds of measurement by the name that scenario files use."""


@dataclass(frozen=True)
class Scenario:
    """A scenario file.

    Args:
        name: The file's name without its suffix.
        title: What is measured, in a few words.
        about: What is measured, in full.
        target: What the figure is held against.
        work: The measurement.
        since: Day or time (UTC, ISO 8601) at which a shipped generator that it measures was replaced; earlier records
            are of the one before, and are marked so.
    """

    name: str
    title: str
    about: str
    target: Target
    work: Work
    since: str


@dataclass(frozen=True)
class _ScenarioTable:
    """A scenario file as it is written."""

    title: str
    about: str
    kind: str
    target: Target
    parameters: dict[str, Any]
    since: str = ""


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        ConfigError: There is no such file, it is no TOML, or a field is unknown, missing or wrong.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.toml")))
        raise ConfigError(f"there is no scenario {path.stem!r}", hint=f"known: {known}") from err
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"{path} is not TOML: {err}", hint="mend that line") from err
    table = from_table(_ScenarioTable, content, path.name)
    if table.kind not in KINDS:
        raise ConfigError(f"{path.name} has kind {table.kind!r}", hint=f"known: {', '.join(KINDS)}")
    work: Work = from_table(KINDS[table.kind], table.parameters, f"{path.name}: parameters")
    return Scenario(path.stem, table.title, table.about, table.target, work, table.since)


def load_scenarios(root: Path) -> list[Scenario]:
    """All scenarios, by name."""
    return [load_scenario(path) for path in sorted((root / "scenarios").glob("*.toml"))]
