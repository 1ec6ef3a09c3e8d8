"""Fake quantization with NVIDIA ModelOpt, described by plain data.

A quantized network is a float network plus a table (bits, exempt layers) plus one range per quantizer. That is all that
is stored, so it is rebuilt without unpickling anything: insert quantizers by the table, then load the ranges.

Weights are INT8 per output channel, activations INT8 per tensor, both symmetric, as TensorRT and ONNX
``QuantizeLinear`` have them.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import warnings
from collections.abc import Collection, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from deblur_deploy.errors import ArtifactError, ConfigError, MissingDependencyError
from deblur_deploy.network.deform_conv import DeformConv2dPack


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
    exempt = {id(order[0]), id(order[-1])} | offsets
    return tuple(name for name, module in net.named_modules() if id(module) in exempt)


def insert_quantizers(net: nn.Module, quantization: Mapping[str, Any]) -> None:
    """Put quantizers without ranges into a float network, in place.

    Args:
        net: A float network.
        quantization: ``bits`` (8) and ``exempt`` (names of convolutions that stay in float).

    Raises:
        ConfigError: An exempt layer does not exist or is no convolution, or all are exempt.
        MissingDependencyError: ModelOpt is not installed.
    """
    layers = [name for name, module in net.named_modules() if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))]
    for name in quantization["exempt"]:
        _check_exemption(name, layers)
    if set(layers) <= set(quantization["exempt"]):
        raise ConfigError(
            "every convolution is exempt: nothing is left to quantize", hint="name fewer layers in --exempt"
        )
    bits = quantization["bits"]
    rules: list[dict[str, Any]] = [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": bits, "axis": 0}},
        {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": bits, "axis": None}},
        # A transposed convolution keeps its output channels on the second axis.
        {
            "parent_class": "nn.ConvTranspose2d",
            "quantizer_name": "*weight_quantizer",
            "cfg": {"num_bits": bits, "axis": 1},
        },
    ]
    rules += [{"quantizer_name": f"{name}.*", "enable": False} for name in quantization["exempt"]]
    quantize = _modelopt().quantize
    with _quiet():
        quantize(net, {"quant_cfg": rules, "algorithm": "max"}, forward_loop=None)


def _check_exemption(name: str, layers: Collection[str]) -> None:
    """Accept the names of convolutions only: a part of the network that holds several is spelled out."""
    if name in layers:
        return
    if inside := [layer for layer in layers if layer.startswith(f"{name}.")]:
        raise ConfigError(f"{name!r} is no convolution to exempt", hint=f"name what it holds: {', '.join(inside)}")
    (nearest,) = difflib.get_close_matches(name, layers, n=1, cutoff=0.0)
    raise ConfigError(f"there is no layer {name!r} to exempt", hint=f"the nearest convolution is {nearest!r}")


@contextlib.contextmanager
def calibrating(net: nn.Module) -> Iterator[None]:
    """While open, forward passes only record activation ranges; on leaving, ranges are set and quantization is on."""
    quantizers = [module for _, module in _enabled_quantizers(net)]
    for quantizer in quantizers:
        quantizer.disable_quant()
        quantizer.enable_calib()
    yield
    for quantizer in quantizers:
        quantizer.load_calib_amax()
        quantizer.disable_calib()
        quantizer.enable_quant()


def read_ranges(net: nn.Module) -> dict[str, Tensor]:
    """Largest magnitude of every quantizer, as ``<quantizer>._amax``; empty for a float network."""
    ranges = {}
    for name, tensor in net.state_dict().items():
        if name.endswith("._amax"):
            ranges[name] = tensor.detach().float().contiguous()
    return ranges


def load_ranges(net: nn.Module, ranges: Mapping[str, Tensor]) -> None:
    """Give quantizers the ranges that :func:`read_ranges` read.

    Raises:
        ArtifactError: A range is missing or belongs to no quantizer.
    """
    quantizers = dict(_enabled_quantizers(net))
    wanted = {f"{name}._amax" for name in quantizers}
    if odd := sorted(wanted ^ ranges.keys()):
        raise ArtifactError(
            f"quantizer ranges do not fit the network: {', '.join(odd[:4])} ({len(odd)} in all)",
            hint="weights and manifest belong to different artifacts; make the artifact again",
        )
    for name, quantizer in quantizers.items():
        quantizer.amax = ranges[f"{name}._amax"]


def _enabled_quantizers(net: nn.Module) -> Iterator[tuple[str, Any]]:
    tensor_quantizer = _modelopt().nn.TensorQuantizer
    for name, module in net.named_modules():
        if isinstance(module, tensor_quantizer) and module.is_enabled:
            yield name, module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what ModelOpt says: counts on stdout, and warnings of optional parts that quantization does not touch."""
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
    return mtq  # type: ignore[no-any-return]
