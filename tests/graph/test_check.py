"""A graph that is not valid is one clear error, whichever of onnx's checks finds it."""

from __future__ import annotations

import onnx
import pytest

from deblur_deploy.core.errors import ExportError
from deblur_deploy.graph.check import check_graph, infer_shapes


def graph(body: str) -> onnx.ModelProto:
    head = '<ir_version: 9, opset_import: ["": 19]> g (float[1,2,4,4] x) => (float[1,2,4,4] y)'
    return onnx.parser.parse_model(f"{head} <float[3] three = {{1.0, 2.0, 3.0}}, int64[1] one = {{1}}> {{ {body} }}")


@pytest.mark.parametrize(
    "body",
    ["y = Add(x, three)", "y = Add(x, one)", "y = Nonsense(x)", "y = Relu(missing)"],
    ids=["shapes", "types", "operator", "value"],
)
def test_what_is_wrong_is_one_sentence(body: str) -> None:
    with pytest.raises(ExportError, match="the graph is bad: ") as caught:
        check_graph(graph(body), "the graph is bad", "write another")
    assert "\n" not in caught.value.message
    assert caught.value.hint == "write another"


def test_a_valid_graph_passes() -> None:
    check_graph(graph("y = Relu(x)"), "the graph is bad", "write another")


def test_shapes_that_do_not_fit_are_named_alone_too() -> None:
    with pytest.raises(ExportError, match="shapes do not fit"):
        infer_shapes(graph("y = Add(x, three)"))
