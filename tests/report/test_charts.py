"""Charts: what they claim, and SVG that can stand in a page whatever the names in it are."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from deblur_deploy.report.canvas import Chart, draw_png, draw_svg, shortened
from deblur_deploy.report.charts import latency_chart, pareto_front, quality_chart, signed, size_chart, tradeoff_chart
from deblur_deploy.report.layer_charts import (
    frame_times_chart,
    layers_chart,
    precision_chart,
    pruning_chart,
    quantization_chart,
)
from deblur_deploy.report.scans import FrameFront, GroupCurve, Scans
from deblur_deploy.report.stages import read_stages
from deblur_deploy.report.timings import read_sessions
from tests.report.conftest import Run

HOSTILE = "<script>alert('$x_1$')</script>"


@pytest.fixture
def charts(whole_run: Run) -> dict[str, Chart]:
    stages = read_stages(whole_run.folder)
    (session,) = read_sessions(whole_run.folder, stages)
    groups = (GroupCurve("narrow", ((0.5, 0.1), (0.25, 0.3))), GroupCurve(HOSTILE, ((0.5, 2.0), (0.25, 3.0))))
    front = FrameFront(HOSTILE, 40.0, ((10.0, 1.5, 32), (20.0, 0.25, 64)))
    scans = Scans(groups, ((HOSTILE, 0.2), ("body", -0.01)), front)
    made = (
        quality_chart(stages),
        size_chart(stages),
        latency_chart(session, "latency"),
        tradeoff_chart(stages, session, "tradeoff"),
        precision_chart(stages),
        layers_chart(stages[-1].artifact),
        pruning_chart(scans),
        quantization_chart(scans),
        frame_times_chart(scans),
    )
    return {chart.slug: chart for chart in made if chart}


def test_the_figures_stand_in_the_tables(charts: dict[str, Chart]) -> None:
    assert charts["quality"].rows == (
        ("blurred input", "24.00", "–", "–"),
        ("original", "25.50", "+1.50", "100%"),
        ("pruned", "25.30", "−0.20", "87%"),
        ("int8", "25.25", "−0.05", "83%"),
        ("fp16 engine", "25.26", "+0.01", "84%"),
    )
    assert [row[2] for row in charts["size"].rows] == ["1.000", "0.499", "0.124", "1.125"]
    assert charts["latency"].rows[-1] == ("int8 · openvino", "75.0", "82.5", "90.0", "112.5", "yes")
    assert [row[0] for row in charts["tradeoff"].rows if row[3] == "yes"] == [
        "original · openvino",
        "pruned · openvino",
        "int8 · openvino",
    ]
    assert charts["layers"].rows == (("a", "fp16", "0.0090"), ("b", "unproven", "0.0010"))
    assert charts["frame-times"].rows == (("10.0", "1.50", "32"), ("20.0", "0.25", "64"), ("40.0", "0.00", "all"))
    assert charts["frame-times"].description == (
        f"In {HOSTILE}, the unpruned network takes 40.0 ms; the shortest frame time compared, 10.0 ms, is predicted to "
        "lose 1.50 dB before fine-tuning."
    )
    assert charts["pruning"].description.startswith(
        f"Of 2 groups of channels, {HOSTILE} is the most sensitive: 3.00 dB"
    )


def test_every_chart_is_an_image_with_title_and_description(charts: dict[str, Chart]) -> None:
    assert len(charts) == 9
    ids: list[str] = []
    for chart in charts.values():
        text = draw_svg(chart)
        root = ET.fromstring(text)
        title, description = root[0], root[1]
        assert (title.text, description.text) == (chart.title, chart.description)
        assert root.get("role") == "img"
        assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
        assert root.get("viewBox")
        assert root.get("width") is None
        ids += re.findall(r'\bid="([^"]+)"', text)
        references = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
        assert references <= set(ids)
        assert "<style" not in text
        assert not re.search(r"(?:fill|stroke): #(?!fff)", text), "a colour that the page does not choose"
        assert "<script" not in text
        assert draw_svg(chart) == text
    assert len(ids) == len(set(ids))


def test_a_chart_is_a_png_too(charts: dict[str, Chart]) -> None:
    assert draw_png(charts["quantization"]).startswith(b"\x89PNG")


def test_names_in_other_scripts_and_formulas_are_drawn(charts: dict[str, Chart]) -> None:
    chart = quantization_chart(Scans(layers=(("層 $\\frac{", 0.1),)))
    assert chart
    assert "層 $\\frac{" in "".join(ET.fromstring(draw_svg(chart)).itertext())
    assert draw_png(chart)


def test_many_runtimes_with_long_names_leave_room_for_the_points(whole_run: Run) -> None:
    names = ("tensorrt-rtx-no-graph", "torch-cuda-channels-last", "torch-cuda-fp16-graph", "onnxruntime-tensorrt-rtx")
    for index, name in enumerate(names):
        whole_run.time("onnx-int8", name, 9.0 + index)
    stages = read_stages(whole_run.folder)
    (session,) = read_sessions(whole_run.folder, stages)
    chart = tradeoff_chart(stages, session, "tradeoff")
    assert chart is not None
    words = "".join(ET.fromstring(draw_svg(chart)).itertext())  # Matplotlib warns where the axes have no room left
    assert all(shortened(name) in words for name in names)


def test_what_was_not_measured_has_no_chart(whole_run: Run) -> None:
    stages = read_stages(whole_run.folder)
    assert quality_chart(stages[1:]) is None
    assert pruning_chart(Scans()) is None
    assert quantization_chart(Scans()) is None
    assert layers_chart(stages[0].artifact) is None


def test_the_pareto_front_keeps_what_nothing_beats() -> None:
    assert pareto_front([(10, 1.0), (20, 2.0), (15, 0.5), (20, 1.5), (30, 2.0), (40, 3.0)]) == [0, 1, 5]
    assert pareto_front([(10, 1.0), (10, 1.0)]) == [0]
    assert pareto_front([]) == []


def test_changes_have_a_sign_and_no_minus_zero() -> None:
    assert [signed(value) for value in (0.123, -0.123, -0.0004)] == ["+0.12", "−0.12", "+0.00"]
