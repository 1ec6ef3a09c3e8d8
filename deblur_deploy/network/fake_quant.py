"""Fake quantization with NVIDIA ModelOpt, described by plain data.

A quantized network is a float network plus a table (:class:`QuantScheme`) plus one range per quantizer. That is all
that is stored, so it is rebuilt without unpickling anything: insert quantizers by the table, then load the ranges.

INT8 weights have one scale per output channel and INT8 activations one per tensor, both symmetric, as TensorRT and ONNX
``QuantizeLinear`` have them. FP8 is E4M3 with one scale per tensor for both: its exponent already spans what the
channels of a layer differ by, and it is the only form that engines take.

A deformable convolution gets quantized weights only. Its input is sampled at fractional positions, which every runtime
does in floating point, so a quantizer there would cost accuracy and bring no integer arithmetic; and its offsets are
positions.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deblur_deploy.core.errors import ArtifactError, ConfigError, MissingDependencyError
from deblur_deploy.core.tables import from_table
from deblur_deploy.network.deform_conv import DeformConv2d, DeformConv2dPack

QUANTIZABLE = (nn.Conv2d, nn.ConvTranspose2d, DeformConv2d)
"""Layers whose weights can be quantized."""


_OUTPUT_AXES = {"nn.Conv2d": 0, "nn.ConvTranspose2d": 1, "DeformConv2dPack": 0}
"""ModelOpt's names of these layers, and the axis of their weights that counts output channels."""


@dataclass(frozen=True)
class QuantScheme:
    """How a network is quantized, as its manifest keeps it.

    Args:
        format: ``int8``, or ``fp8`` (E4M3).
        bits: Bits of a quantized value, which is 8 in both formats.
        weights_only: Activations stay in float.
        reduce_range: The codes of INT8 weights stay within ±64.
        calibrator: How the ranges of activations were found.
        percentile: Share of the values in percent that lies within the range, where the calibrator is ``percentile``.
        exempt: Layers that stay in float.
    """

    format: Literal["int8", "fp8"] = "int8"
    bits: Literal[8] = 8
    weights_only: bool = False
    reduce_range: bool = False
    calibrator: Literal["max", "percentile", "entropy", "mse"] = "max"
    percentile: float | None = None
    exempt: tuple[str, ...] = ()


def default_exemptions(net: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Convolutions that stay in float: the first, the last, and those that predict offsets.

    The first sees the picture itself and the last writes it, so their rounding shows; an offset is a position, and an
    eighth of a pixel there is a wrong sample.

    Args:
        net: Network with ``forward_once``.
        example: (1, 3, H, W) to run it on.
    """
    order: list[nn.Module] = []
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    hooks = [layer.register_forward_hook(lambda module, *_: order.append(module)) for layer in layers]
    with torch.no_grad():
        net.forward_once(example)  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    offsets = {id(m.conv_offset) for m in net.modules() if isinstance(m, DeformConv2dPack)}
    exempt = {*map(id, order[:1]), *map(id, order[-1:])} | offsets
    return tuple(name for name, module in net.named_modules() if id(module) in exempt)


def quantizable_layers(net: nn.Module) -> tuple[str, ...]:
    """Names of the layers whose weights can be quantized, in the order of the network's definition."""
    return tuple(name for name, module in net.named_modules() if isinstance(module, QUANTIZABLE))


def exempt_layers(net: nn.Module) -> tuple[str, ...]:
    """Names of the layers of a quantized network that are in float."""
    quantized = {name.rpartition(".")[0] for name, _ in enabled_quantizers(net)}
    return tuple(name for name in quantizable_layers(net) if name not in quantized)


def insert_quantizers(net: nn.Module, quantization: Mapping[str, Any]) -> None:
    """Put quantizers without ranges into a float network, in place.

    Args:
        net: A float network.
        quantization: Fields of :class:`QuantScheme`.

    Raises:
        ConfigError: An exempt layer does not exist or is not a layer with weights, or all are exempt.
        MissingDependencyError: ModelOpt is not installed.
    """
    scheme = from_table(QuantScheme, quantization, "network.quantization")
    layers = quantizable_layers(net)
    for name in scheme.exempt:
        check_layer(name, layers)
    if set(layers) <= set(scheme.exempt):
        raise ConfigError(
            "every convolution is exempt: nothing is left to quantize", hint="name fewer layers in --exempt"
        )
    quantize = _modelopt().quantize
    with _quiet():
        quantize(net, {"quant_cfg": _rules(scheme), "algorithm": "max"}, forward_loop=None)


def _rules(scheme: QuantScheme) -> list[dict[str, Any]]:
    """ModelOpt's table of quantizers; later rules overrule earlier ones."""
    per_channel = scheme.format == "int8"
    bits: int | tuple[int, int] = scheme.bits if per_channel else (4, 3)
    rules: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    # ModelOpt would quantize what enters normalisation and pooling too, which runs in float on every runtime.
    for layer, axis in _OUTPUT_AXES.items():
        weight = {"num_bits": bits, "axis": axis if per_channel else None}
        rules.append({"parent_class": layer, "quantizer_name": "*weight_quantizer", "cfg": weight})
        if not scheme.weights_only:
            given = {"num_bits": bits, "axis": None}
            rules.append({"parent_class": layer, "quantizer_name": "*input_quantizer", "cfg": given})
    # By their full names: a deformable convolution holds the one that predicts its offsets.
    exempt = [f"{name}.{part}_quantizer" for name in scheme.exempt for part in ("weight", "input")]
    return rules + [{"quantizer_name": name, "enable": False} for name in exempt]


def check_layer(name: str, layers: Collection[str], verb: str = "exempt") -> None:
    """Accept the names of layers only: a part of the network that holds several is spelled out.

    Raises:
        ConfigError: There is no such layer.
    """
    if name in layers:
        return
    if inside := [layer for layer in layers if layer.startswith(f"{name}.")]:
        raise ConfigError(f"{name!r} is not a convolution to {verb}", hint=f"name what it holds: {', '.join(inside)}")
    (nearest,) = difflib.get_close_matches(name, layers, n=1, cutoff=0.0)
    raise ConfigError(f"there is no layer {name!r} to {verb}", hint=f"the nearest convolution is {nearest!r}")


def read_ranges(net: nn.Module) -> dict[str, Tensor]:
    """Largest magnitude of every quantizer, as ``<quantizer>._amax``; empty for a float network."""
    if not any(name.endswith("._amax") for name, _ in net.named_buffers()):
        return {}
    return {f"{name}._amax": quantizer.amax.detach().float() for name, quantizer in enabled_quantizers(net)}


def load_ranges(net: nn.Module, ranges: Mapping[str, Tensor]) -> None:
    """Give quantizers the ranges that :func:`read_ranges` read.

    Raises:
        ArtifactError: A range is missing or belongs to no quantizer.
    """
    quantizers = dict(enabled_quantizers(net))
    wanted = {f"{name}._amax" for name in quantizers}
    if odd := sorted(wanted ^ ranges.keys()):
        raise ArtifactError(
            f"quantizer ranges do not fit the network: {', '.join(odd[:4])} ({len(odd)} in all)",
            hint="weights and manifest belong to different artifacts; make the artifact again",
        )
    for name, quantizer in quantizers.items():
        quantizer.amax = ranges[f"{name}._amax"]


def enabled_quantizers(net: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names and ModelOpt quantizers of a network, without those of exempt layers."""
    tensor_quantizer = _modelopt().nn.TensorQuantizer
    for name, module in net.named_modules():
        if isinstance(module, tensor_quantizer) and module.is_enabled:
            yield name, module


@contextlib.contextmanager
def without_quantizers(net: nn.Module) -> Iterator[None]:
    """While open, a quantized network computes in float, with the weights that it was fine-tuned to."""
    quantizers = [quantizer for _, quantizer in enabled_quantizers(net)]
    for quantizer in quantizers:
        quantizer.disable()
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.enable()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide ModelOpt's output: counts on stdout, and warnings about optional parts that quantization does not use."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _modelopt() -> ModuleType:
    """ModelOpt's quantization package, imported where it is needed: float checkpoints do without it."""
    try:
        with _quiet():
            import modelopt.torch.quantization as mtq
    except ImportError as err:
        raise MissingDependencyError(
            f"quantization needs NVIDIA ModelOpt: {err}", hint="pip install 'deblur-deploy[compress]'"
        ) from err
    _register_deform_conv(mtq)
    return mtq  # type: ignore[no-any-return]


def _register_deform_conv(mtq: ModuleType) -> None:
    """Tell ModelOpt how a deformable convolution is quantized: its weights, and nothing else."""
    registry, tensor_quantizer = mtq.nn.QuantModuleRegistry, mtq.nn.TensorQuantizer
    if DeformConv2dPack in registry:
        return

    class QuantDeformConv(mtq.nn.QuantModule):  # type: ignore[misc, name-defined]
        def _setup(self) -> None:
            self._register_temp_attribute("weight_quantizer", tensor_quantizer())
            self._register_dynamic_attribute("weight", lambda module, weight: module.weight_quantizer(weight))

    registry.register({DeformConv2dPack: "DeformConv2dPack"})(QuantDeformConv)
