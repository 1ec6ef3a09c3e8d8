"""Pictures of every kind and size come out as the network alone would give them, whole or in tiles."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.errors import ConfigError, DeblurDeployError
from deblur_deploy.core.images import ImageSpec, Resolution, from_batch, to_batch
from deblur_deploy.core.process_memory import resident_bytes
from deblur_deploy.core.sources import shipped
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.infer.receptive_field import block_means, measure_bytes_per_pixel, noisy
from deblur_deploy.infer.restore import RestoreConfig, Restorer, deblur
from deblur_deploy.runtime.runner import open_runner

SEAM = 0.5 / 255


def test_a_photograph_is_what_the_network_gives(runner, photo):
    assert np.array_equal(deblur(runner, photo), from_batch(runner.infer(to_batch(photo))))
    assert not np.array_equal(deblur(runner, photo), photo)


def test_16_bits_are_not_squeezed_through_8(runner, photo):
    fine = photo.astype(np.uint16) * 257 + np.arange(256, dtype=np.uint16)[: photo.shape[0], None, None] % 256
    expected = runner.infer((fine.astype(np.float32) / 65535).transpose(2, 0, 1)[None].copy())[0]

    restored = deblur(runner, fine)

    assert restored.dtype == np.uint16
    assert np.array_equal(restored, np.rint(np.clip(expected, 0, 1).transpose(1, 2, 0) * 65535).astype(np.uint16))
    assert len(np.unique(restored)) > 5000


def test_float_stays_float(runner, photo):
    unit = (photo / 255).astype(np.float32)
    restored = deblur(runner, unit)
    assert restored.dtype == np.float32
    assert np.abs(restored * 255 - deblur(runner, photo)).max() <= 0.501


def test_gray_stays_gray_and_is_the_mean_of_the_channels(runner, photo):
    gray = photo[..., 0]
    colors = runner.infer(to_batch(np.repeat(gray[:, :, None], 3, axis=2)))[0].mean(axis=0)
    restored = deblur(runner, gray)
    assert restored.shape == gray.shape
    assert np.array_equal(restored, np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8))


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_kept_and_changes_nothing(runner, photo, channels):
    alpha = np.random.default_rng(0).integers(0, 256, (*photo.shape[:2], 1), np.uint8)
    colors = photo[..., : channels - 1]
    restored = deblur(runner, np.concatenate([colors, alpha], axis=2))
    assert np.array_equal(restored[..., -1:], alpha)
    assert np.array_equal(restored[..., :-1], deblur(runner, colors))


@pytest.mark.parametrize("bad", [(4,), (4, 4, 5), (0, 4, 3), (1, 3, 4, 4)])
def test_what_is_no_picture_is_refused(runner, bad):
    with pytest.raises(ConfigError, match="is no picture"):
        deblur(runner, np.zeros(bad, np.uint8))
    with pytest.raises(ConfigError, match="float64 is no picture"):
        deblur(runner, np.zeros((4, 4, 3)))


def test_tiles_leave_no_seam_on_a_tiny_network(runner, wide_photo):
    picture = (wide_photo / 255).astype(np.float32)
    whole = deblur(runner, picture)
    tiles = Restorer(runner, RestoreConfig(tile=Resolution(208, 224)))

    assert tiles.plan(416, 320).tiles > 4
    assert np.abs(tiles.restore(picture) - whole).max() <= SEAM


def test_tiles_leave_no_seam_on_a_trained_network_or_say_so(moving_photo):
    """On a real photograph, whose smooth parts carry further than drawn ones; beyond what INT8 rounds anyway."""
    with open_runner(load_artifact(shipped("models") / "srn-demo-p70-int8"), "torch") as runner:
        restorer = Restorer(runner, RestoreConfig(tile=Resolution(1024, 96)))
        strip = np.concatenate([moving_photo, moving_photo[:, ::-1]] * 2, axis=1)[:96]
        height, width = strip.shape[:2]
        whole = deblur(runner, strip)
        noise = np.abs(deblur(runner, noisy(strip)) - whole)
        assert 0 < noise.mean() * 255 < 1  # the furthest sample is another one on every processor

        assert restorer.plan(width, height).tiles > 1
        apart = np.abs(restorer.restore(strip) - whole)
        beyond = block_means(apart.transpose(2, 0, 1)).max() - block_means(noise.transpose(2, 0, 1)).max()
        assert beyond <= SEAM or "of 255 levels" in restorer.seams
        assert beyond <= 2 * SEAM


def test_a_fixed_size_graph_takes_pictures_of_any_size(artifact, tmp_path, wide_photo):
    """Small pictures are padded to its size, and large ones tiled; away from the borders it gives what torch gives."""
    fixed = export_onnx(artifact, ExportConfig(width=208, height=190), tmp_path / "onnx")
    with open_runner(artifact, "torch") as free, open_runner(fixed, "onnxruntime") as graph:
        for picture in (wide_photo, wide_photo[:50, :400], wide_photo[:1, :1], wide_photo[:190, :208]):
            unit = (picture / 255).astype(np.float32)
            difference = np.abs(deblur(graph, unit) - deblur(free, unit))
            inner = difference[:-64, :-64] if min(picture.shape[:2]) > 64 else difference[:0]
            assert difference.shape == picture.shape
            assert inner.max(initial=0) <= SEAM


def test_a_graph_that_is_too_small_for_its_reach_says_so(artifact, tmp_path, wide_photo, runner):
    tiny = export_onnx(artifact, ExportConfig(width=48, height=48), tmp_path / "onnx")
    with open_runner(tiny, "onnxruntime") as graph:
        restorer = Restorer(graph)
        restorer.restore(wide_photo[:40, :40])
        assert not restorer.shows_seams
        restorer.restore(wide_photo[:80, :80])
        assert restorer.shows_seams
    whole = Restorer(runner)
    whole.restore(wide_photo)
    assert not whole.shows_seams


def test_a_network_is_measured_once_for_many_pictures(runner, photo, monkeypatch):
    first = deblur(runner, photo)
    monkeypatch.setattr("deblur_deploy.infer.planner.measure_bytes_per_pixel", None)
    assert np.array_equal(deblur(runner, photo), first)


def test_a_larger_picture_takes_tiles_instead_of_more_memory(runner):
    base = resident_bytes()
    assert base is not None
    restorer = Restorer(runner, RestoreConfig(max_memory=base + 600_000_000))
    small, large = restorer.plan(320, 200), restorer.plan(6000, 4000)

    assert small.tiles == 1
    assert large.tiles > 1
    areas = [tiles.tile_width * tiles.tile_height for tiles in large.scales]
    assert max(areas) * restorer.known["bytes_per_pixel"] < 600_000_000


MEASURE_PEAKS = """
import json
import sys
import numpy as np
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.infer.restore import RestoreConfig, Restorer
from deblur_deploy.core.process_memory import peak_during

class Smoother:  # averages three rows, and holds 60 float32 per pixel meanwhile
    name, image = "smoother", ImageSpec()

    def infer(self, batch):
        features = np.repeat(batch, 20, axis=1)
        padded = np.pad(features[:, ::20], ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
        return (padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]) / 3

measured = []
for width, height in ((700, 500), (2100, 1600), (3400, 2600)):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    restorer = Restorer(Smoother(), RestoreConfig(int(sys.argv[1]), count_process=False))
    tiles = restorer.plan(width, height).tiles
    measured.append((tiles, peak_during(lambda: restorer.restore_in_place(picture))))
print(json.dumps(measured))
"""


def test_peak_memory_does_not_grow_with_the_picture():
    """A picture 25 times as large stays within the same budget.

    In a process of its own: in one that has lived, holes that earlier work left in the heap hide what is taken or
    cannot be given back, and threads of other libraries come and go meanwhile.
    """
    budget = 80_000_000
    command = [sys.executable, "-c", MEASURE_PEAKS, str(budget)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    tiles, peaks = zip(*json.loads(ended.stdout), strict=True)

    assert tiles[2] > tiles[1] > tiles[0]
    assert min(peaks) > 10_000_000, "what the network holds must be seen"
    assert max(peaks) <= budget


def test_memory_per_pixel_is_measured(runner):
    measured = measure_bytes_per_pixel(runner)
    assert 100 < measured < 2000  # 24 channels of float32 at the finest scale and their inputs
    assert measured % 128 == 0


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_network_gives_back_what_it_keeps_between_inferences(runtime, one_convolution):
    """For a picture that takes more than its share, and only then; what it gives afterwards is the same."""
    large = np.random.default_rng(0).random((1, 3, 1500, 2000), dtype=np.float32)
    with open_runner(one_convolution, runtime) as opened:
        restorer = Restorer(opened, RestoreConfig(max_memory=8_000_000_000))
        before = opened.infer(large).sum()
        kept = resident_bytes()
        restorer.make_room(restorer.in_flight_bytes)
        assert resident_bytes() > kept - 20_000_000
        restorer.make_room(restorer.in_flight_bytes + 1)
        assert resident_bytes() < kept - 30_000_000
        assert opened.infer(large).sum() == before


def test_a_network_that_takes_no_small_pictures_keeps_its_memory_and_goes_on(large_only):
    """Giving memory back is a courtesy: where it cannot be done, the run does not end."""
    large = np.random.default_rng(0).random((1, 3, 128, 160), dtype=np.float32)
    with open_runner(large_only, "onnxruntime") as opened:
        before = opened.infer(large)
        with pytest.raises(DeblurDeployError, match="failed on a 1x3x64x64 batch"):
            opened.infer(large[..., :64, :64])
        opened.give_back_memory()
        assert np.array_equal(opened.infer(large), before)


def test_a_network_that_mirrors_its_border_gives_back_what_it_keeps(mirroring):
    large = np.random.default_rng(0).random((1, 3, 1500, 2000), dtype=np.float32)
    with open_runner(mirroring, "onnxruntime") as opened:
        opened.infer(large)
        kept = resident_bytes()
        opened.give_back_memory()
        assert resident_bytes() < kept - 30_000_000


def test_memory_that_the_program_itself_takes_is_refused(runner):
    with pytest.raises(ConfigError, match=r"the network alone takes .* MB, and 50 MB are allowed"):
        Restorer(runner, RestoreConfig(max_memory=50_000_000))


class FrameRunner:
    """A network of camera frames that gives back what it gets."""

    name = "frames"
    image = ImageSpec.of_frames(None, None)

    def infer(self, batch):
        return batch


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_network_of_frames_refuses_what_it_would_squeeze_through_8_bits(photo, dtype):
    runner = FrameRunner()
    assert np.array_equal(deblur(runner, photo), photo)
    with pytest.raises(ConfigError, match="8-bit frames") as caught:
        deblur(runner, (photo / 255).astype(dtype))
    assert "--io float" in caught.value.hint
