"""Options of ``export-trt``: what becomes of sizes, numbers and memory before anything is built."""

from __future__ import annotations

import math

import pytest

from deblur_deploy.cli.engine_options import is_one_picture_size, parse_batch, with_default_size, workspace_bytes
from deblur_deploy.config import ShapeConfig
from deblur_deploy.errors import ConfigError


def test_several_pictures_at_a_time_have_the_usual_size_where_none_is_given() -> None:
    shapes = ShapeConfig(batch=parse_batch("1-4"))
    assert not is_one_picture_size(shapes)
    assert with_default_size(shapes) == ShapeConfig(res=("640x360",), batch=(1, 4))
    for given in (ShapeConfig(res=("64x48",)), ShapeConfig(min_res="64x48", max_res="96x64")):
        assert with_default_size(given) == given


def test_scratch_memory_is_counted_in_mebibytes() -> None:
    assert workspace_bytes(None) is None
    assert workspace_bytes(1.5) == 1_572_864


@pytest.mark.parametrize("mebibytes", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-9, 1e30])
def test_what_is_no_memory_is_refused_in_the_unit_of_the_option(mebibytes: float) -> None:
    with pytest.raises(ConfigError, match=r"--workspace is") as e:
        workspace_bytes(mebibytes)
    assert "MiB" in e.value.hint
