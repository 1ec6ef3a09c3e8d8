"""Ranges of quantizers: read from pictures before the fine-tuning, followed during its first part.

Weights always take the largest magnitude of each channel: they are few and known, so none is clipped. With a reduced
range it is 127/64 of that, which leaves codes within ±64. A sum of two products with 8-bit activations then fits into
16 bits, which is all that x86 processors without VNNI have for it, so that they multiply in INT8, too. PyTorch and
onnxruntime call this ``reduce_range``.

Activations have four calibrators (``--calibrator``), all over the magnitudes that enter a layer on the calibration
pictures: the largest (``max``), one that a share of the values stays below (``percentile``), the one whose quantized
histogram diverges least from the true one (``entropy``), and the one with the least squared error (``mse``).

ModelOpt's calibrators do this, except for ``mse``: in ModelOpt 0.47 that search hands the number of bits to the
quantizer as an offset, and so finds a sixth of the best range in INT8 and raises in FP8. It is carried out here, on
ModelOpt's histogram.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deblur_deploy.config import REDUCED_CODE
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.network.fake_quant import QuantScheme, enabled_quantizers

_FLAT = 1 / 255
"""Standard deviation below which a picture counts as flat: less than one step of an 8-bit picture."""

_ENTROPY_STRIDE = 8
"""Every eighth of 2048 bins is tried as the end of the range: the same to 3 %, in a sixth of the time."""

_INPUT = "input_quantizer"

_LEAST_RANGE = 1e-6
"""Of a channel whose weights are all 0, where only the time counts."""


def calibrate(net: nn.Module, frames: Sequence[NDArray[np.float32]], scheme: QuantScheme) -> dict[str, float]:
    """Set the range of every quantizer, in place.

    Args:
        net: A network with quantizers.
        frames: Blurred pictures, each (1, 3, H, W) float32 in [0, 1].
        scheme: Gives the calibrator and the format.

    Returns:
        The largest magnitude that entered each layer with a quantized input.

    Raises:
        ConfigError: There are no pictures, all are flat, a layer sees nothing but zeros on them, or the calibrator
            does not know the format.
        ArtifactError: NaN or infinite values enter a layer.
    """
    _check_frames(frames)
    if scheme.calibrator == "entropy" and scheme.format == "fp8":
        raise ConfigError("entropy compares integer steps, and FP8 has none", hint="try --calibrator mse or percentile")
    quantizers = dict(enabled_quantizers(net))
    with PeakWatch(net) as watch:
        _collect(net, quantizers, frames)
    if dead := sorted(name for name, peak in watch.peaks.items() if peak == 0):
        raise ConfigError(
            f"nothing but zeros enters {', '.join(dead)} on the calibration pictures, so its range is degenerate",
            hint=f"calibrate on other photographs, or keep it in float with --exempt {dead[0]}",
        )
    inputs = {name: quantizer for name, quantizer in quantizers.items() if name.endswith(_INPUT)}
    for name in quantizers.keys() - inputs.keys():
        quantizers[name].load_calib_amax()
        quantizers[name].amax = quantizers[name].amax * _headroom(scheme)
    if scheme.calibrator == "max":
        for quantizer in inputs.values():
            quantizer.load_calib_amax()
        return watch.peaks
    for name, quantizer in inputs.items():
        quantizer.set_from_attribute_config({"calibrator": "histogram"})
        # One value at the peak lays out the bins, which would otherwise grow with the first picture's range.
        quantizer._calibrator.collect(torch.tensor([watch.peaks[name.removesuffix(f".{_INPUT}")]]))
    _collect(net, inputs, frames)
    for quantizer in inputs.values():
        _load_range(quantizer, scheme)
    return watch.peaks


def settle_weights(net: nn.Module, scheme: QuantScheme) -> None:
    """Clip the weights that have grown out of a reduced range while it was frozen, in place.

    Args:
        net: A fine-tuned network with quantizers.
        scheme: Says whether the range is reduced; if not, the quantizers themselves clip.
    """
    if scheme.reduce_range:
        for quantizer, weight in _quantized_weights(net):
            largest = quantizer.amax / _headroom(scheme)
            weight.data.clamp_(-largest, largest)


def _headroom(scheme: QuantScheme) -> float:
    """By how much the range of a weight exceeds its largest magnitude.

    That gets the code ``REDUCED_CODE`` then. At twice the magnitude it would lie between the codes 63 and 64, and
    networks and files would round it to different ones.
    """
    return 127 / REDUCED_CODE if scheme.reduce_range else 1.0


def _quantized_weights(net: nn.Module) -> list[tuple[Any, Tensor]]:
    """The quantizer of every quantized weight, with the weight."""
    parameters = dict(net.named_parameters(remove_duplicate=False))  # a weight of several layers under each name
    return [
        (quantizer, parameters[name.removesuffix("_quantizer")])
        for name, quantizer in enabled_quantizers(net)
        if not name.endswith(_INPUT)
    ]


def _weight_range(quantizer: Any, weight: Tensor, scheme: QuantScheme) -> Tensor:
    """The range of a weight, of as many dimensions as the weight has."""
    shared = [axis for axis in range(weight.ndim) if axis != quantizer.axis]
    return weight.detach().abs().amax(shared, keepdim=True) * _headroom(scheme)


def assume_ranges(net: nn.Module, scheme: QuantScheme) -> None:
    """Ranges for a network of which only the time counts: those of its weights, and 1 for all activations.

    No picture is needed, and a layer that nothing but zeros enters is no obstacle.

    Args:
        net: A network with quantizers, which are given their ranges in place.
        scheme: Says whether the range of weights is reduced.
    """
    for name, quantizer in enabled_quantizers(net):
        if name.endswith(_INPUT):
            quantizer.amax = torch.ones(())
    for quantizer, weight in _quantized_weights(net):
        quantizer.amax = _weight_range(quantizer, weight, scheme).clamp(min=_LEAST_RANGE)


def _check_frames(frames: Sequence[NDArray[np.float32]]) -> None:
    if not frames:
        raise ConfigError("there are no pictures to calibrate on", hint="give a folder of photographs to --data")
    if all(float(frame.std()) < _FLAT for frame in frames):
        raise ConfigError(
            f"{len(frames)} calibration picture(s), and all are flat: ranges read from them would be degenerate",
            hint="give photographs with detail to --data",
        )


def _collect(net: nn.Module, quantizers: dict[str, Any], frames: Sequence[NDArray[np.float32]]) -> None:
    """Run the float network on the pictures while these quantizers only observe."""
    everything = [quantizer for _, quantizer in enabled_quantizers(net)]
    for quantizer in everything:
        quantizer.disable_quant()
    for quantizer in quantizers.values():
        quantizer.enable_calib()
    try:
        with torch.no_grad():
            for frame in frames:
                net(torch.from_numpy(frame))
    finally:
        for quantizer in quantizers.values():
            quantizer.disable_calib()
        for quantizer in everything:
            quantizer.enable_quant()


def _load_range(quantizer: Any, scheme: QuantScheme) -> None:
    """Set a range from the histogram that was collected."""
    if scheme.calibrator == "percentile":
        quantizer.load_calib_amax("percentile", percentile=scheme.percentile)
    elif scheme.calibrator == "entropy":
        quantizer.load_calib_amax("entropy", stride=_ENTROPY_STRIDE)
    else:
        histogram = quantizer._calibrator
        quantizer.amax = least_squares_range(
            histogram._calib_hist.double(), histogram._calib_bin_edges.double(), scheme.format
        )


def least_squares_range(counts: Tensor, edges: Tensor, number_format: str) -> Tensor:
    """The range whose quantization has the least squared error on a histogram.

    Args:
        counts: (bins,) values per bin.
        edges: (bins + 1,) borders of the bins, from 0.
        number_format: ``int8`` or ``fp8``.

    Returns:
        A scalar, float32: one of the borders.
    """
    centers = (edges[1:] + edges[:-1]) / 2
    first = min(len(centers) // 16, len(centers) - 1)
    errors = [
        float(((_rounded(centers, amax, number_format) - centers).square() * counts).sum())
        for amax in edges[first + 1 :]
    ]
    return edges[first + 1 + int(np.argmin(errors))].float()


def _rounded(values: Tensor, amax: Tensor, number_format: str) -> Tensor:
    """Values from 0 as the quantizer gives them back."""
    if number_format == "fp8":
        largest = torch.finfo(torch.float8_e4m3fn).max
        scaled = (values * (largest / amax)).clamp(max=largest).float().to(torch.float8_e4m3fn)
        return scaled.double() * (amax / largest)
    step = amax / 127
    return (values / step).round().clamp(max=127) * step


class PeakWatch:
    """While open, notes the largest magnitude that enters each layer with a quantized input.

    Args:
        net: A network with quantizers.

    Raises:
        ArtifactError: From the forward pass, when NaN or infinite values enter a layer; the message names it.
    """

    def __init__(self, net: nn.Module) -> None:
        self.peaks: dict[str, float] = {}
        self._quantizers = {
            name.removesuffix(f".{_INPUT}"): quantizer
            for name, quantizer in enabled_quantizers(net)
            if name.endswith(_INPUT)
        }
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        for name, quantizer in self._quantizers.items():
            self._handles.append(quantizer.register_forward_pre_hook(self._note(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _note(self, name: str) -> Any:
        def note(quantizer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            peak = float(inputs[0].detach().abs().amax())
            if not math.isfinite(peak):
                raise ArtifactError(
                    f"{'NaN' if math.isnan(peak) else 'infinite'} values enter the layer {name}: it has no range",
                    hint="the weights of the layers before it overflow; take an earlier checkpoint of the training run",
                )
            self.peaks[name] = max(peak, self.peaks.get(name, 0.0))

        return note


class RangeFollower(PeakWatch):
    """Lets ranges follow the network during fine-tuning, until they are frozen.

    After each step, the range of an activation moves a little towards the largest magnitude of that step's crops; where
    the calibrator had set it to a part of the largest magnitude, the part stays the same. The range of a weight becomes
    that of the updated weight. ModelOpt's own calibrators keep no moving average, so its quantizers are watched from
    outside and their ranges set.

    Args:
        net: A calibrated network.
        peaks: What :func:`calibrate` returned for it.
        momentum: Share of the way that an activation's range moves in one step.
        scheme: Says whether the range of weights is reduced.
    """

    def __init__(self, net: nn.Module, peaks: Mapping[str, float], momentum: float, scheme: QuantScheme) -> None:
        super().__init__(net)
        self._momentum = momentum
        self._average = dict(peaks)
        self._part = {name: float(self._quantizers[name].amax) / peak for name, peak in peaks.items()}
        self._weights = _quantized_weights(net)
        self._scheme = scheme

    def step(self) -> None:
        """Move the ranges after an optimiser step."""
        for name, peak in self.peaks.items():
            self._average[name] += self._momentum * (peak - self._average[name])
            quantizer = self._quantizers[name]
            quantizer.amax = torch.full_like(quantizer.amax, self._average[name] * self._part[name])
        self.peaks.clear()
        for quantizer, weight in self._weights:
            quantizer.amax = _weight_range(quantizer, weight, self._scheme).reshape(quantizer.amax.shape)
