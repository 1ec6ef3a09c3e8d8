"""Networks that depend on more than a neighbourhood are not tiled without a word."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.errors import ConfigError, VerificationError
from deblur_deploy.core.images import ImageSpec, Resolution
from deblur_deploy.core.sources import shipped
from deblur_deploy.infer.receptive_field import block_means, draw_probe, measure_receptive_field, noisy
from deblur_deploy.infer.restore import RestoreConfig, Restorer, deblur
from deblur_deploy.infer.tile_trial import BOUND, tile_difference
from deblur_deploy.runtime.eager import TorchRunner
from deblur_deploy.runtime.runner import open_runner

Float = NDArray[np.float32]


class Local(nn.Module):
    """Two convolutions of 3x3, with something between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def between(self, y: Tensor) -> Tensor:
        return y

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.3 * self.last(F.relu(self.between(self.first(x))))


class Normalised(Local):
    """By the picture's own statistics."""

    def between(self, y: Tensor) -> Tensor:
        return F.instance_norm(y)


class Gated(Local):
    """By the mean of the picture."""

    def between(self, y: Tensor) -> Tensor:
        return y * torch.sigmoid(8 * y.mean((2, 3), keepdim=True))


class Pyramid(Local):
    """By means over a grid that is laid over the picture, whatever its size."""

    def between(self, y: Tensor) -> Tensor:
        return y + F.interpolate(F.adaptive_avg_pool2d(y, (6, 6)), size=y.shape[-2:], mode="bilinear")


class Halved(Local):
    """Each half of the picture by itself."""

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = x[:, :, : x.shape[2] // 2], x[:, :, x.shape[2] // 2 :]
        return torch.cat([super(Halved, self).forward(part) for part in (top, bottom)], 2)


class Placed(Local):
    """By where a pixel is, from the left to the right."""

    def between(self, y: Tensor) -> Tensor:
        return y + torch.linspace(-1, 1, y.shape[3])


UNTILEABLE = [Normalised, Gated, Pyramid, Halved, Placed]


def open_net(kind: type[nn.Module]) -> TorchRunner:
    return TorchRunner(kind().eval(), ImageSpec())


def test_a_local_network_is_tiled_as_before(wide_photo):
    runner = open_net(Local)
    reach = measure_receptive_field(runner)
    assert (reach.margin, reach.is_capped) == (32, False)
    assert tile_difference(runner, reach.margin, 128) < BOUND / 10
    restorer = Restorer(runner, RestoreConfig(tile=Resolution(128, 128)))
    tiled = restorer.restore(wide_photo)
    assert restorer.seams == ""
    assert np.abs(tiled.astype(int) - deblur(runner, wide_photo)).max() <= 1


@pytest.mark.parametrize("kind", [Normalised, Gated])
def test_a_reach_without_end_is_told_from_a_measured_one(kind):
    assert measure_receptive_field(open_net(kind)).is_capped


class Rounded(Local):
    """With values that fall to one side or the other by a millionth, as those of a network in INT8."""

    def between(self, y: Tensor) -> Tensor:
        return y + 0.05 * torch.sign(torch.sin(1e5 * y))


def test_rounding_to_codes_is_not_a_reach():
    """A code that falls to the other side moves the result by levels wherever it is, with no edge near it."""
    runner = open_net(Rounded)
    picture = draw_probe(96, 384)
    noise = deblur(runner, noisy(picture)) - deblur(runner, picture)
    assert np.abs(noise).max() * 255 > 1

    reach = measure_receptive_field(runner)

    assert (reach.margin, reach.is_capped) == (32, False)
    assert tile_difference(runner, reach.margin, 128) <= BOUND


@pytest.mark.parametrize("shape", [(3, 8, 96), (3, 37, 5), (3, 32, 48)])
def test_blocks_of_a_small_picture_are_as_large_as_it_is(shape):
    means = block_means(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    assert means.shape == tuple(length // min(16, length) for length in shape[1:])
    assert means[0, 0] == pytest.approx(np.arange(np.prod(shape)).reshape(shape)[:, :16, :16].mean())


@pytest.mark.parametrize("kind", UNTILEABLE)
def test_pictures_that_do_not_fit_as_a_whole_are_refused(kind):
    restorer = Restorer(open_net(kind), RestoreConfig(8_000_000, count_process=False))
    restorer.plan(64, 48)
    with pytest.raises(ConfigError, match=r"looks at the whole picture, and 2000x1500 takes \d+ MB.*levels") as refused:
        restorer.plan(2000, 1500)
    assert "--tile 512x512" in refused.value.hint
    whole = int(refused.value.hint.split("more than ")[1].split("MB")[0]) * 1_000_000
    enough = Restorer(open_net(kind), RestoreConfig(whole, count_process=False), dict(restorer.known))
    assert enough.plan(2000, 1500).tiles == 1


@pytest.mark.parametrize("kind", UNTILEABLE)
def test_tiles_that_are_asked_for_come_with_how_large_the_difference_is(kind, wide_photo):
    restorer = Restorer(open_net(kind), RestoreConfig(tile=Resolution(160, 160)))
    restorer.restore(wide_photo)
    assert "of 255 levels" in restorer.seams
    assert float(restorer.seams.split(" by ")[1].split(" of ")[0]) > BOUND


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_result_that_is_no_number_is_a_failure(value, photo):
    class Broken(Local):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            y[..., 3, 5] = value
            return y

    with pytest.raises(VerificationError, match="NaN or infinite values on torch") as failed:
        deblur(open_net(Broken), photo)
    assert "finds the layer" in failed.value.hint or "find the layer" in failed.value.hint


SIZES = {Resolution(1280, 640): Resolution(1024, 640), Resolution(1920, 1080): Resolution(1376, 960)}
"""Sizes of pictures, with tiles that are as few as have seams."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", sorted(path.parent.name for path in shipped("models").glob("*/manifest.json")))
def test_no_shipped_network_differs_in_tiles(name, wide_photo, record_property):
    """In INT8, what counts is what stands out from the network's own rounding."""
    known: dict[str, int] = {}
    with open_runner(load_artifact(shipped("models") / name)) as runner:

        def restore_whole(picture: Float) -> Float:
            return runner.infer(picture.transpose(2, 0, 1)[None])[0].clip(0, 1)

        for size, tile in SIZES.items():
            repeats = -(-size.height // wide_photo.shape[0]), -(-size.width // wide_photo.shape[1]), 1
            picture = (np.tile(wide_photo, repeats)[: size.height, : size.width] / 255).astype(np.float32)
            restorer = Restorer(runner, RestoreConfig(tile=tile), known)
            whole, tiled = restore_whole(picture), restorer.restore(picture).transpose(2, 0, 1)
            assert restorer.plan(size.width, size.height).tiles > 1
            apart = np.abs(tiled - whole)
            if name.endswith("-int8"):
                noise = np.abs(restore_whole(noisy(picture)) - whole)
                apart = np.maximum(0, block_means(apart) - block_means(noise).max())
            levels = float(apart.max() * 255)
            record_property(f"levels at {size}", levels)
            assert restorer.seams == "" or name.endswith("-int8")  # the others run scale by scale without a seam
            assert restorer.seams != "" or levels <= BOUND
