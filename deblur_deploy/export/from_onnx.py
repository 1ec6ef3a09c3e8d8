"""An ONNX file from elsewhere as an artifact: it can be run, benchmarked, typed and built into an engine as it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from deblur_deploy.core.artifact import Artifact, Draft, NetworkSpec, hash_file, new_step, write_artifact
from deblur_deploy.core.errors import ArtifactError, DeblurDeployError, ExportError, first_line
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.graph.facts import write_facts
from deblur_deploy.graph.node_costs import compute_nodes, share_of_macs
from deblur_deploy.graph.padding import BATCH, HEIGHT, INPUT, OUTPUT, WIDTH
from deblur_deploy.graph.sizes import fix_sizes
from deblur_deploy.runtime.runner import open_runner

ARCH = "onnx"
"""The architecture in manifests of networks that have a graph and no code."""

_RGB = 3
_SIDES = {HEIGHT: 360, WIDTH: 640}
"""The size that figures are quoted for."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_TRIED_SIDE = 64


def import_onnx(path: Path, out: Path) -> Artifact:
    """Take an ONNX file as an artifact; its arithmetic stays as it is.

    Args:
        path: A network from RGB in [0, 1], (N, 3, H, W) float32, or from camera frames, (N, H, W, 3) uint8, to the
            same. Batch, height and width may be free. Weights in external files are included.
        out: The artifact's directory.

    Raises:
        ArtifactError: The file is missing or damaged, or takes or gives something else.
        DeblurDeployError: onnxruntime cannot run it.
    """
    model = _read(path)
    image = _image_of(model, path)
    _name_ends(model, image)
    spec = NetworkSpec(ARCH, {})
    write_facts(model, Artifact("onnx", path, hash_file(path), spec, image, ()), image)

    def write(payload: Path) -> None:
        payload.write_bytes(model.SerializeToString(deterministic=True))

    step = new_step("import", {"file": path.name, "arch": ARCH}, None, _figures(model, image))
    return write_artifact(out, Draft("onnx", "model.onnx", write, spec, image, step, measure=_tried))


def _read(path: Path) -> onnx.ModelProto:
    """The model with its weights, checked."""
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except FileNotFoundError as err:
        raise ArtifactError(f"there is no file {path}", hint="check the path") from err
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as err:
        raise ArtifactError(
            f"{path} is not a whole ONNX file: {first_line(err)}", hint="it is cut off, or its external data is missing"
        ) from err
    return model


def _ends(model: onnx.ModelProto) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto]:
    """Input and output."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ArtifactError(
            f"the graph has {len(inputs)} inputs and {len(model.graph.output)} outputs",
            hint="export it with the blurred picture as its only input and the restored one as its only output",
        )
    return inputs[0], model.graph.output[0]


def _image_of(model: onnx.ModelProto, path: Path) -> ImageSpec:
    """What the graph takes, read off its input."""
    picture, restored = _ends(model)
    kind = picture.type.tensor_type
    sizes = [dim.dim_value for dim in kind.shape.dim]  # 0 where one is free
    if len(sizes) == 4 and kind.elem_type == TensorProto.FLOAT and sizes[1] == _RGB:
        image = ImageSpec(height=sizes[2] or None, width=sizes[3] or None)
    elif len(sizes) == 4 and kind.elem_type == TensorProto.UINT8 and sizes[3] == _RGB:
        image = ImageSpec.of_frames(sizes[1] or None, sizes[2] or None)
    else:
        name = TensorProto.DataType.Name(kind.elem_type).lower()
        raise ArtifactError(
            f"{path} takes {name} of {tuple(size or '?' for size in sizes)}",
            hint="it must take (N, 3, H, W) float32, RGB in [0, 1], or (N, H, W, 3) uint8",
        )
    if restored.type.tensor_type.elem_type != kind.elem_type or (image.height is None) != (image.width is None):
        raise ArtifactError(
            f"{path} does not give what it takes, or leaves one side of the picture free",
            hint="export it with the same type at both ends, for one size or for all",
        )
    return image


def _name_ends(model: onnx.ModelProto, image: ImageSpec) -> None:
    """Call input, output and free sizes what our own files call them, in place."""
    picture, restored = _ends(model)
    names = {picture.name: INPUT, restored.name: OUTPUT}
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)} - names.keys()
    if not {INPUT, OUTPUT} & taken:
        for node in model.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        picture.name, restored.name = INPUT, OUTPUT
    axes = {0: BATCH, 1: HEIGHT, 2: WIDTH} if image.layout == "NHWC" else {0: BATCH, 2: HEIGHT, 3: WIDTH}
    for value in (picture, restored):
        dims = value.type.tensor_type.shape.dim
        for axis, name in axes.items():
            if axis < len(dims) and not dims[axis].dim_value:
                dims[axis].dim_param = name


def _figures(model: onnx.ModelProto, image: ImageSpec) -> dict[str, Any]:
    """Parameters, and where sizes can be followed, multiply-accumulates for a frame of 640x360 and their types."""
    weights = [tensor for tensor in model.graph.initializer if tensor.dims and tensor.data_type in _FLOATS]
    params = sum(math.prod(tensor.dims) for tensor in weights)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    fixed = fix_sizes(model, {BATCH: 1, **_SIDES})
    try:
        macs, shares = sum(node.macs for node in compute_nodes(fixed)), share_of_macs(fixed)
    except (ExportError, ZeroDivisionError, onnx.shape_inference.InferenceError):
        return {"params": params, "gmacs": None, "opset": opset, "precision": {}}
    height, width = (image.height or _SIDES[HEIGHT]), (image.width or _SIDES[WIDTH])
    gmacs = macs / 1e9 * math.prod(_SIDES.values()) / (height * width)
    return {"params": params, "gmacs": round(gmacs, 4), "opset": opset, "precision": shares}


def _tried(artifact: Artifact) -> dict[str, Any]:
    """Run it once: a graph that cannot run here is refused before it is imported."""
    image = artifact.image
    height, width = image.height or _TRIED_SIDE, image.width or _TRIED_SIDE
    shape = (1, height, width, _RGB) if image.layout == "NHWC" else (1, _RGB, height, width)
    with open_runner(artifact, "onnxruntime", threads=1) as runner:
        try:
            runner.infer(np.zeros(shape, dtype=image.dtype))
        except DeblurDeployError as err:
            raise ArtifactError(err.message, hint="it must give a picture of the same size") from err
    return {}
