"""A precision is a row and a converter: a made-up one is exported, shown, and refused where a card lacks it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from deblur_deploy.cli.engine_options import chosen_precision, with_precision_flags
from deblur_deploy.cli.export_trt_command import command as export_trt
from deblur_deploy.cli.export_trt_command import gives_engine
from deblur_deploy.config import (
    PRECISIONS,
    EngineConfig,
    PrecisionConfig,
    PrecisionRow,
    load_converter,
    precision_of_stage,
)
from deblur_deploy.core.errors import BuildError, ConfigError
from deblur_deploy.core.images import ImageSpec, Resolution, to_batch
from deblur_deploy.engine.build import check_engine_config
from deblur_deploy.engine.proof import PrecisionProof, parse_layers, require_precision
from deblur_deploy.export.precision import lower_precision
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.network.generator import Generator
from deblur_deploy.report.canvas import PRINT
from deblur_deploy.report.layer_charts import _tone

CONVERTER = '''
import onnx
from onnx import TensorProto, helper, numpy_helper

def in_doubles(model, keep_fp32=(), kept=()):
    """Every convolution in float64, between casts."""
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    stored = {item.name: item for item in typed.graph.initializer}
    nodes = []
    for node in list(typed.graph.node):
        if node.op_type == "Conv":
            for slot, name in enumerate(node.input):
                node.input[slot] = wide = f"{name}_{node.name}_wide"
                if name in stored:
                    values = numpy_helper.to_array(stored[name]).astype("float64")
                    typed.graph.initializer.append(numpy_helper.from_array(values, wide))
                else:
                    nodes.append(helper.make_node("Cast", [name], [wide], to=TensorProto.DOUBLE))
            output, node.output[0] = node.output[0], f"{node.output[0]}_wide"
            nodes += [node, helper.make_node("Cast", [node.output[0]], [output], to=TensorProto.FLOAT)]
        else:
            nodes.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del typed.graph.node[:]
    typed.graph.node.extend(nodes)
    return typed
'''


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A row of a type that no engine has."""
    (tmp_path / "doubles.py").write_text(CONVERTER)
    monkeypatch.syspath_prepend(tmp_path)
    row = PrecisionRow(
        onnx_type="DOUBLE",
        converter="doubles:in_doubles",
        stage="to-fp64",
        takes_quantized=True,
        first_capability=(9, 0),
        without_it=", which has no such arithmetic",
        help="Layers in float64, for nobody.",
        hint="build it with --fp32",
        tone="accent",
        words=("double",),
    )
    monkeypatch.setitem(PRECISIONS, "fp64", row)
    return "fp64"


class TwoConvolutions(Generator):
    """What ONNX's reference evaluator runs in any type."""

    arch = "test"

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        return [blurred + self.leave(F.relu(self.enter(blurred)))]


def test_it_is_exported_with_its_type(made_up, save, draw_frames, tmp_path):
    size = Resolution(40, 32)
    image = ImageSpec(height=size.height, width=size.width)
    source = save(network_to_onnx(TwoConvolutions().eval(), size), image)

    typed = lower_precision(source, PrecisionConfig(precision=made_up), tmp_path / "typed")

    assert typed.stage == "to-fp64"
    assert typed.figures["precision"] == {"fp64": 1.0}
    batch = to_batch(draw_frames(1, 32, 40)[0])
    given, expected = (
        ReferenceEvaluator(onnx.load(artifact.path)).run(None, {"blurred": batch})[0] for artifact in (typed, source)
    )
    np.testing.assert_allclose(given, expected, atol=1e-5)
    assert gives_engine(typed, None, made_up)
    assert not gives_engine(typed, None, "fp16")
    assert precision_of_stage(typed.stage) == made_up
    onnx.checker.check_model(onnx.load(typed.path), full_check=True)


@pytest.mark.rtx
def test_a_card_that_lacks_it_is_refused(made_up):
    with pytest.raises(BuildError, match="TensorRT-RTX runs no fp64 convolutions on RTX 2080 Ti"):
        check_engine_config(EngineConfig(precision=made_up, target="2080ti", flavour="rtx"))
    assert check_engine_config(EngineConfig(precision=made_up, target="5090", flavour="rtx")) == "rtx"


def test_help_and_messages_list_it(made_up):
    app = typer.Typer()
    app.command()(with_precision_flags(export_trt.__wrapped__))
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert "--fp64" in shown
    assert "for nobody" in shown
    assert "--bf16" in shown
    with pytest.raises(ConfigError) as refused:
        EngineConfig(precision="fp12")
    assert "fp64" in refused.value.hint
    assert "fp8" in refused.value.hint


def test_a_proof_and_a_chart_know_it(made_up):
    text = (
        "Layers:\nName: a, LayerType: conv, Inputs: [ { Name: x, Dimensions: [1,8,4,4], Strides: [1], "
        "Datatype: Double, Format: Linear }], Constants: [], Outputs: [], TacticName: t, StreamId: 0, Metadata: "
    )
    assert parse_layers(text)[0].inputs[0].type == made_up
    with pytest.raises(BuildError) as refused:
        require_precision(PrecisionProof({"a": "fp32"}, {"a": 1}), made_up)
    assert refused.value.hint == "build it with --fp32"
    assert _tone(made_up, PRINT) == {"color": PRINT.accent}


def test_every_row_has_a_converter_and_one_default():
    for label, row in PRECISIONS.items():
        assert callable(load_converter(row)), label
        assert (row.stage is None) or row.stage == f"to-{label}"
    assert chosen_precision(dict.fromkeys(PRECISIONS, False)) == "fp16"
    assert chosen_precision({"fp16": False, "int8": True}) == "int8"
    with pytest.raises(ConfigError, match="--fp16 and --int8"):
        chosen_precision({"fp16": True, "int8": True})
