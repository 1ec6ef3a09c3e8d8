"""From an ONNX artifact to a TensorRT engine.

The builder runs in a process of its own (``build_child.py``), for it may abort; a crash becomes a
:class:`BuildError`. The finished engine's precision is proven (``proof.py``), and an engine that runs in another
precision than was asked for is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx

import deblur_deploy
from deblur_deploy.config import EngineConfig
from deblur_deploy.core.artifact import Artifact, Draft, hash_file, new_step, write_artifact
from deblur_deploy.core.errors import ArtifactError, BuildError, MissingDependencyError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.engine import build_child
from deblur_deploy.engine.build_child import Request
from deblur_deploy.engine.build_settings import check_plan, resolve_profiles
from deblur_deploy.engine.flavour import FlavourName, check_at_hand, choose_flavour, load_flavour
from deblur_deploy.engine.plugin import AOT_PLUGIN, NO_PLUGIN, check_plugin
from deblur_deploy.engine.proof import PrecisionProof, prove_from_list, require_precision
from deblur_deploy.engine.targets import (
    CURRENT,
    BuildTarget,
    card_at_hand,
    check_buildable,
    check_precision,
    resolve_target,
)
from deblur_deploy.graph.for_tensorrt import Handover, prepare_network, read_network
from deblur_deploy.graph.profile import Profile
from deblur_deploy.runtime.engine_fit import WEIGHTS_FIGURE, places_of
from deblur_deploy.runtime.nvidia import count_nvidia_gpus, find_gpu

_TAIL_LINES = 12
_TURING, _LARGE_ENGINE = "7.5", 10_000_000


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine and facts about it.

    Args:
        data: The serialized engine.
        flavour: The TensorRT that built it.
        flavour_version: Its version; engines load in this version only.
        network_sha256: Hash of the ONNX bytes that the builder was given.
        proof: In which type each compute node runs.
        layers: Number of layers of the finished engine, 0 if the builder did not list them.
        seconds: Wall time of the build, start of the process included.
        profiles: Ranges of shapes that it takes, where the network's sizes were free.
        plugin: The plugin that it needs or carries: ``aot``, the library's path, or ``none``.
        groups: Grouped convolutions of the network, depthwise ones included.
    """

    data: bytes
    flavour: FlavourName
    flavour_version: str
    network_sha256: str
    proof: PrecisionProof
    layers: int
    seconds: float
    profiles: tuple[Profile, ...] = ()
    plugin: str = NO_PLUGIN
    groups: int = 0


def build_engine(source: Artifact, config: EngineConfig, out: Path, *, strict: bool = True) -> Artifact:
    """Build an engine from an ONNX artifact.

    Args:
        source: An ONNX artifact; its types are the engine's.
        config: What to build for.
        out: The engine artifact's directory.
        strict: Whether an engine that is not in the precision asked for is refused.

    Raises:
        ArtifactError: ``source`` is not an ONNX artifact, or ``out`` cannot be written.
        ConfigError: No such card, or sizes that the network does not take.
        MissingDependencyError: No TensorRT is installed.
        BuildError: The network cannot be built, or the engine is not in the precision asked for.
    """
    if source.kind != "onnx":
        raise ArtifactError(
            f"{source.directory} is a {source.kind}, and engines are built from ONNX",
            hint="export it first: `deblur-deploy export-onnx`",
        )
    target = resolve_target(config.target)
    built = build_engine_bytes(source.path.read_bytes(), config, strict=strict)

    def write(path: Path) -> None:
        path.write_bytes(built.data)

    figures = _figures(built, target, config)
    if config.plan.strip_weights:
        figures[WEIGHTS_FIGURE] = places_of(source.path, out)
    step = new_step("export-trt", config, source, figures)
    image = _image_of(built, source.image)
    draft = Draft("engine", "model.engine", write, source.network, image, step, source.history)
    return write_artifact(out, draft)


def check_engine_config(config: EngineConfig) -> FlavourName:
    """Find out before any work whether an engine can be built for this card, and by what.

    Returns:
        The TensorRT that would build it.

    Raises:
        ConfigError: No such card.
        MissingDependencyError: No TensorRT is installed, or what its plugin needs.
        BuildError: The TensorRT that is installed does not build for this card, in this precision or with these
            options.
    """
    target = resolve_target(config.target)
    name = choose_flavour(config.flavour)
    check_plan(name, config.plan, has_gpu=bool(count_nvidia_gpus()))
    check_plugin(name, config.plugin)
    if name == "rtx":
        members = load_flavour(name).module.ComputeCapability.__members__
        card = card_at_hand(members) if target == CURRENT else target
        check_buildable(card, members)
        check_precision(card, config.precision)
    else:
        check_at_hand(target)
    return name


def build_engine_bytes(model_bytes: bytes, config: EngineConfig, *, strict: bool = True) -> BuiltEngine:
    """Build an engine and prove its precision.

    Args:
        model_bytes: A serialized ONNX model.
        config: What to build for.
        strict: As for :func:`build_engine`.

    Raises:
        ConfigError: No such card, or sizes that the network does not take.
        MissingDependencyError: No TensorRT is installed.
        BuildError: The network cannot be built, or the engine is not in the precision asked for.
    """
    flavour = check_engine_config(config)
    plugin = check_plugin(flavour, config.plugin)
    model = read_network(model_bytes)
    profiles = resolve_profiles(model, config.shapes)
    handover = prepare_network(model, profiles, plugin != NO_PLUGIN)
    request = _request(flavour, config, handover, plugin if handover.has_plugin else NO_PLUGIN)
    with tempfile.TemporaryDirectory(prefix="deblur-deploy-build-") as name:
        folder = Path(name)
        (folder / build_child.NETWORK).write_bytes(handover.network)
        (folder / build_child.REQUEST).write_text(json.dumps(asdict(request)), encoding="utf-8")
        start = time.perf_counter()
        version = _run_child(folder)
        seconds = time.perf_counter() - start
        said = (folder / build_child.LAYERS).read_text(encoding="utf-8")
        data = (folder / build_child.ENGINE).read_bytes()
    proof, layers = prove_from_list(said, handover.nodes)
    if strict:
        require_precision(proof, config.precision, handover.nodes)
    digest = hashlib.sha256(handover.network).hexdigest()
    return BuiltEngine(
        data, flavour, version, digest, proof, layers, seconds, profiles, request.plugin, _grouped(model)
    )


def _grouped(model: onnx.ModelProto) -> int:
    """How many convolutions of a network have groups."""
    convolutions = (node for node in model.graph.node if node.op_type == "Conv")
    return sum(attribute.name == "group" and attribute.i > 1 for node in convolutions for attribute in node.attribute)


def _request(flavour: FlavourName, config: EngineConfig, handover: Handover, plugin: str) -> Request:
    """The request to the builder's process."""
    plan = config.plan
    if plan.timing_cache is not None:
        plan = replace(plan, timing_cache=str(Path(plan.timing_cache).absolute()))
    search = (config.workspace_bytes, config.optimization_level)
    return Request(flavour, config.target, *search, handover.profiles, plan, plugin)


def _figures(built: BuiltEngine, target: BuildTarget, config: EngineConfig) -> dict[str, Any]:
    """The manifest's figures for an engine."""
    gpu = find_gpu()
    at_hand = gpu is not None and target == CURRENT
    library = None if built.plugin in (NO_PLUGIN, AOT_PLUGIN) else hash_file(Path(built.plugin))
    return {
        "target": target.name,
        "capability": gpu.capability if gpu and at_hand else target.capability,
        "flavour": built.flavour,
        "flavour_version": built.flavour_version,
        "driver_cuda": gpu.driver_cuda if gpu else None,
        "build_seconds": round(built.seconds, 2),
        "network_sha256": built.network_sha256,
        "profiles": [asdict(profile) for profile in built.profiles],
        "precision": built.proof.shares(),
        "precision_by_kind": {kind: built.proof.shares(kind) for kind in built.proof.kinds_present()},
        "compute_layers": dict(built.proof.types),
        "precision_unproven_because": built.proof.reason or None,
        "layer_macs": dict(built.proof.macs),
        "layers": built.layers,
        "plugin": "library" if library else built.plugin,
        "plugin_path": built.plugin if library else None,
        "plugin_sha256": library,
        "weights_stripped": config.plan.strip_weights,
        "version_compatible": config.plan.version_compatible,
        "hardware_compatibility": config.plan.hardware_compatibility,
        "size_because": _why_large(built, target),
    }


def _why_large(built: BuiltEngine, target: BuildTarget) -> str | None:
    """Why an engine is far larger than its network; measured: 14 bytes a pixel for every group, on Turing alone."""
    if built.flavour != "rtx" or target.capability != _TURING or len(built.data) < _LARGE_ENGINE or not built.groups:
        return None
    return (
        f"TensorRT-RTX stores the {built.groups} grouped convolutions of this network once per pixel on Turing "
        "(SM75); an engine for Ampere or later (--target portable) is a small part of it"
    )


def _image_of(built: BuiltEngine, image: ImageSpec) -> ImageSpec:
    """The engine's input: the network's pictures, of one size where it was built for one."""
    if len({profile.min for profile in built.profiles} | {profile.max for profile in built.profiles}) != 1:
        return image
    shape = built.profiles[0].max
    height, width = shape[1:3] if image.layout == "NHWC" else shape[2:4]
    return replace(image, height=height, width=width)


def _child_environment() -> dict[str, str]:
    """This process's environment, in which the package is found also where it is a checkout that is not installed."""
    here = str(Path(deblur_deploy.__file__).parents[1])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _run_child(folder: Path) -> str:
    """Run the builder's process in a prepared folder; returns the builder's version.

    If this process is interrupted, ``subprocess.run`` kills the child before it passes the interruption on.
    """
    log = folder / build_child.LOG
    with log.open("wb") as stream:
        command = [sys.executable, "-P", "-m", build_child.__name__, str(folder)]
        ended = subprocess.run(
            command, env=_child_environment(), stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, check=False
        )
    code = ended.returncode
    reply = folder / build_child.REPLY
    if code != 0 or not reply.exists():
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"stopped with exit code {code}"
        raise BuildError(
            f"the process that builds the engine {how}. The end of its log:\n{tail or '(empty)'}",
            hint="SIGKILL usually means that memory ran out; else name another --target, or report the log",
        )
    answer = build_child.Reply(**json.loads(reply.read_text(encoding="utf-8")))
    if answer.error is not None:
        message, hint = answer.error
        raise (MissingDependencyError if answer.missing else BuildError)(message, hint=hint)
    return answer.flavour_version
