"""A Triton Inference Server model repository: the network, its configuration, and a client to begin with."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Literal

import onnx

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError, ExportError
from deblur_deploy.graph.padding import INPUT, OUTPUT

Device = Literal["auto", "cpu", "gpu"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TYPES = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.UINT8: "TYPE_UINT8",
}
_ANY_SIZE = -1
_VERSION = "1"


@dataclass(frozen=True)
class TritonConfig:
    """How Triton serves a network.

    Args:
        name: Its name for clients.
        device: Where it runs: on the graphics cards, on the processor, or wherever Triton chooses.
        instances: How many copies of it run at the same time on each device.
        max_batch: Largest batch that Triton may gather from several requests; only for a graph whose batch is free. 0
            leaves requests as they come.
    """

    name: str = "deblur"
    device: Device = "auto"
    instances: int = 1
    max_batch: int = 0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name is {self.name!r}", hint="give letters, digits, - and _, such as deblur")
        if self.device not in ("auto", "cpu", "gpu"):
            raise ConfigError(f"device is {self.device!r}", hint="choose auto, cpu or gpu")
        if self.instances < 1:
            raise ConfigError(f"instances is {self.instances}", hint="give 1 or more")
        if self.max_batch < 0:
            raise ConfigError(f"max_batch is {self.max_batch}", hint="give 0 for none, or 2 and more")


@dataclass(frozen=True)
class Tensor:
    """An input or output of the network as Triton's configuration names it.

    Args:
        name: Name in the graph.
        data_type: Triton's name of its type.
        dims: Its shape; -1 for any size.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]


def export_triton(source: Artifact, config: TritonConfig, out: Path) -> Path:
    """Write a model repository, with a client and a README beside it.

    Args:
        source: An ONNX artifact, or an engine of the full TensorRT.
        config: How it is served.
        out: Directory to make: ``models`` for ``tritonserver --model-repository``, ``client.py`` and ``README.md``.

    Returns:
        The model repository.

    Raises:
        ArtifactError: ``source`` is of another kind, or ``out`` is not empty or cannot be written.
        ConfigError: Batches are asked for, and the network takes one picture at a time; or it takes the frame before.
        ExportError: The graph's input or output has a type that is not served.
    """
    if source.image.state is not None:
        raise ConfigError(
            f"{source.directory} takes the frame before, and Triton's models here keep nothing between requests",
            hint="export the network without --temporal",
        )
    tensors = tensors_of(source)
    text = model_config(source, tensors, config)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(f"{out} is there already", hint="name another directory with --out, or remove it")
    staging: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".staging", dir=out.parent))
        version = staging / "models" / config.name / _VERSION
        version.mkdir(parents=True)
        shutil.copyfile(source.path, version / _file_name(source))
        (version.parent / "config.pbtxt").write_text(text, encoding="utf-8")
        for name in ("client.py", "README.md"):
            (staging / name).write_text(_filled(name, source, tensors, config), encoding="utf-8")
        staging.chmod(0o755)
        staging.replace(out)
    except OSError as err:
        raise ArtifactError(f"{out} cannot be written: {err}", hint="check permissions and free space") from err
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return out / "models"


def tensors_of(source: Artifact) -> tuple[Tensor, Tensor]:
    """The network's input and output: of an ONNX file as its graph has them, of an engine as it was exported.

    Raises:
        ArtifactError: ``source`` is neither, or an engine of TensorRT-RTX or without its weights.
        ExportError: The graph has not one input and one output of a type that is served.
    """
    if source.kind == "engine":
        if source.figures.get("flavour") != "tensorrt":
            raise ArtifactError(
                f"{source.path} is an engine of TensorRT-RTX, which Triton has no backend for",
                hint="give the ONNX artifact, or an engine built with --flavour tensorrt",
            )
        if source.figures.get("weights_stripped"):
            raise ArtifactError(
                f"{source.path} was built without its weights, and Triton does not put them in",
                hint="build it again without --strip-weights",
            )
        kind, shape = "TYPE_UINT8" if source.image.dtype == "uint8" else "TYPE_FP32", _engine_dims(source)
        return Tensor(INPUT, kind, shape), Tensor(OUTPUT, kind, shape)
    if source.kind != "onnx":
        raise ArtifactError(
            f"{source.path} is of kind {source.kind}, and Triton serves ONNX files and TensorRT engines",
            hint="run `deblur-deploy export-onnx` first",
        )
    graph = onnx.load(source.path, load_external_data=False).graph
    constants = {value.name for value in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ExportError(
            f"{source.path} has {len(inputs)} inputs and {len(graph.output)} outputs",
            hint="export it with `deblur-deploy export-onnx`",
        )
    return _tensor(inputs[0], source), _tensor(graph.output[0], source)


def _engine_dims(source: Artifact) -> tuple[int, ...]:
    """Shape of an engine's input: the sizes that all profiles share, and -1 for those that they leave free."""
    profiles = source.figures.get("profiles") or ()
    if profiles:
        shapes = [profile[end] for profile in profiles for end in ("min", "max")]
        return tuple(sizes[0] if len(set(sizes)) == 1 else _ANY_SIZE for sizes in zip(*shapes, strict=True))
    size = (source.image.height or _ANY_SIZE, source.image.width or _ANY_SIZE)
    return (1, *size, 3) if source.image.layout == "NHWC" else (1, 3, *size)


def _tensor(value: Any, source: Artifact) -> Tensor:
    kind = value.type.tensor_type
    if kind.elem_type not in _TYPES:
        name = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise ExportError(
            f"{source.path}: {value.name} is of type {name}", hint="export it with float or uint8 pictures"
        )
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else _ANY_SIZE for dim in kind.shape.dim)
    return Tensor(value.name, _TYPES[kind.elem_type], dims)


def model_config(source: Artifact, tensors: Sequence[Tensor], config: TritonConfig) -> str:
    """The text of ``config.pbtxt`` (Triton's ``ModelConfig`` message in protobuf's text format).

    Raises:
        ConfigError: Batches are asked for, and the network takes one picture at a time.
    """
    batched = config.max_batch > 0
    if batched and any(tensor.dims[0] != _ANY_SIZE for tensor in tensors):
        raise ConfigError(
            f"max_batch is {config.max_batch}, and {source.path} takes one picture at a time",
            hint="leave it out, or serve a graph whose batch is free; more --instances run side by side",
        )
    most = max((profile["max"][0] for profile in source.figures.get("profiles") or ()), default=config.max_batch)
    if source.kind == "engine" and config.max_batch > most:
        raise ConfigError(
            f"max_batch is {config.max_batch}, and {source.path} takes at most {most} pictures",
            hint=f"give {most}, or build the engine with --batch 1-{config.max_batch}",
        )
    lines = [
        f'name: "{config.name}"',
        f'backend: "{"tensorrt" if source.kind == "engine" else "onnxruntime"}"',
        f'default_model_filename: "{_file_name(source)}"',
        f"max_batch_size: {config.max_batch}",
    ]
    for role, tensor in zip(("input", "output"), tensors, strict=True):
        dims = tensor.dims[1:] if batched else tensor.dims  # Triton puts the batch in front itself
        lines.append(f'{role} [{{ name: "{tensor.name}" data_type: {tensor.data_type} dims: {list(dims)} }}]')
    lines.append(f"instance_group [{{ count: {config.instances} kind: KIND_{config.device.upper()} }}]")
    if batched:
        lines.append("dynamic_batching { }")
    return "\n".join(lines) + "\n"


def _file_name(source: Artifact) -> str:
    """The file names that Triton's backends expect."""
    return "model.plan" if source.kind == "engine" else "model.onnx"


def _filled(name: str, source: Artifact, tensors: Sequence[Tensor], config: TritonConfig) -> str:
    """One of the texts of ``triton_files``, about this network."""
    template = (files("deblur_deploy.export") / "triton_files" / f"{name}.txt").read_text(encoding="utf-8")
    facts = {
        "name": config.name,
        "input": tensors[0].name,
        "output": tensors[1].name,
        "file": _file_name(source),
        "shape": "x".join("any" if size == _ANY_SIZE else str(size) for size in tensors[0].dims),
        "data_type": tensors[0].data_type,
        "sha256": source.sha256,
    }
    return Template(template).substitute(facts)
