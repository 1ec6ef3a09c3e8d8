"""Activations beyond float16 are found before a picture is lost to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from deblur_deploy.config import PrecisionConfig
from deblur_deploy.core.errors import ExportError
from deblur_deploy.core.images import ImageSpec, Resolution, from_frames
from deblur_deploy.export.overflow import check_activations, largest_activations
from deblur_deploy.export.precision import convert_to_fp16, lower_precision
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.runtime import runner as runner_module

SIZE = Resolution(41, 30)
IMAGE = ImageSpec(height=SIZE.height, width=SIZE.width)


def scaled(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """The same picture, on the way to which the first layer's output is larger by a factor."""
    large = onnx.ModelProto()
    large.CopyFrom(model)
    weights = {item.name: item for item in large.graph.initializer}
    for node in large.graph.node:
        if node.name == "/enter/Conv":
            for name in node.input[1:]:
                weights[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights[name]) * factor, name))
    return large


@pytest.fixture(scope="module")
def model(tiny) -> onnx.ModelProto:
    return network_to_onnx(tiny, SIZE)


def check(model, image, photos):
    return check_activations(model, convert_to_fp16(model), photos, image)


def test_a_sound_network_passes_with_its_largest_activation(model, draw_frames):
    photo = draw_frames(1, 40, 60)[0]
    figures = check(model, IMAGE, [photo])
    assert 0.1 < figures["largest_activation"] < 100
    assert figures["largest_activation_layer"]


def test_a_scaled_network_is_refused_and_the_layer_is_named(model, draw_frames):
    with pytest.raises(ExportError, match=r"'/enter/Conv' reaches .*, and float16 holds no more than 65504") as err:
        check(scaled(model, 3e5), IMAGE, [draw_frames(1, 40, 60)[0]])
    assert "--fp32" in err.value.hint
    assert "behind '/enter/Conv'" in err.value.message  # the Relu


def test_a_layer_that_is_kept_in_float32_may_be_large(model, draw_frames):
    large = scaled(model, 1e5)
    batch = from_frames(draw_frames(1, SIZE.height, SIZE.width))
    names = {node.output[0] for node in large.graph.node if node.name == "/enter/Conv"}
    (peak,) = largest_activations(large, names, [batch]).values()
    assert peak > 6e4
    kept = convert_to_fp16(large, ["*"])
    assert check_activations(large, kept, [draw_frames(1, 40, 60)[0]], IMAGE) == {}


def test_what_is_cast_to_float16_counts_where_its_maker_is_kept(model, draw_frames):
    large = scaled(model, 1e6)
    with pytest.raises(ExportError, match="/enter/Conv"):
        check_activations(large, convert_to_fp16(large, ["/enter/Conv"]), [draw_frames(1, 40, 60)[0]], IMAGE)


def test_magnitudes_are_the_largest_of_all_batches(model):
    name = next(node.output[0] for node in model.graph.node if node.name == "/enter/Conv")
    shape = (1, 3, SIZE.height, SIZE.width)
    dark, bright = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    (low,), (high,) = (largest_activations(model, {name}, [each]).values() for each in (dark, bright))
    (both,) = largest_activations(model, {name}, [bright, dark]).values()
    assert both == max(low, high)


@pytest.mark.parametrize(("io", "image"), [("uint8", ImageSpec.of_frames(None, None)), ("float", ImageSpec())])
def test_frames_and_free_sizes_are_checked_too(tiny, draw_frames, io, image):
    figures = check(network_to_onnx(tiny, None, io), image, [draw_frames(1, 17, 23)[0]])
    assert figures["largest_activation"] > 0.1


def test_the_stage_checks_and_leaves_nothing_where_it_fails(
    model, save, draw_frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(draw_frames(1, 24, 24)[0]).save(photos / "small.png")  # smaller than the graph
    config = PrecisionConfig(check_overflow=True, calibration=str(photos))
    sound = lower_precision(save(model, IMAGE), config, tmp_path / "sound")
    assert sound.figures["largest_activation"] > 0.1
    with pytest.raises(ExportError, match="reaches"):
        lower_precision(save(scaled(model, 3e5), IMAGE), config, tmp_path / "large")
    assert not (tmp_path / "large").exists()
    monkeypatch.setattr(runner_module, "find_spec", lambda name: None)
    unchecked = lower_precision(save(model, IMAGE), config, tmp_path / "unchecked")
    assert "onnxruntime" in unchecked.figures["overflow_unchecked"]
