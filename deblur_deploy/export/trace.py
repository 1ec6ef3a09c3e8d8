"""Tracing a generator into an ONNX graph, at one size or for all of them.

torch's TorchScript exporter does it, which is the one that knows fake-quantization modules. The deformable convolution
comes out as a ``deblur::DeformConv2d`` node.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from torch.onnx.errors import OnnxExporterError
from torch.utils._python_dispatch import TorchDispatchMode

from deblur_deploy.core.errors import ExportError, first_line
from deblur_deploy.core.images import Resolution
from deblur_deploy.export.symbolics import own_symbolics
from deblur_deploy.graph.deform_op import OPSET
from deblur_deploy.graph.edit import run_passes
from deblur_deploy.graph.operators import DOMAIN
from deblur_deploy.graph.padding import BATCH, HEIGHT, PADDED, UNCROPPED, WIDTH
from deblur_deploy.network.deform_conv import DeformConv2d
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.plain_attention import plain_attention
from deblur_deploy.network.srn import SRN
from deblur_deploy.network.steps import STEP_INPUTS, STEP_OUTPUTS, flow_size
from deblur_deploy.network.temporal import TemporalStep, state_shape
from deblur_deploy.network.users_code import told

_SMALLEST_TRACE = 32
"""Pixels of the shorter side of a trace that holds for every size. Of fewer, reflection pads by more than there
are, and windows are larger than the picture."""

_NETWORK_ERRORS = (RuntimeError, MemoryError, ValueError, IndexError, TypeError, AssertionError)
"""What a network raises that does not take a picture, and what the exporter raises besides its own errors."""

_FREE = {0: BATCH, 2: f"padded_{HEIGHT}", 3: f"padded_{WIDTH}"}


def trace(net: Generator, size: Resolution) -> onnx.ModelProto:
    """The graph of a generator at one size, which its pyramid divides.

    Returns:
        A model with input ``padded`` and output ``uncropped``, (1, 3, H, W) float32, without positions in the source.

    Raises:
        ExportError: The size takes more memory than there is, or the network cannot be traced.
    """
    return _trace(net, torch.zeros(1, 3, size.height, size.width), {})


def trace_any_size(net: Generator) -> onnx.ModelProto:
    """The graph of a generator for every batch, height and width that its pyramid divides.

    It is traced twice, at different sizes: a graph that holds for every size is the same both times.

    Returns:
        As :func:`trace`, with batch, height and width free.

    Raises:
        ExportError: The network cannot be traced, or it writes the size that it was traced at into its graph.
    """
    height, width = net.padded_size(_SMALLEST_TRACE, _SMALLEST_TRACE)
    axes = {PADDED: _FREE, UNCROPPED: _FREE}
    first = _trace(net, torch.zeros(2, 3, 2 * height, 3 * width), axes)
    second = _trace(net, torch.zeros(3, 3, 4 * height, 2 * width), axes)
    if first.SerializeToString(deterministic=True) != second.SerializeToString(deterministic=True):
        raise ExportError(
            f"{net.arch} computes with its input's size as a plain number, so its graph holds for one size only",
            hint="export it without --dynamic for the size that is needed: --res 640x360",
        )
    return first


class _LastScale(nn.Module):
    """The generator without padding: what is left is static once the input's size is."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.training = net.training  # the exporter puts everything inside back into this mode

    def forward(self, blurred: Tensor) -> Tensor:
        estimates: list[Tensor] = self.net.forward_scales(blurred)  # type: ignore[operator]
        return estimates[-1]


def trace_steps(net: SRN, size: Resolution) -> onnx.ModelProto:
    """The graph of a temporal network for frames of one size, padding included.

    Returns:
        A model with the inputs and outputs of :class:`~deblur_deploy.network.temporal.TemporalStep`, named by
        :data:`STEP_INPUTS` and :data:`STEP_OUTPUTS`, float32.

    Raises:
        ExportError: The size takes more memory than there is.
    """
    small = flow_size(size.height, size.width)
    shapes = [
        *[(1, 3, size.height, size.width)] * 2,
        state_shape(net.config, size.height, size.width),
        (1, 2, *small),
        (1, 1, *small),
    ]
    tensors = tuple(torch.zeros(shape) for shape in shapes)
    return _trace(net, tensors[0], {}, _Traced(TemporalStep(net), tensors, STEP_INPUTS, STEP_OUTPUTS))


@dataclass(frozen=True)
class _Traced:
    """What is traced: a module with example tensors, and what its inputs and outputs are called."""

    module: nn.Module
    tensors: tuple[Tensor, ...]
    inputs: tuple[str, ...] = (PADDED,)
    outputs: tuple[str, ...] = (UNCROPPED,)


def _trace(
    net: Generator, frame: Tensor, axes: dict[str, dict[int, str]], traced: _Traced | None = None
) -> onnx.ModelProto:
    said: list[str] = []
    try:
        model = _run_exporter(traced or _Traced(_LastScale(net), (frame,)), axes, said)
    except OnnxExporterError as err:
        raise _refused(err, said, one_size=not axes) from err
    except _NETWORK_ERRORS as err:
        reason = first_line(err)
        size = Resolution(frame.shape[3], frame.shape[2])
        short = isinstance(err, MemoryError) or "memory" in reason or "alloc" in reason
        if not short and (calls := _calls_in(net, frame)) is not None:
            raise _not_written(err, calls) from err
        hint = (
            "tracing runs the network once, and memory is short: give a smaller --res"
            if short
            else "the network has to work at this size: give a larger --res, or import it with --multiple-of N"
        )
        raise ExportError(f"the network cannot be traced at {size}: {reason}", hint=hint) from err
    run_passes(model, ClearMetadataAndDocStringPass())  # they outweigh the INT8 weights of an unrolled network
    return model


def _refused(err: OnnxExporterError, said: list[str], *, one_size: bool) -> ExportError:
    """The error for an operator that the exporter does not support, with its place in the network's code.

    Args:
        err: What it raised.
        said: What it printed: the traced graph, a line for each operator with its place in the source behind a #.
        one_size: Whether the graph was to hold for one size only.
    """
    text = " ".join(str(err).split())
    named = re.search(r"operator '?((?:aten::|prim::)?\w+)", text)
    operator = named[1].removeprefix("aten::").removeprefix("prim::") if named else ""
    where = _place_of(operator, said)
    if not operator:
        reason, _, value = text.partition(" [Caused by")
        place = re.search(r" # (\S+:\d+):\d+", value)
        where = f" ({place[1]})" if place and f"{os.sep}torch{os.sep}" not in place[1] else ""
        hint = _REWRITE if one_size else f"export it for one size, without --dynamic: --res 640x360; or {_REWRITE}"
        return ExportError(f"the network cannot be written as ONNX{where}: {reason[:_LONGEST_REASON]}", hint=hint)
    reason = "" if "is not supported" in text else f": {text.partition(' Please feel free')[0][:_LONGEST_REASON]}"
    return ExportError(f"ONNX has no form for {operator}, which the network uses{where}{reason}", hint=_REWRITE)


def _not_written(err: Exception, calls: Mapping[str, str]) -> ExportError:
    """The error where the network runs, and what writes one of its operators as ONNX fails.

    The exporter has a function for every operator, named as it, in modules that are named by opset.

    Args:
        err: What it raised.
        calls: By operator, where the network calls it first.
    """
    frames = traceback.extract_tb(err.__traceback__)
    writers = [frame.name for frame in frames if Path(frame.filename).name.startswith("symbolic_opset")]
    if not writers:
        return ExportError(f"the network runs, but cannot be written as ONNX: {told(err)}", hint=_REWRITE)
    where = f" ({calls[writers[0]]})" if writers[0] in calls else ""
    text = f"ONNX has no form for {writers[0]} as the network uses it{where}: {first_line(err).strip()}"
    return ExportError(text, hint=_REWRITE)


def _place_of(operator: str, said: list[str]) -> str:
    """Where the source of the network has an operator, in brackets behind a space; empty where it is not known."""
    lines = [line for output in said for line in output.splitlines() if f"::{operator}(" in line and " # " in line]
    places = [place[1] for line in lines if (place := re.search(r" # (\S+:\d+):\d+$", line))]
    own = [place for place in places if f"{os.sep}torch{os.sep}" not in place] or places
    return f" ({own[0]})" if own else ""


def _calls_in(net: Generator, picture: Tensor) -> dict[str, str] | None:
    """By operator, the line of the network that calls it first; None where the network does not take the picture."""
    calls: dict[str, str] = {}

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            operator = func._schema.name.split("::")[-1]
            if operator not in calls:
                lines = [
                    line for line in traceback.extract_stack()[:-1] if f"{os.sep}torch{os.sep}" not in line.filename
                ]
                calls[operator] = f"{lines[-1].filename}:{lines[-1].lineno}"
            return func(*args, **(kwargs or {}))

    try:
        with torch.no_grad(), Watch():  # type: ignore[no-untyped-call]
            net.forward_scales(picture)
    except _NETWORK_ERRORS:
        return None
    return calls


_REWRITE = "write that line with other operators, or restore with the checkpoint itself, which runs in PyTorch"
_LONGEST_REASON = 300


def _run_exporter(traced: _Traced, axes: dict[str, dict[int, str]], said: list[str]) -> onnx.ModelProto:
    net = traced.module
    buffer = io.BytesIO()
    quiet = _exporter_prints_into(said)
    with own_symbolics(), warnings.catch_warnings(), torch.no_grad(), plain_attention(), quiet:
        # The exporter is deprecated, and warns of each Python number it freezes: at a fixed size all are meant to be,
        # and two traces at different sizes show any that is not.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            traced.tensors,
            buffer,  # type: ignore[arg-type]  # a file object is taken too
            input_names=list(traced.inputs),
            output_names=list(traced.outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            custom_opsets={DOMAIN: 1} if any(isinstance(layer, DeformConv2d) for layer in net.modules()) else {},
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


@contextlib.contextmanager
def _exporter_prints_into(said: list[str]) -> Iterator[None]:
    """While open, what the exporter prints to standard output, which may be for JSON, goes into a list."""
    printed = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *texts: said.append(" ".join(map(str, texts)))
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            yield
    finally:
        torch._C._jit_onnx_log = printed
        said.append(output.getvalue())
