"""Ranges of shapes for networks with free sizes, and what is said of sizes that do not fit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from deblur_deploy.config import ShapeConfig
from deblur_deploy.core.errors import BuildError, ConfigError
from deblur_deploy.engine.build_settings import resolve_profiles
from deblur_deploy.graph.profile import Profile


def network(shape: str = "batch,3,height,width", output: str = "batch,3,height,width") -> onnx.ModelProto:
    model = parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 19]> g (float[{shape}] x) => (float[{output}] y) {{ y = Conv(x, w) }}'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w"))
    return model


def test_each_size_has_a_profile_of_its_own():
    found = resolve_profiles(network(), ShapeConfig(res=("640x360", "320x180"), batch=(1, 4)))

    assert found == (
        Profile("x", (1, 3, 360, 640), (4, 3, 360, 640), (4, 3, 360, 640)),
        Profile("x", (1, 3, 180, 320), (4, 3, 180, 320), (4, 3, 180, 320)),
    )


def test_a_range_is_one_profile_tuned_for_its_best_size():
    config = ShapeConfig(min_res="64x48", opt_res="640x360", max_res="1280x720", batch=(2, 2))
    (found,) = resolve_profiles(network(), config)

    assert found == Profile("x", (2, 3, 48, 64), (2, 3, 360, 640), (2, 3, 720, 1280))
    assert not found.is_one_shape
    (largest,) = resolve_profiles(network(), ShapeConfig(min_res="64x48", max_res="1280x720"))
    assert largest.opt == largest.max


def test_channels_may_come_last():
    (found,) = resolve_profiles(network("N,H,W,3", "N,H,W,3"), ShapeConfig(res=("64x48",)))

    assert found.opt == (1, 48, 64, 3)
    assert found.is_one_shape


def test_sizes_that_are_fixed_stay():
    (found,) = resolve_profiles(network("batch,3,48,64", "batch,3,48,64"), ShapeConfig(batch=(1, 8)))

    assert (found.min, found.max) == ((1, 3, 48, 64), (8, 3, 48, 64))
    assert resolve_profiles(network("1,3,48,64", "1,3,48,64"), ShapeConfig(res=("64x48",))) == ()


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        (ShapeConfig(), "batch,3,height,width", "any size, and an engine must know which"),
        (ShapeConfig(res=("64x48", "64x48")), "batch,3,height,width", "asked for twice"),
        (ShapeConfig(min_res="640x360", max_res="320x720"), "batch,3,height,width", "320x720 as its best size"),
        (
            ShapeConfig(min_res="64x64", opt_res="640x32", max_res="640x640"),
            "batch,3,height,width",
            "640x32 as its best size, which is outside",
        ),
        (ShapeConfig(res=("32x32",)), "1,3,48,64", r"32, 32\) was asked for, and the network takes \(1, 3, 48, 64\)"),
        (ShapeConfig(batch=(4, 4)), "1,3,48,64", r"\(4, 3, 48, 64\) was asked for"),
        (ShapeConfig(min_res="32x32", max_res="64x48"), "1,3,48,64", r"\(1, 3, 32, 32\) was asked for"),
        (ShapeConfig(res=("64x48",), batch=(1, 2)), "1,3,height,width", r"takes \(1, 3, any, any\)"),
    ],
)  # fmt: skip
def test_a_shape_outside_is_refused(config: ShapeConfig, shape: str, message: str):
    with pytest.raises(ConfigError, match=message):
        resolve_profiles(network(shape, shape), config)


def test_networks_that_are_no_batch_of_pictures_are_refused():
    with pytest.raises(BuildError, match=r"'x' \(N, C\)"):
        resolve_profiles(network("N,C", "N,C"), ShapeConfig(res=("64x48",)))
    with pytest.raises(BuildError, match="number of channels"):
        resolve_profiles(network("1,C,H,W", "1,C,H,W"), ShapeConfig(res=("64x48",)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"res": ("64x48",), "max_res": "64x48", "min_res": "8x8"}, "res and a range"),
        ({"min_res": "64x48"}, "max_res None"),
        ({"opt_res": "64x48"}, "min_res is None"),
        ({"batch": (0, 1)}, "batch is 0 to 1"),
        ({"batch": (4, 1)}, "batch is 4 to 1"),
    ],
)
def test_settings_check_themselves(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        ShapeConfig(**settings)
