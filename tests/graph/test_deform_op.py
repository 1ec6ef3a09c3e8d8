"""The forms of the deformable convolution: the same picture, in every runtime that reads them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from deblur_deploy.core.images import ImageSpec, Resolution, from_frames
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.graph.node_costs import compute_nodes, share_of_macs
from deblur_deploy.graph.retype import convert_to_fp16
from deblur_deploy.runtime.runner import open_runner

SIZE = Resolution(41, 30)
FORMS = ("plugin", "standard", "native")


@pytest.fixture(scope="module")
def forms(tiny) -> dict[str, onnx.ModelProto]:
    return {form: network_to_onnx(tiny, SIZE, deform_op=form) for form in FORMS}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_exact_in_every_runtime(tiny, forms, save, draw_frames, form, runtime):  # noqa: PLR0913
    batch = from_frames(draw_frames(1, SIZE.height, SIZE.width))
    with torch.no_grad():
        expected = tiny(torch.from_numpy(batch)).numpy()
    with open_runner(save(forms[form], ImageSpec(height=30, width=41)), runtime, threads=1) as runner:
        assert np.abs(runner.infer(batch) - expected).max() <= 1e-4


def test_each_form_has_the_nodes_it_promises(forms):
    kinds = {form: {(n.domain, n.op_type) for n in model.graph.node} for form, model in forms.items()}
    assert [("deblur", "DeformConv2d") in kinds[form] for form in FORMS] == [True, False, False]
    assert [("", "DeformConv") in kinds[form] for form in FORMS] == [False, True, False]
    assert [("", "GridSample") in kinds[form] for form in FORMS] == [False, False, True]
    assert [len(forms[form].functions) for form in FORMS] == [1, 0, 0]
    domains = {form: {item.domain for item in model.opset_import} for form, model in forms.items()}
    assert domains == {"plugin": {"", "deblur"}, "standard": {""}, "native": {""}}


@pytest.mark.parametrize("form", FORMS)
def test_positions_stay_float32_in_float16(forms, save, draw_frames, form):
    typed = convert_to_fp16(forms[form])
    flat = onnx.inliner.inline_local_functions(typed)
    graph = onnx.shape_inference.infer_shapes(flat, strict_mode=True, data_prop=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    positions = [n.input[1] for n in graph.node if n.op_type == "GridSample"]
    positions += [n.input[2] for n in graph.node if n.op_type == "DeformConv"]
    assert [types[name] for name in positions] == [TensorProto.FLOAT]
    assert share_of_macs(typed)["fp16"] > 0.5
    batch = from_frames(draw_frames(1, SIZE.height, SIZE.width))
    image = ImageSpec(height=30, width=41)
    with (
        open_runner(save(forms[form], image), "onnxruntime", 1) as exact,
        open_runner(save(typed, image), "onnxruntime", 1) as reduced,
    ):
        difference = np.abs(exact.infer(batch) - reduced.infer(batch))
    assert 0 < difference.max() <= 5e-3


def test_all_forms_count_the_same_arithmetic(forms):
    macs = [sum(n.macs for n in compute_nodes(onnx.inliner.inline_local_functions(m))) for m in forms.values()]
    assert len(set(macs)) == 1
