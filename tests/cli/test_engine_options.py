"""Options of ``export-trt``: what becomes of sizes, numbers and memory before anything is built."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.engine_options import parse_batch, with_default_size, workspace_bytes
from deblur_deploy.cli.export_trt_command import report_engine
from deblur_deploy.config import ShapeConfig
from deblur_deploy.core.artifact import Artifact, NetworkSpec, new_step
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import ImageSpec


def test_several_pictures_at_a_time_have_the_usual_size_where_none_is_given() -> None:
    shapes = ShapeConfig(batch=parse_batch("1-4"))
    assert not shapes.is_one_picture
    assert with_default_size(shapes) == ShapeConfig(res=("640x360",), batch=(1, 4))
    for given in (ShapeConfig(res=("64x48",)), ShapeConfig(min_res="64x48", max_res="96x64")):
        assert with_default_size(given) == given


@pytest.mark.rtx
def test_names_of_layers_that_stay_float32_reach_the_conversion(run, made, tmp_path) -> None:
    arguments = ("export-trt", made["import"], "--res", "32x32", "--runs", tmp_path, "--keep-fp32")
    assert "'/no/such/*', which fits no node" in run(*arguments, "/no/such/*").refusal(2)


def test_scratch_memory_is_counted_in_mebibytes() -> None:
    assert workspace_bytes(None) is None
    assert workspace_bytes(1.5) == 1_572_864


@pytest.mark.parametrize("mebibytes", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-9, 1e30])
def test_what_is_no_memory_is_refused_in_the_unit_of_the_option(mebibytes: float) -> None:
    with pytest.raises(ConfigError, match=r"--workspace is") as e:
        workspace_bytes(mebibytes)
    assert "MiB" in e.value.hint


@pytest.mark.parametrize(
    ("precision", "because", "said"),
    [
        ({"fp16": 0.98, "fp32": 0.02}, None, ["for SM75, proven 98% of MACs in fp16, 2% of MACs in fp32"]),
        ({"unproven": 1.0}, "no list", ["for SM75, precision unproven", "unproven  100% of MACs: no list"]),
        ({"fp16": 0.97, "unproven": 0.03}, "no c", ["for SM75, proven 97% of MACs in fp16", "3% of MACs: no c"]),
    ],
)
def test_what_is_not_proven_is_said_with_the_reason(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    precision: dict[str, float],
    because: str | None,
    said: list[str],
) -> None:
    figures = {"flavour": "rtx", "flavour_version": "1.7", "target": "SM75", "profiles": [], "precision": precision}
    step = new_step("export-trt", {}, None, figures | {"precision_unproven_because": because})
    engine = Artifact("engine", tmp_path / "model.engine", "0" * 64, NetworkSpec("srn", {}), ImageSpec(), (step,))
    report_engine(Output(), engine)
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith(end) for line, end in zip(lines, said, strict=True)] == [True] * len(said)
