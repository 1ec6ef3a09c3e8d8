"""Ranges: what each calibrator finds, and pictures and networks that give none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from deblur_deploy.compress.calibration import RangeFollower, assume_ranges, calibrate, least_squares_range
from deblur_deploy.compress.quantize import plan_scheme, quantize_network, round_float_weights
from deblur_deploy.config import QatConfig
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import to_batch
from deblur_deploy.network.fake_quant import QuantScheme, insert_quantizers, quantizable_layers, read_ranges
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.srn import SRN, SRNConfig

LAYER = "levels.1.enter"


@pytest.fixture
def net(tiny_config: SRNConfig) -> SRN:
    torch.manual_seed(3)
    return SRN(tiny_config).eval()


@pytest.fixture
def frames(photo):
    return [to_batch(photo[:64, :80]), to_batch(photo[64:128, :80])]


def entering(net, frames):
    """All values that enter the layer on these frames, in one array."""
    values = []
    handle = net.get_submodule(LAYER).register_forward_pre_hook(lambda _, inputs: values.append(inputs[0].flatten()))
    with torch.no_grad():
        for frame in frames:
            net(torch.from_numpy(frame))
    handle.remove()
    return torch.cat(values).abs()


def found_range(net, frames, **settings):
    """The range of the layer's input; the histograms of all other layers would only take time."""
    others = tuple(name for name in quantizable_layers(net) if name != LAYER)
    scheme = plan_scheme(net, QatConfig(**{"exempt": others} | settings))
    quantize_network(net, dataclasses.asdict(scheme), frames)
    return float(read_ranges(net)[f"{LAYER}.input_quantizer._amax"])


def test_max_is_the_largest_magnitude(net, frames):
    expected = entering(net, frames).max()
    assert found_range(net, frames) == pytest.approx(float(expected))


@pytest.mark.parametrize("percentile", [90.0, 99.9])
def test_percentile_leaves_that_share_within(net, frames, percentile):
    values = entering(net, frames)
    amax = found_range(net, frames, calibrator="percentile", percentile=percentile)
    assert 100 * float((values <= amax).float().mean()) == pytest.approx(percentile, abs=0.3)
    assert amax < float(values.max())


@pytest.mark.parametrize("number_format", ["int8", "fp8"])
def test_mse_beats_the_other_ranges_in_squared_error(net, frames, number_format):
    values = entering(net, frames).double()
    amax = found_range(net, frames, calibrator="mse", format=number_format)

    def error(limit):
        if number_format == "fp8":
            rounded = (values * 448 / limit).clamp(max=448).float().to(torch.float8_e4m3fn).double() * limit / 448
        else:
            rounded = (values * 127 / limit).round().clamp(max=127) * limit / 127
        return float((rounded - values).square().mean())

    best = min(error(float(values.max()) * part) for part in np.linspace(0.1, 1, 91))
    assert error(amax) <= best * 1.05


def test_mse_clips_an_outlier_that_costs_all_others_their_precision():
    counts, edges = torch.zeros(2048).double(), torch.linspace(0, 100, 2049).double()
    counts[:200], counts[-1] = 1e9, 1
    assert float(least_squares_range(counts, edges, "int8")) == pytest.approx(100 * 200 / 2048, rel=0.05)


def test_entropy_lies_between_the_bulk_and_the_largest_value(net, frames):
    values = entering(net, frames)
    amax = found_range(net, frames, calibrator="entropy")
    assert float(values.mean()) < amax <= float(values.max()) * 1.001


def test_entropy_of_fp8_is_refused(net, frames):
    with pytest.raises(ConfigError, match="entropy compares integer steps"):
        found_range(net, frames, calibrator="entropy", format="fp8")


def test_weights_are_never_clipped(net, frames):
    amax = net.get_submodule(LAYER).weight.detach().abs().amax((1, 2, 3))
    found_range(net, frames, calibrator="percentile", percentile=90.0)
    assert torch.allclose(read_ranges(net)[f"{LAYER}.weight_quantizer._amax"].flatten(), 127 / 64 * amax)


def test_flat_pictures_are_refused(net):
    flat = np.full((1, 3, 48, 48), 0.5, np.float32)
    with pytest.raises(ConfigError, match="all are flat") as caught:
        found_range(net, [flat])
    assert "--data" in caught.value.hint


def test_one_flat_picture_among_others_does_no_harm(net, frames):
    flat = np.zeros((1, 3, 48, 48), np.float32)
    assert found_range(net, [flat, *frames], calibrator="mse") > 0


def test_a_layer_that_sees_only_zeros_is_named(net, frames):
    with torch.no_grad():
        net.levels[1].blocks[0].conv1.weight.zero_()
        net.levels[1].blocks[0].conv1.bias.fill_(-1.0)
    with pytest.raises(ConfigError, match=r"nothing but zeros enters levels\.1\.blocks\.0\.conv2") as caught:
        found_range(net, frames, exempt=())
    assert "--exempt levels.1.blocks.0.conv2" in caught.value.hint


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
@pytest.mark.parametrize("calibrator", ["max", "mse"])
def test_values_that_are_no_numbers_name_the_layer_that_they_enter(net, frames, value, said, calibrator):
    with torch.no_grad():
        net.levels[1].enter.bias[0] = value
    with pytest.raises(ArtifactError, match=rf"{said} values enter the layer levels\.1\.blocks\.0\.conv1:"):
        found_range(net, frames, calibrator=calibrator, exempt=())


def test_a_refused_calibration_leaves_no_hooks(net, frames):
    insert_quantizers(net, {"exempt": ["head"]})
    with torch.no_grad():
        net.levels[1].enter.bias[0] = float("nan")
    with pytest.raises(ArtifactError):
        calibrate(net, frames, QuantScheme())
    quantizer = net.get_submodule(f"{LAYER}.input_quantizer")
    assert not quantizer._forward_pre_hooks
    assert quantizer._if_quant
    assert not quantizer._if_calib


def test_a_followed_range_is_a_moving_average_that_keeps_its_part_of_the_largest_value(net, frames):
    scheme = QuantScheme(calibrator="percentile", percentile=99.0, exempt=("head",))
    insert_quantizers(net, dataclasses.asdict(scheme))
    peaks = calibrate(net, frames, scheme)
    before = float(read_ranges(net)[f"{LAYER}.input_quantizer._amax"])
    with RangeFollower(net, peaks, momentum=0.25, scheme=scheme) as follower, torch.no_grad():
        net(torch.from_numpy(frames[0] * 0.5))
        peak = follower.peaks[LAYER]
        follower.step()
    after = float(read_ranges(net)[f"{LAYER}.input_quantizer._amax"])
    expected = (0.75 * peaks[LAYER] + 0.25 * peak) * before / peaks[LAYER]
    assert after == pytest.approx(expected, rel=1e-5)
    assert after != pytest.approx(before, rel=1e-3)


class Tied(Generator):
    """Two layers with one weight in the middle, and the first and the last with another."""

    arch = "test"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)))
        self.layers[2].weight, self.layers[3].weight = self.layers[1].weight, self.layers[0].weight

    def forward_scales(self, blurred):
        return [self.layers(blurred)]


def test_layers_with_one_weight_are_quantized_and_followed(frames):
    net = Tied().eval()
    scheme = plan_scheme(net, QatConfig())
    insert_quantizers(net, dataclasses.asdict(scheme))
    peaks = calibrate(net, frames, scheme)
    with RangeFollower(net, peaks, momentum=0.5, scheme=scheme) as follower, torch.no_grad():
        net.layers[1].weight *= 2
        net(torch.from_numpy(frames[0]))
        follower.step()
    round_float_weights(net)
    largest = 127 / 64 * net.layers[1].weight.detach().abs().amax((1, 2, 3))  # with a reduced range
    for name in ("1", "2"):
        torch.testing.assert_close(read_ranges(net)[f"layers.{name}.weight_quantizer._amax"].flatten(), largest)
    assert net.layers[3].weight is net.layers[0].weight
    assert torch.equal(net.layers[0].weight, net.layers[0].weight.half().float())


def test_ranges_can_be_assumed_where_only_the_time_counts(net, frames):
    with torch.no_grad():
        net.get_submodule(LAYER).weight.zero_()  # as in a layer that pruning has left nothing to do
        net.get_submodule(LAYER).bias.zero_()
    scheme = plan_scheme(net, QatConfig())
    insert_quantizers(net, dataclasses.asdict(scheme))

    assume_ranges(net, scheme)

    ranges = read_ranges(net)
    assert float(ranges[f"{LAYER}.input_quantizer._amax"]) == 1
    other = net.levels[1].blocks[0].conv1.weight.detach()
    found = ranges["levels.1.blocks.0.conv1.weight_quantizer._amax"]
    torch.testing.assert_close(found.flatten(), 127 / 64 * other.abs().amax((1, 2, 3)))
    assert torch.isfinite(net(torch.from_numpy(frames[0]))).all()
