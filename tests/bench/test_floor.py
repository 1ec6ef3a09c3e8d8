"""Floors: work that is known beforehand, and counters held against each other."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deblur_deploy.bench.ceilings import Ceilings, convolution_stack, measure_cpu_ceilings
from deblur_deploy.bench.floor import find_floor, network_floor
from deblur_deploy.bench.limits import add_floors
from deblur_deploy.bench.measure import BenchConfig, BenchReport
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.images import Resolution
from deblur_deploy.graph.node_costs import compute_nodes

CEILINGS = Ceilings("cpu", {"fp32": 100.0, "bf16": 200.0, "int8": 400.0}, 10.0, {})
SMALL = Resolution(32, 16)


def test_a_floor_is_the_longer_of_arithmetic_and_memory() -> None:
    floor = find_floor({"fp32": 1.0, "int8": 4.0}, bytes_moved=50_000_000, ceilings=CEILINGS)
    assert (floor.floor_ms, floor.bound) == (pytest.approx(20), "arithmetic")  # 10 ms and 10 ms
    floor = find_floor({"fp32": 1.0}, bytes_moved=500_000_000, ceilings=CEILINGS)
    assert (floor.floor_ms, floor.bound) == (pytest.approx(50), "memory")


def test_work_in_a_type_that_was_not_probed_gets_the_highest_ceiling() -> None:
    assert find_floor({"fp16": 4.0}, 0, CEILINGS).floor_ms == pytest.approx(10)


@pytest.mark.parametrize("quantized", [False, True])
def test_both_counters_agree_on_a_network_of_known_macs(quantized: bool) -> None:
    channels, size, layers = 8, 12, 3
    known = layers * channels * channels * 9 * size * size
    net = nn.Sequential(*(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(layers))).to("meta")
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, channels, size, size, device="meta"))
    assert counter.get_total_flops() == 2 * known
    nodes = compute_nodes(convolution_stack(channels, size, layers, quantized=quantized))
    assert sum(node.macs for node in nodes) == known
    assert {node.type for node in nodes} == {"int8" if quantized else "fp32"}


def test_a_checkpoint_and_its_graph_have_nearly_the_same_floor(tiny_checkpoint: Artifact, tiny_graph: Artifact) -> None:
    of_checkpoint = network_floor(tiny_checkpoint, "torch", (SMALL, 1), CEILINGS)
    of_graph = network_floor(tiny_graph, "onnxruntime", (SMALL, 1), CEILINGS)
    assert of_checkpoint is not None
    assert of_graph is not None
    # The graph's DeformConv is a product and a sampling, of which only the product is counted in both.
    assert of_graph.gmacs["fp32"] == pytest.approx(of_checkpoint.gmacs["fp32"], rel=0.02)
    assert of_graph.bytes == 2 * 3 * 32 * 16 * 4 + tiny_graph.path.stat().st_size


def test_batches_and_bfloat16_count(tiny_graph: Artifact) -> None:
    one, four, bf16 = (
        network_floor(tiny_graph, runtime, (SMALL, batch), CEILINGS)
        for runtime, batch in (("openvino", 1), ("openvino", 4), ("openvino-bf16", 1))
    )
    assert one is not None
    assert four is not None
    assert bf16 is not None
    assert four.gmacs["fp32"] == pytest.approx(4 * one.gmacs["fp32"])
    assert bf16.gmacs.keys() == {"bf16"}


def test_an_engine_has_no_floor(tiny_graph: Artifact) -> None:
    engine = dataclasses.replace(tiny_graph, kind="engine")
    assert network_floor(engine, "tensorrt", (SMALL, 1), CEILINGS) is None


def test_a_graph_that_cannot_be_counted_has_no_floor(tiny_graph: Artifact, tmp_path: Path) -> None:
    broken = dataclasses.replace(tiny_graph, path=tmp_path / "broken.onnx")
    broken.path.write_bytes(b"no graph")
    assert network_floor(broken, "onnxruntime", (SMALL, 1), CEILINGS) is None


def test_without_the_library_that_counts_there_is_no_floor(
    tiny_graph: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert network_floor(tiny_graph, "onnxruntime", (SMALL, 1), CEILINGS) is None


def test_frames_are_bytes_and_lowered_weights_are_half(tiny_checkpoint: Artifact) -> None:
    frames = dataclasses.replace(tiny_checkpoint, image=dataclasses.replace(tiny_checkpoint.image, dtype="uint8"))
    plain, lowered, small = (
        network_floor(artifact, runtime, (SMALL, 1), CEILINGS)
        for artifact, runtime in ((tiny_checkpoint, "torch"), (tiny_checkpoint, "torch-bf16"), (frames, "torch"))
    )
    assert plain is not None
    assert lowered is not None
    assert small is not None
    assert plain.bytes - lowered.bytes == tiny_checkpoint.path.stat().st_size - tiny_checkpoint.path.stat().st_size // 2
    assert plain.bytes - small.bytes == 2 * 3 * 32 * 16 * 3


def test_the_machine_s_ceilings_are_measured() -> None:
    found = measure_cpu_ceilings(threads=1, seconds=0)
    assert found.gmacs_per_s.keys() >= {"fp32", "int8"}
    assert min(found.gmacs_per_s.values()) > 0
    assert found.gb_per_s > 0.1
    assert found.best["int8"] in ("onnxruntime", "openvino")


def test_every_row_that_was_measured_gets_its_floor(tiny_report: BenchReport, quick: BenchConfig) -> None:
    report = add_floors(tiny_report, quick)
    for row in report.rows:
        assert row.floor is not None
        assert row.latency_ms is not None
        assert row.over_floor == pytest.approx(row.latency_ms.median / row.floor.floor_ms)
    assert report.device["ceilings"]["cpu"]["gb_per_s"] > 0


def test_a_probe_graph_is_valid() -> None:
    for quantized in (False, True):
        onnx.checker.check_model(convolution_stack(4, 8, 2, quantized=quantized), full_check=True)


def test_the_quantized_probe_is_computed_in_int8_on_every_processor() -> None:
    """Larger codes than 64 are computed in float32 where there is no VNNI, and the ceiling would be that of float32."""
    (weights,) = (
        item for item in convolution_stack(8, 8, 1, quantized=True).graph.initializer if item.name == "weights"
    )
    assert np.abs(numpy_helper.to_array(weights)).max() == 64
