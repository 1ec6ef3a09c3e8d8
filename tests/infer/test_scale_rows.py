"""A network that runs scale by scale gives in tiles what it gives for the whole picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import ImageSpec, Resolution
from deblur_deploy.infer.band import Band
from deblur_deploy.infer.restore import RestoreConfig, Restorer, deblur
from deblur_deploy.infer.scale_plan import Margins, ScalePlan, ScalePlanner
from deblur_deploy.infer.scale_reach import measure_scale_margins
from deblur_deploy.infer.tiles import TILE_BYTES_PER_PIXEL
from deblur_deploy.network.scales import Scales
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.runtime.eager import TorchRunner

SEAM = 0.05 / 255

TILE = Resolution(240, 224)

MARGINS = {"scale_margin_across": 48, "scale_margin_down": 64, "tile_difference": 0}
"""What the network of the tests needs; its layers see no further than that, but for offsets, which are small."""


def tiled(runner, tile, known=MARGINS):
    return Restorer(runner, RestoreConfig(tile=tile, count_process=False), dict(known))


@pytest.mark.parametrize("size", [(401, 303), (1000, 50), (50, 1000)])
def test_tiles_of_every_scale_give_the_whole_picture(runner, wide_photo, size):
    width, height = size
    repeats = -(-height // wide_photo.shape[0]), -(-width // wide_photo.shape[1]), 1
    picture = (np.tile(wide_photo, repeats)[:height, :width] / 255).astype(np.float32)
    restorer = tiled(runner, TILE)

    plan = restorer.plan(width, height)

    assert isinstance(plan, ScalePlan)
    assert plan.tiles > 2
    assert plan.scales[1].tiles > 1 or max(size) < 1000
    assert np.abs(restorer.restore(picture) - deblur(runner, picture)).max() < SEAM


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (np.uint16, 2), (np.uint16, 3), (np.uint8, 4)])
def test_every_kind_of_picture_goes_through(runner, wide_photo, dtype, channels):
    picture = np.concatenate([wide_photo, wide_photo[..., :1]], axis=2)[:240, :401, :channels].astype(dtype)
    picture *= 257 if dtype == np.uint16 else 1
    restored, whole = tiled(runner, TILE).restore(picture), deblur(runner, picture)

    alpha = picture[:, :, -1:] if channels in (2, 4) else picture[:, :, :0]
    assert np.array_equal(restored[:, :, channels - alpha.shape[2] :], alpha)
    assert np.abs(restored.astype(int) - whole).max() <= (1 if dtype == np.uint8 else 65535 * SEAM)


def test_the_picture_may_come_in_any_number_of_rows(runner, wide_photo):
    restorer = tiled(runner, TILE)
    picture = np.ascontiguousarray(wide_photo.transpose(1, 0, 2)[:, :64])
    together = restorer.restore(picture)
    for count in (1, 37, 200):
        restore = restorer.begin_rows(restorer.plan(64, 416), picture.dtype)
        buffer = np.empty((count, *picture.shape[1:]), np.uint8)  # as readers do that use one again and again
        finished = []
        for start in range(0, 416, count):
            part = picture[start : start + count]
            buffer[: len(part)] = part
            finished += restore(buffer[: len(part)])
        assert np.array_equal(np.concatenate(finished), together)


@pytest.mark.parametrize(("name", "tile"), [("scale_margin_across", (112, 320)), ("scale_margin_down", (416, 112))])
def test_without_its_margin_a_seam_shows(runner, wide_photo, name, tile):
    picture = (wide_photo / 255).astype(np.float32)
    restored = tiled(runner, Resolution(*tile), MARGINS | {name: 0}).restore(picture)
    assert np.abs(restored - deblur(runner, picture)).max() > 4 * SEAM


def test_the_margin_is_at_least_what_the_layers_see_on_paper(runner):
    """Far offsets are none here, so that it is just that, rounded up, with 16 as reserve."""
    assert runner.scales.reach == 56
    assert measure_scale_margins(runner, runner.scales) == Margins(80, 80)


def test_layers_see_no_further_than_on_paper():
    """A change of the picture, the estimate or the state beyond that leaves the result of a scale bit for bit."""
    torch.manual_seed(0)
    net = SRN(SRNConfig.from_base(8, (2, 3, 1), stem=2)).eval().double()  # its offsets are zero
    torch.nn.init.normal_(net.head.weight, std=0.05)
    reach, stride = net.scales.reach, net.scales.state_stride
    length = 64 * (2 * reach // 64 + 2)
    given = [torch.rand(1, c, length // s, 64 // s, dtype=torch.double) for c, s in ((3, 1), (3, 2), (32, 2 * stride))]
    changed = [values.clone() for values in given]
    for values in changed:
        values[:, :, : values.shape[2] // 2] = torch.rand_like(values[:, :, : values.shape[2] // 2])
    with torch.inference_mode():
        before, after = (net.run_scale(image, (estimate, state))[0] for image, estimate, state in (given, changed))
    differs = (before != after).amax(dim=(0, 1, 3)).nonzero().max().item() - length // 2 + 1
    assert reach - 6 * stride < differs <= reach


def test_other_ways_of_running_it_take_the_network_as_a_whole():
    net = SRN(SRNConfig.from_base(8, (1, 1, 1))).eval()
    assert TorchRunner(net, ImageSpec(), "torch-channels-last").scales == Scales(3, 4, 32, 56)
    assert TorchRunner(net, ImageSpec(), "torch-compile").scales is None


@pytest.mark.parametrize("size", [(1280, 640), (6000, 4000), (12240, 8160), (200, 90_000)])
@pytest.mark.parametrize(("budget", "stored"), [(1_000_000_000, 1), (1_200_000_000, 3), (2_000_000_000, 8)])
def test_a_plan_keeps_to_its_budget(size, budget, stored):
    """Rows of all scales are held at once, and one tile of one scale is worked on."""
    width, height = size
    scales = Scales(3, 8, 96, 254)
    plan = ScalePlanner(scales, Margins(304, 272), 384).within(width, height, stored, budget)

    largest = max(tiles.tile_width * tiles.tile_height for tiles in plan.scales)
    held = 0
    for index, tiles in enumerate(plan.scales):
        rows = tiles.tile_height
        held += rows * tiles.width * (12 + (stored if index == 0 else 12))  # sums, and the window
        waiting = 0 if index == 0 else 16 * stored // 4 if index == 1 else 16 * stored + 4 * 12
        held += rows * tiles.width * waiting
    assert largest * (384 + TILE_BYTES_PER_PIXEL) + held <= budget
    assert plan.pixels >= 21 / 16 * width * height


def test_a_margin_of_one_scale_costs_a_fraction_of_the_whole_networks():
    plan = ScalePlanner(Scales(3, 8, 96, 254), Margins(304, 272), 384).within(6000, 4000, 3, 1_000_000_000)
    assert plan.pixels < 5.5 * 6000 * 4000


@pytest.mark.parametrize("size", [(6000, 4000), (20_000, 300), (90_000, 200)])
def test_too_little_memory_is_refused_with_what_is_enough(size):
    planner = ScalePlanner(Scales(3, 8, 96, 254), Margins(304, 272), 384)
    with pytest.raises(ConfigError, match=r"does not fit into the memory: the smallest tiles take \d+ MB") as refused:
        planner.within(*size, 3, 100_000_000)
    more = int(refused.value.hint.split(" MB more")[0].split("give ")[1])
    planner.within(*size, 3, 100_000_000 + more * 750_000)


def test_tiles_without_room_between_their_margins_are_refused(runner):
    with pytest.raises(ConfigError, match="leave nothing between two margins of 64"):
        tiled(runner, Resolution(416, 112)).plan(416, 320)


def test_a_band_is_written_in_blocks_cut_and_let_go():
    picture = np.random.default_rng(0).random((40, 30, 2), dtype=np.float32)
    band = Band()
    for top in range(0, 40, 10):
        for left in range(0, 30, 15):
            band.put(top, left, picture[top : top + 10, left : left + 15])
        band.drop(top - 5)
        first = max(0, top - 5)
        assert np.array_equal(band.cut(slice(first, top + 10), slice(3, 20)), picture[first : top + 10, 3:20])
    with pytest.raises(AssertionError, match="not here"):
        band.cut(slice(0, 5), slice(0, 5))
