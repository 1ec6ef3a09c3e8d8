"""Comparing an exported file with the network that it was made from, at two sizes where it takes any.

Exporters and runtimes disagree with PyTorch in places that no checker sees: where a nearest resize takes its samples
from, what an assignment to a slice leaves at another size. A file that differs is written with a warning; one that
gives no numbers is not.

A quantized file is held against the fake-quantized network, on hard pictures too. The two sum in another order, so that
a value at the edge between two codes may fall to either side, and some networks carry that far. So they may be as far
apart as quantization itself moves the picture: a file further off computes something else. Of a network that looks at
neighbourhoods only, these pictures share one run, side by side, and each is judged by itself.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import DeblurDeployError, ExportError
from deblur_deploy.core.images import Resolution, from_frames, to_batch
from deblur_deploy.data.pairs import load_photos
from deblur_deploy.export.probes import Sheet, as_taken, probe_pictures, probe_sheets
from deblur_deploy.graph.locality import is_local
from deblur_deploy.graph.retype import tensor_types
from deblur_deploy.network.fake_quant import without_quantizers
from deblur_deploy.network.generator import Generator
from deblur_deploy.runtime.runner import Runner, open_runner, reason_unavailable

LEVEL = 1 / 255
"""How far all but a thousandth of the samples may be from the network's without a warning."""

_SHARE = 0.999
_PICTURE, _WITHOUT_BARS = "letterboxed photograph", "photograph 1"
_RUNTIMES = ("onnxruntime", "openvino")
_FREE_SIZES = (Resolution(160, 96), Resolution(117, 139))
"""Two sizes for a file that takes any: one that divides well, and one that does not."""


def comparing(net: Generator, config: ExportConfig) -> Callable[[Artifact], dict[str, Any]]:
    """The comparison of a file with its network before it is put in place, as ``Draft.measure`` takes it.

    Its figures are ``network_difference``, for each runtime at hand how far the file is from the network, as a share of
    white that all but a thousandth of the samples keep to, or the sentence that says why there is none. Those of a
    quantized file are of the picture on which it does worst, which ``network_difference_on`` names, and
    ``network_difference_allowed`` has how far quantization itself moves that picture, at least :data:`LEVEL`;
    ``infinite_inside`` names the layers behind which the file has NaN or infinite values, by picture.

    Args:
        net: The network in evaluation mode.
        config: How it was exported.
    """

    def measure(artifact: Artifact) -> dict[str, Any]:
        quantized = artifact.network.quantization is not None
        together = quantized and is_local(onnx.load(artifact.path))
        probes = _probes(net, config, quantized=quantized, together=together)
        if together and not all(np.isfinite(probe.expected).all() for probe in probes):
            together, probes = False, _probes(net, config, quantized=True, together=False)  # one would spoil the others
        runtimes = [name for name in _RUNTIMES if not reason_unavailable(artifact, name) and _fits(name, config)]
        worst = {runtime: _worst(artifact, runtime, probes) for runtime in runtimes}
        figures: dict[str, Any] = {
            "network_difference": {name: one if isinstance(one, str) else one.apart for name, one in worst.items()}
        }
        if quantized:
            found = {name: one for name, one in worst.items() if not isinstance(one, str)}
            figures["network_difference_on"] = {name: one.part for name, one in found.items()}
            figures["network_difference_allowed"] = {name: one.allowed for name, one in found.items()}
            infinite = _infinite(artifact, probes) if "onnxruntime" in found else {}
            if infinite and together:  # on which of those that share a sheet
                infinite = _infinite(artifact, _probes(net, config, quantized=True, together=False)) or infinite
            figures["infinite_inside"] = infinite
        return figures

    return measure


def _fits(runtime: str, config: ExportConfig) -> bool:
    """Whether a runtime reads the file: ONNX's own DeformConv is onnxruntime's."""
    return runtime == "onnxruntime" or config.deform_op != "standard"


def _probes(net: Generator, config: ExportConfig, *, quantized: bool, together: bool) -> list[_Probe]:
    """What to compare on: a picture of each size, and of a quantized network hard ones of the first size.

    Args:
        net: The network.
        config: How it was exported.
        quantized: Whether it is.
        together: Whether a sheet may hold several pictures.
    """
    if not config.dynamic:
        sizes = [Resolution(config.width, config.height)]
    else:
        least = net.smallest_side
        sizes = [Resolution(max(size.width, least), max(size.height, least)) for size in _FREE_SIZES]
    photo = load_photos(None)[0]
    sheets = []
    if quantized:
        first, *sizes = sizes
        hard = probe_sheets([photo], first, together=together)
        sheets = [sheet for sheet in hard if set(sheet.parts) != {_WITHOUT_BARS}]
    sheets += [Sheet.of_one(_PICTURE, probe_pictures([photo], size)[_PICTURE]) for size in sizes]
    return [_Probe(net, quantized, sheet) for sheet in sheets]


@dataclass(frozen=True)
class _Probe:
    """A sheet of pictures, and what a network, quantized or not, gives for it."""

    net: Generator
    quantized: bool
    sheet: Sheet

    @functools.cached_property
    def expected(self) -> NDArray[np.float32]:
        return _given(self.net, to_batch(self.sheet.picture))

    @functools.cached_property
    def _unquantized(self) -> NDArray[np.float32]:
        with without_quantizers(self.net):
            return _given(self.net, to_batch(self.sheet.picture))

    def allowed(self, part: str) -> float:
        """How far a file may be from that on a picture: of a quantized network, as far as quantization moves it."""
        if not self.quantized:
            return LEVEL
        return max(LEVEL, _distance(self.sheet.cut(part, self._unquantized), self.sheet.cut(part, self.expected)))


@dataclass(frozen=True)
class _Worst:
    """The picture on which a file does worst in a runtime, and how far it is from the network there."""

    probe: _Probe
    part: str
    apart: float

    @property
    def allowed(self) -> float:
        return self.probe.allowed(self.part)


def _worst(artifact: Artifact, runtime: str, probes: list[_Probe]) -> _Worst | str:
    """Where a file is furthest from its network in one runtime, for what is allowed; or why it does not run."""
    try:
        with open_runner(artifact, runtime) as runner:
            found = [one for probe in probes for one in _apart(probe, runner)]
    except ExportError:
        raise
    except DeblurDeployError as err:
        return err.message
    # What quantization does to a picture takes another run of the network, and matters beyond a level only.
    return max(
        found, key=lambda one: (one.apart / one.probe.allowed(one.part) if one.apart > LEVEL else 0.0, one.apart)
    )


def _apart(probe: _Probe, runner: Runner) -> Iterator[_Worst]:
    """How far a file is from its network on every picture of a sheet."""
    given: NDArray[Any] = runner.infer(as_taken(probe.sheet.picture, runner.image))
    given = from_frames(given) if runner.image.dtype == "uint8" else given
    for part in probe.sheet.parts:
        here, expected = (probe.sheet.cut(part, output) for output in (given, probe.expected))
        if not np.isfinite(expected).all():
            yield _Worst(probe, part, 0.0)  # the network itself is no better
            continue
        if not np.isfinite(here).all():
            raise ExportError(
                f"the exported file gives NaN or infinite values in {runner.name}, where the network gives a picture",
                hint="please report this with the checkpoint; the checkpoint itself runs in PyTorch",
            )
        yield _Worst(probe, part, _distance(here, expected))


def _distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    apart = np.abs(np.clip(one, 0, 1) - np.clip(other, 0, 1))
    return float(np.quantile(apart, _SHARE))


def _infinite(artifact: Artifact, probes: list[_Probe]) -> Mapping[str, str]:
    """By picture, the first layer of a file behind which values are not finite: a quantizer would hide them."""
    from deblur_deploy.export.watched import Watched, layer_name  # it needs onnxruntime, which need not be there

    model = onnx.load(artifact.path)
    constants = {item.name for item in model.graph.initializer}
    types = tensor_types(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    floats = {
        name
        for name, node in makers.items()
        if types.get(name) == TensorProto.FLOAT and not constants.issuperset(node.input)
    }
    watched = Watched(model, floats)
    found = {}
    for probe in probes:
        peaks = watched.run(as_taken(probe.sheet.picture, artifact.image)).peaks
        if broken := [name for name in makers if name in peaks and not np.isfinite(peaks[name])]:
            found[", ".join(probe.sheet.parts)] = layer_name(broken[0], makers)
    return found


def _given(net: Generator, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode(), _in_evaluation(net):
        restored: NDArray[np.float32] = net(torch.from_numpy(batch)).float().numpy()
    return restored


@contextlib.contextmanager
def _in_evaluation(net: Generator) -> Iterator[None]:
    was_training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(was_training)
