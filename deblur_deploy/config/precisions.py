"""Every precision that an engine can be asked for: one row each, which all that depends on it reads.

A new precision is a converter, a function that writes its types into an ONNX network, and a row here.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

from deblur_deploy.core.lazy import load_named


@dataclass(frozen=True, kw_only=True)
class PrecisionRow:
    """A precision.

    Args:
        onnx_type: ONNX's name of the type that layers with weights compute in, such as ``FLOAT16``.
        converter: ``module:function`` that takes a float32 network, name patterns of nodes and names of outputs that
            stay float32, and gives the network in its types; that of quantized networks leaves them as they are.
        stage: The stage that writes such a file, which is then for engines of this precision alone; None where the
            types are those of ``export-onnx``.
        quantization: The format of ``qat`` that a network needs, or None for float networks.
        first_capability: The first compute capability on which TensorRT-RTX runs convolutions in it.
        without_it: What TensorRT-RTX would do on an earlier card, as the end of a sentence.
        takes_quantized: Whether a quantized network can be written in it, its quantizers dropped.
        runs_on_cpu: Whether onnxruntime runs such a file on a processor, so that its quality can be measured.
        help: What it is, for the command line.
        hint: What to do where an engine was to be in it and is not.
        tone: Its colour in charts.
        words: What TensorRT calls it, in lower case.
    """

    onnx_type: str
    converter: str
    help: str
    hint: str
    stage: str | None = None
    quantization: str | None = None
    first_capability: tuple[int, int] = (0, 0)
    without_it: str = ""
    takes_quantized: bool = False
    runs_on_cpu: bool = True
    tone: Literal["accent", "soft", "quiet"] = "soft"
    words: tuple[str, ...] = ()


_RETYPE = "deblur_deploy.graph.retype"

PRECISIONS: MutableMapping[str, PrecisionRow] = {
    "fp16": PrecisionRow(
        onnx_type="FLOAT16",
        converter=f"{_RETYPE}:convert_to_fp16",
        stage="to-fp16",
        takes_quantized=True,
        help="Layers in float16. This is what is built by default.",
        hint="an engine has the types of its ONNX file: `deblur-deploy export-trt --fp16` writes float16 into it first",
        words=("half", "fp16"),
    ),
    "bf16": PrecisionRow(
        onnx_type="BFLOAT16",
        converter=f"{_RETYPE}:convert_to_bf16",
        stage="to-bf16",
        first_capability=(8, 0),
        without_it=", which has no such arithmetic",
        runs_on_cpu=False,
        help="Layers in bfloat16, on Ampere and later.",
        hint="an engine has the types of its ONNX file; build it with --fp16 or --fp32",
        words=("bfloat16", "bf16"),
    ),
    "int8": PrecisionRow(
        onnx_type="INT8",
        converter=f"{_RETYPE}:as_exported",
        quantization="int8",
        first_capability=(8, 0),
        without_it=", and would silently build them in float",
        help="Convolutions in int8, of a network from `qat`.",
        hint="exempt fewer layers (`deblur-deploy qat`), or build with --fp16",
        tone="accent",
        words=("int8",),
    ),
    "fp8": PrecisionRow(
        onnx_type="FLOAT8E4M3FN",
        converter=f"{_RETYPE}:as_exported",
        quantization="fp8",
        first_capability=(8, 9),
        without_it=", which has no such arithmetic",
        help="Convolutions in float8, of a network from `qat --format fp8`.",
        hint="fine-tune with `deblur-deploy qat --format fp8`, exempt fewer layers, or build with --fp16",
        tone="accent",
        words=("fp8",),
    ),
    "fp32": PrecisionRow(
        onnx_type="FLOAT",
        converter=f"{_RETYPE}:as_exported",
        help="Layers in float32.",
        hint="an engine has the types of its ONNX file: start from one that `deblur-deploy export-onnx` wrote",
        tone="quiet",
        words=("float", "fp32"),
    ),
}
"""Every precision by its label; the first is what is built where none is named."""

DEFAULT_PRECISION = "fp16"


def precision_of_stage(stage: str) -> str | None:
    """The precision in whose types a stage writes files, or None where it leaves them as they were."""
    return next((label for label, row in PRECISIONS.items() if row.stage == stage), None)


def precision_of_type(onnx_type: str) -> str:
    """The label of an ONNX type, or its own name in lower case."""
    return next((label for label, row in PRECISIONS.items() if row.onnx_type == onnx_type), onnx_type.lower())


def listed_precisions() -> str:
    """All labels, for messages."""
    return ", ".join(PRECISIONS)


def load_converter(row: PrecisionRow) -> Callable[..., Any]:
    """The function that a row names."""
    function: Callable[..., Any] = load_named(row.converter)
    return function
