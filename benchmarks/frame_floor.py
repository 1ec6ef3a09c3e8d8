"""Where the time of one frame goes in OpenVINO, operator by operator, beside what arithmetic and bytes would take."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from measurement import Measurement

from deblur_deploy.bench.ceilings import Ceilings, measure_cpu_ceilings
from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.sources import shipped
from deblur_deploy.core.threads import default_threads

_BYTES = {"f32": 4, "i32": 4, "f16": 2, "bf16": 2, "i64": 8}
_WEIGHTED = ("Convolution", "Deconvolution", "DeformableConvolution", "FullyConnected", "MatMul")
_KIND = {"i8": "int8", "u8": "int8", "bf16": "bf16"}


@dataclass(frozen=True)
class FrameFloor:
    """One shipped network in OpenVINO, with its own clock of every operator.

    Args:
        model: Name of a shipped generator.
        resolution: Size of the frame.
        frames: Inferences that are timed, after three that are not; OpenVINO gives the mean.
    """

    model: str
    resolution: Resolution
    frames: int

    def measure(self) -> Measurement:
        """Time of all operators over the sum of their floors."""
        from deblur_deploy.export.to_onnx import export_onnx

        threads = default_threads()
        with TemporaryDirectory() as name:
            config = ExportConfig(self.resolution.width, self.resolution.height, evaluate=False)
            graph = export_onnx(load_artifact(shipped("models") / self.model), config, Path(name) / "onnx")
            operators = _timed_operators(graph.path, self.resolution, threads, self.frames)
        ceilings = measure_cpu_ceilings(threads)
        groups: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
        for kind, ms, macs, moved in operators:
            floor = _floor_ms(kind, macs, moved, ceilings)
            groups[kind] = [a + b for a, b in zip(groups[kind], (ms, macs / 1e9, moved / 1e6, floor), strict=True)]
        total, floor = (sum(group[at] for group in groups.values()) for at in (0, 3))
        ordered = sorted(groups.items(), key=lambda item: -item[1][0])
        rows = [
            [kind, f"{ms:.2f}", f"{ms / total:.0%}", f"{gmacs:.2f}", f"{mb:.0f}", f"{least:.2f}"]
            for kind, (ms, gmacs, mb, least) in ordered
        ]
        headings = ("operator", "ms", "share", "GMACs", "MB moved", "floor ms")
        details = {"threads": threads, "table": {"headings": headings, "rows": rows}, "ceilings": vars(ceilings)}
        note = f"{total:.1f} ms over {floor:.1f} ms; " + ", ".join(f"{row[0]} {row[2]}" for row in rows[:4])
        return Measurement(total / floor, "×", {}, note, details)


def _timed_operators(path: Path, size: Resolution, threads: int, frames: int) -> list[tuple[str, float, float, float]]:
    """Of every operator that took time: kind and kernel, mean ms, multiply-accumulates, bytes read and written."""
    import openvino

    from deblur_deploy.graph.for_openvino import read_for_openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": True}
    compiled = core.compile_model(read_for_openvino(core, path), "CPU", settings)
    request, frame = compiled.create_infer_request(), np.random.default_rng(0).random((1, 3, size.height, size.width))
    for _ in range(3):
        request.infer({0: frame.astype(np.float32)})
    request = compiled.create_infer_request()
    for _ in range(frames):
        request.infer({0: frame.astype(np.float32)})
    nodes = {node.get_friendly_name(): node for node in compiled.get_runtime_model().get_ordered_ops()}
    found = []
    for count in request.profiling_info:
        ms = count.real_time.total_seconds() * 1000
        if ms > 0 and count.node_name in nodes:
            kind = f"{count.node_type} {count.exec_type}"
            found.append((kind, ms, *_work(nodes[count.node_name], count.node_type)))
    return found


def _work(node: Any, kind: str) -> tuple[float, float]:
    """Multiply-accumulates and bytes of an operator of OpenVINO's runtime graph."""
    outputs = [(list(port.get_shape()), port.get_node()) for port in node.outputs()]
    inputs = [(list(port.get_shape()), port.get_source_output().get_node()) for port in node.inputs()]
    moved = float(sum(math.prod(shape) * _value_bytes(maker) for shape, maker in (*outputs, *inputs)))
    if kind not in _WEIGHTED and kind != "ConvolutionBackpropData":
        return 0.0, moved
    picture = inputs[0][0] if kind in ("Deconvolution", "ConvolutionBackpropData") else outputs[0][0]
    constants = [shape for shape, maker in inputs[1:] if _fact(maker, "layerType") == "Const" and len(shape) >= 4]
    # Those of a deformable convolution come third, through a change of layout.
    weights = inputs[2][0] if kind == "DeformableConvolution" else next(iter(constants), [])
    return float(math.prod(picture[2:]) * math.prod(weights)) if weights else 0.0, moved


def _value_bytes(maker: Any) -> int:
    return _BYTES.get(_fact(maker, "outputPrecisions").split(",")[0], 1)


def _fact(node: Any, name: str) -> str:
    info = node.get_rt_info()
    return str(info[name].astype(str)) if name in info else ""


def _floor_ms(kind: str, macs: float, moved: float, ceilings: Ceilings) -> float:
    """The longer of what the arithmetic and the bytes take at the machine's own ceilings."""
    element = _KIND.get(kind.rsplit("_", 1)[-1].lower(), "fp32")
    best = max(ceilings.gmacs_per_s.values())
    return max(macs / 1e6 / ceilings.gmacs_per_s.get(element, best), moved / 1e6 / ceilings.gb_per_s)
