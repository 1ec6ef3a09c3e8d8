"""The time that a machine's measured ceilings would take a network: its arithmetic, and its memory traffic.

It is what the network's multiply-accumulates take at the best rate that the probes reached. A runtime that needs
fewer of them (Winograd's convolutions) or computes in another type (TF32) may be faster than this floor.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from deblur_deploy.bench.ceilings import Ceilings
from deblur_deploy.bench.entries import EXTERNAL_FAILURES
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, DeblurDeployError
from deblur_deploy.core.images import Resolution
from deblur_deploy.runtime.runtimes import RUNTIMES


@dataclass(frozen=True)
class Floor:
    """A roofline's lower bound of the time of one inference.

    Args:
        gmacs: Multiply-accumulates of one inference in 10**9, by the type that they are computed in.
        bytes: What must cross the memory bus at least: weights, input and output, once each. The payload's size
            stands for the weights, half of it where float32 weights are computed with in 16 bits.
        floor_ms: The longer of both times.
        bound: Which of the two it is.
    """

    gmacs: dict[str, float]
    bytes: int
    floor_ms: float
    bound: Literal["arithmetic", "memory"]


def find_floor(gmacs: Mapping[str, float], bytes_moved: int, ceilings: Ceilings) -> Floor:
    """The floor of known work.

    Work in a type that was not probed is given the highest ceiling of all, so that the floor stays a lower bound.

    Args:
        gmacs: 10**9 multiply-accumulates by type.
        bytes_moved: Bytes that have to cross the memory bus.
        ceilings: What the machine reaches.

    Source: Williams et al., *Roofline*, CACM 52(4), 2009.
    """
    best = max(ceilings.gmacs_per_s.values())
    arithmetic_ms = sum(1000 * work / ceilings.gmacs_per_s.get(kind, best) for kind, work in gmacs.items())
    memory_ms = bytes_moved / ceilings.gb_per_s / 1e6
    bound: Literal["arithmetic", "memory"] = "arithmetic" if arithmetic_ms >= memory_ms else "memory"
    return Floor(dict(gmacs), bytes_moved, max(arithmetic_ms, memory_ms), bound)


def network_floor(artifact: Artifact, runtime: str, frame: tuple[Resolution, int], ceilings: Ceilings) -> Floor | None:
    """The floor of an artifact on a runtime.

    Args:
        artifact: A checkpoint or an ONNX file.
        runtime: What it runs on; float32 layers are computed in its precision.
        frame: Size, and number of frames in one inference.
        ceilings: Of the processor or GPU that the runtime uses.

    Returns:
        The floor, or None where the work cannot be counted.
    """
    resolution, batch = frame
    try:
        macs = _count_macs(artifact, resolution)
    except (DeblurDeployError, ModuleNotFoundError, *EXTERNAL_FAILURES):
        return None
    if not macs:
        return None
    lowered = RUNTIMES[runtime].precision
    types = {kind: lowered if kind == "fp32" else kind for kind in macs}
    gmacs = {
        types[kind]: sum(macs[other] for other in macs if types[other] == types[kind]) * batch / 1e9 for kind in macs
    }
    values = 2 * batch * 3 * resolution.height * resolution.width
    pictures = values * (1 if artifact.image.dtype == "uint8" else 4)
    weights = artifact.path.stat().st_size
    if lowered != "fp32" and set(macs) == {"fp32"}:
        weights //= 2
    return find_floor(gmacs, pictures + weights, ceilings)


def _count_macs(artifact: Artifact, resolution: Resolution) -> dict[str, int]:
    """Multiply-accumulates of one frame by type; nothing for engines, whose layers are not in the file.

    Raises:
        DeblurDeployError: The sizes are not known, or the network cannot be rebuilt.
    """
    if artifact.kind == "checkpoint":
        return {"fp32": _checkpoint_macs(artifact, resolution)}
    if artifact.kind == "onnx":
        return _onnx_macs(artifact, resolution)
    return {}


def _checkpoint_macs(artifact: Artifact, resolution: Resolution) -> int:
    from deblur_deploy.network.checkpoint import build_network
    from deblur_deploy.network.cost import count_macs

    # A quantized checkpoint computes in float what its quantizers have rounded.
    return count_macs(build_network(dataclasses.replace(artifact.network, quantization=None)), resolution)[""]


def _onnx_macs(artifact: Artifact, resolution: Resolution) -> dict[str, int]:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return _graph_macs(artifact, resolution)
    except (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ArtifactError(f"the sizes in {artifact.path} are not known: {err}", hint="export it again") from err


def _graph_macs(artifact: Artifact, resolution: Resolution) -> dict[str, int]:
    import onnx
    from onnx import inliner

    from deblur_deploy.graph.node_costs import compute_nodes

    model = inliner.inline_local_functions(onnx.load(artifact.path))
    constants = {tensor.name for tensor in model.graph.initializer}
    (picture,) = (value for value in model.graph.input if value.name not in constants)
    height, width = resolution.height, resolution.width
    sizes = (1, height, width, 3) if artifact.image.layout == "NHWC" else (1, 3, height, width)
    for dim, size in zip(picture.type.tensor_type.shape.dim, sizes, strict=True):
        dim.dim_value = size
    macs: Counter[str] = Counter()
    for node in compute_nodes(model):
        macs[node.type] += node.macs
    return dict(macs)
