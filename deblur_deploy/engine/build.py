"""From an ONNX artifact to a TensorRT engine.

The builder runs in a process of its own (``build_child.py``), for it may abort; a crash becomes a
:class:`BuildError`. The finished engine's precision is proven (``proof.py``), and an engine that runs in another
precision than was asked for is refused.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner

from deblur_deploy.artifact import Artifact, Draft, new_step, write_artifact
from deblur_deploy.config import EngineConfig
from deblur_deploy.engine import build_child
from deblur_deploy.engine.build_child import Request
from deblur_deploy.engine.flavour import FlavourName, choose_flavour, load_flavour
from deblur_deploy.engine.proof import Proof, parse_layers, prove_precision, require_precision
from deblur_deploy.engine.targets import check_buildable, resolve_target
from deblur_deploy.errors import ArtifactError, BuildError, MissingDependencyError
from deblur_deploy.network.onnx_cost import compute_nodes

_TAIL_LINES = 12


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine and what is known about it.

    Args:
        data: The serialized engine.
        flavour: The TensorRT that built it.
        flavour_version: Its version; engines load in this version only.
        network_sha256: Hash of the ONNX bytes that were handed to the builder.
        proof: In which type each compute node runs.
        layers: Number of layers of the finished engine, 0 if the builder did not list them.
        seconds: Wall time of the build, start of the process included.
    """

    data: bytes
    flavour: FlavourName
    flavour_version: str
    network_sha256: str
    proof: Proof
    layers: int
    seconds: float


def build_engine(source: Artifact, config: EngineConfig, out: Path) -> Artifact:
    """Build an engine from an ONNX artifact.

    Args:
        source: An ONNX artifact; its types are the engine's.
        config: What to build for.
        out: The engine artifact's directory.

    Raises:
        ArtifactError: ``source`` is no ONNX artifact, or ``out`` cannot be written.
        ConfigError: No such card.
        MissingDependencyError: No TensorRT is installed.
        BuildError: The network cannot be built, or the engine is not in the precision asked for.
    """
    if source.kind != "onnx":
        raise ArtifactError(
            f"{source.directory} is a {source.kind}, and engines are built from ONNX",
            hint="export it first: `deblur-deploy export-onnx`",
        )
    target = resolve_target(config.target)
    built = build_engine_bytes(source.path.read_bytes(), config)
    figures = {
        "target": target.name,
        "capability": target.capability,
        "flavour": built.flavour,
        "flavour_version": built.flavour_version,
        "build_seconds": round(built.seconds, 2),
        "network_sha256": built.network_sha256,
        "precision": built.proof.shares(),
        "compute_layers": dict(built.proof.types),
        "layer_macs": dict(built.proof.macs),
        "layers": built.layers,
    }

    def write(path: Path) -> None:
        path.write_bytes(built.data)

    step = new_step("export-trt", config, source, figures)
    draft = Draft("engine", "model.engine", write, source.network, source.image, step, source.history)
    return write_artifact(out, draft)


def check_engine_config(config: EngineConfig) -> FlavourName:
    """Find out before any work whether an engine can be built for this card, and by what.

    Returns:
        The TensorRT that would build it.

    Raises:
        ConfigError: No such card.
        MissingDependencyError: No TensorRT is installed.
        BuildError: The TensorRT that is installed does not build for this card.
    """
    target = resolve_target(config.target)
    name = choose_flavour(config.flavour)
    if name == "rtx":
        check_buildable(target, load_flavour(name).module.ComputeCapability.__members__)
    return name


def build_engine_bytes(model_bytes: bytes, config: EngineConfig) -> BuiltEngine:
    """Build an engine and prove its precision.

    Args:
        model_bytes: A serialized ONNX model with fixed sizes.
        config: What to build for.

    Raises:
        ConfigError: No such card.
        MissingDependencyError: No TensorRT is installed.
        BuildError: The network cannot be built, or the engine is not in the precision asked for.
    """
    flavour = check_engine_config(config)
    model = _prepare(model_bytes)
    network = model.SerializeToString(deterministic=True)
    request = Request(flavour, config.target, config.workspace_bytes, config.optimization_level)
    with tempfile.TemporaryDirectory(prefix="deblur-deploy-build-") as name:
        folder = Path(name)
        (folder / build_child.NETWORK).write_bytes(network)
        (folder / build_child.REQUEST).write_text(json.dumps(asdict(request)), encoding="utf-8")
        start = time.perf_counter()
        version = _run_child(folder)
        seconds = time.perf_counter() - start
        layers = parse_layers((folder / build_child.LAYERS).read_text(encoding="utf-8"))
        data = (folder / build_child.ENGINE).read_bytes()
    proof = prove_precision(layers, compute_nodes(model))
    require_precision(proof, config.precision)
    return BuiltEngine(data, flavour, version, hashlib.sha256(network).hexdigest(), proof, len(layers), seconds)


def _prepare(model_bytes: bytes) -> onnx.ModelProto:
    """The network as the builder gets it: local functions inlined, every node with a name of its own.

    TensorRT's parser reads the attributes that a local function hands to a convolution as if they were not there.
    """
    try:
        model = onnx.load_from_string(model_bytes)
        onnx.checker.check_model(model)
        flat = inliner.inline_local_functions(model)
    except (DecodeError, onnx.checker.ValidationError, UnicodeDecodeError) as err:
        # UnicodeDecodeError: the checker quotes a damaged name.
        hint = "make the ONNX file again: `deblur-deploy export-onnx`"
        raise BuildError(f"the file is not a valid ONNX network: {' '.join(str(err).split())}", hint=hint) from err
    for value in flat.graph.input:
        if not all(dim.dim_value for dim in value.type.tensor_type.shape.dim):
            hint = "export the network for one size: `deblur-deploy export-onnx --res 640x360`"
            raise BuildError(f"the sizes of input {value.name!r} are not fixed", hint=hint)
    names: set[str] = set()
    for node in flat.graph.node:
        if not node.name or node.name in names:
            node.name = node.output[0]
        names.add(node.name)
    return flat


def _run_child(folder: Path) -> str:
    """Run the builder's process in a prepared folder; returns the builder's version.

    If this process is interrupted, ``subprocess.run`` kills the child before it passes the interruption on.
    """
    log = folder / "build.log"
    with log.open("wb") as stream:
        command = [sys.executable, "-P", "-m", build_child.__name__, str(folder)]
        code = subprocess.run(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, check=False).returncode
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
