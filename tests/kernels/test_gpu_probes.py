"""What is to run on a lent GPU, run here first: kernels on the emulator, networks on the processor."""

from __future__ import annotations

import ctypes
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kernel_cases import DTYPE, Case, CaseProgram

from deblur_deploy.config import FitConfig, TrainConfig
from deblur_deploy.core.artifact import new_step
from deblur_deploy.core.images import Resolution
from deblur_deploy.data import pairs as pairs_module
from deblur_deploy.kernels import torch_kernel
from deblur_deploy.kernels.geometry import Geometry
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.srn import SRN
from deblur_deploy.training import train as train_module

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FEW = range(2)


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    names = ("gpu_probes", "network_probes", "kernels", "deform_rivals")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for module in BENCHMARKS.glob("*.py"):
        sys.modules.pop(module.stem, None)


@pytest.fixture
def probes(scripts, monkeypatch):
    monkeypatch.setattr(scripts.gpu_probes.kernel_cases(), "SWEEP", FEW)
    return scripts.gpu_probes


@pytest.fixture
def tiny(scripts, tiny_config, tmp_path, monkeypatch):
    """A tiny network in the place of the shipped ones, and few pairs to evaluate on."""
    torch.manual_seed(0)
    net = SRN(tiny_config).eval()
    made = save_network(tmp_path / "tiny", net, spec_of(net), new_step("import", {}, None, {}))
    monkeypatch.setattr(scripts.network_probes, "shipped_networks", lambda names=(): [made])
    first = pairs_module.load_pairs(None, "evaluation")[:1]
    monkeypatch.setattr(pairs_module, "load_pairs", lambda *_: first)
    monkeypatch.setattr(train_module, "load_pairs", lambda *_: first)
    monkeypatch.setattr(scripts.network_probes, "_STEPS_TIMED", 3)
    monkeypatch.setattr(scripts.network_probes, "_PILOT_STEPS", 3)
    return scripts.network_probes


def test_parity(probes, emulator, monkeypatch):
    def launch(call):
        elements = torch.from_numpy(emulator.launch(call.entry, call.geometry, call.operands).copy())
        call.result.copy_(elements.as_strided(call.result.shape, call.result.stride()))

    monkeypatch.setattr(torch_kernel, "launch_call", launch)
    *earlier, last = probes.kernel_parity(60, "cpu")
    assert last.verdict == "proven", last.found
    assert {finding.verdict for finding in earlier} == {"unproven"}  # a part of a sweep proves nothing yet
    assert last.found.startswith("8 of 8 problems, largest error ")
    monkeypatch.setattr(torch_kernel, "launch_call", lambda call: call.result.zero_())
    *_, last = probes.kernel_parity(60, "cpu")
    assert last.verdict == "failed"


def test_plain_arguments_come_in_the_order_of_the_ptx(probes, emulator, monkeypatch):
    """Pointers and numbers are taken apart as the flat entry point declares them, and run on the emulator."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs NVRTC: pip install 'deblur-deploy[cuda]'")

    def launch(name, device, grid, parameters):
        *first, y_pointer = parameters
        pointers = [int.from_bytes(raw, "little") for raw in (*first[:3], y_pointer)]
        g = Geometry(*(int.from_bytes(raw, "little", signed=True) for raw in first[3:]))
        half, last = "f16" in name, "nhwc" in name
        sizes = [
            g.batch * g.height * g.width * (g.x_pitch if last else g.channels),
            g.out_channels * g.channels // g.groups * g.kernel_h * g.kernel_w,
            2 * g.kernel_h * g.kernel_w * g.offset_groups * g.batch * g.out_height * g.out_width,
            g.batch * g.out_height * g.out_width * (g.y_pitch if last else g.out_channels),
        ]
        dtypes = [DTYPE["f16" if half else "f32"]] * 4
        dtypes[2] = torch.float16 if g.half_offset else torch.float32
        operands = [
            torch.frombuffer((ctypes.c_uint8 * (size * dtype.itemsize)).from_address(pointer), dtype=dtype)
            for pointer, size, dtype in zip(pointers, sizes, dtypes, strict=True)
        ]
        case = Case(name, grid, "nhwc" if last else "nchw", g, (*operands[:3], None, operands[3]))
        operands[3].copy_(torch.from_numpy(emulator.run([case], "0")[0].copy()))

    monkeypatch.setattr(torch_kernel, "load_function", lambda device, name, ptx: name)
    monkeypatch.setattr(torch_kernel, "launch_function", launch)
    *_, last = probes.flat_ptx(60, "cpu")
    assert last.verdict == "proven", last.found


def test_the_plugins_enqueue(probes, emulator, monkeypatch):
    monkeypatch.setattr(probes, "gpu_runner", lambda: CaseProgram(*emulator.command, "0"))
    *_, last = probes.plugin_enqueue(60)
    assert (last.verdict, last.found[:12]) == ("proven", "6 of 6 calls")


@pytest.mark.parametrize("complains", ["none", "synccheck"])
def test_sanitizers(probes, emulator, monkeypatch, tmp_path, complains):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        f"#!{sys.executable}\nimport os, subprocess, sys\n"
        "at = next(i for i, word in enumerate(sys.argv[1:], 1) if word.startswith(os.sep))\n"
        f"if sys.argv[2] == {complains!r}: sys.exit(9)\n"
        "assert sys.argv[2] != 'memcheck' or '--report-api-errors' in sys.argv\n"
        "sys.exit(subprocess.run(sys.argv[at:]).returncode)\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path('/usr/bin')}")
    monkeypatch.setattr(probes, "gpu_runner", lambda: CaseProgram(*emulator.command, "0"))
    *_, last = probes.sanitizers(60)
    assert last.verdict == ("proven" if complains == "none" else "failed")
    assert complains == "none" or "synccheck ended with 9" in last.found


def test_runners_rows(tiny):
    runtimes, sizes = ("torch-channels-last", "torch-bf16", "torch-cuda"), (Resolution(64, 48),)
    first, *_, last = tiny.torch_runners(120, runtimes, sizes)
    assert (first.verdict, first.found[:21]) == ("unproven", "1 rows, 2 not reached")
    rows = {row["runtime"]: row for row in last.details["rows"]}
    assert last.verdict == "proven", last.found
    assert rows["torch-channels-last"]["psnr_db"] > 100
    assert rows["torch-bf16"]["median_ms"] > 0
    assert "skipped" in rows["torch-cuda"]
    assert "2 rows; tiny 64x48" in last.found

    tiny._LEAST_PSNR_DB["float32"] = 500.0
    *_, last = tiny.torch_runners(120, runtimes[:1], sizes)
    assert last.verdict == "failed"


def test_energy_says_why_there_is_none(tiny):
    *_, last = tiny.energy(10, ("torch-cuda",))
    assert last.verdict == "unproven"
    assert "torch-cuda" in last.found


def test_training_speed(tiny):
    *_, last = tiny.training_speed(60, "cpu", crop=32, batch=1)
    assert last.verdict in ("proven", "failed")
    assert set(last.details["step_seconds"]) == {"float32", "bfloat16"}
    assert last.details["ratio"] > 0


def test_fine_tuning_is_a_real_run(tiny):
    config = TrainConfig(fit=FitConfig(steps=3, batch=1, crop=32, warmup=1))
    figures, step = tiny._train(tiny.shipped_networks()[0], config)
    assert figures["psnr_db"] > 10
    assert figures["loss"] > 0
    assert step > 0


@pytest.mark.parametrize(("after", "verdict"), [(60.0, "proven"), (1.0, "failed")])
def test_fine_tuning_takes_the_time_that_is_left(tiny, monkeypatch, after, verdict):
    runs = []

    def train(source, config):
        runs.append(config.fit.steps)
        return {"psnr_db": after, "seconds": 1.0, "data_seconds": 0.5, "loss": 0.01}, 0.25

    monkeypatch.setattr(tiny, "_train", train)
    planned, found = tiny.fine_tune(10_000, crop=32, batch=1)
    assert planned.verdict == "unproven"
    assert runs[0] == 3
    assert 0.7 * 4 * 9_000 < runs[1] <= 0.75 * 4 * 10_000
    assert found.verdict == verdict
    assert found.details["after_db"] == after
    (only,) = tiny.fine_tune(0, crop=32, batch=1)
    assert only.verdict == "unproven"


class Device:
    """Stands for ``torch.cuda``: a call takes 0.25 ms on it, and 5 ms on the host that launches it."""

    def __init__(self) -> None:
        self.host_ms = self.device_ms = 0.0
        self.captured: list[int] | None = None

    def call(self) -> None:
        if self.captured is not None:
            self.captured[0] += 1
        else:
            self.host_ms = self.device_ms = max(self.host_ms + 5.0, self.device_ms) + 0.25

    def Stream(self) -> SimpleNamespace:
        return SimpleNamespace(wait_stream=lambda other: None)

    current_stream = Stream

    def stream(self, stream: object) -> object:
        return self.graph(None)

    def synchronize(self) -> None: ...

    def Event(self, enable_timing: bool) -> SimpleNamespace:
        event = SimpleNamespace(at=0.0)
        event.record = lambda: setattr(event, "at", self.device_ms)
        event.elapsed_time = lambda end: end.at - event.at
        return event

    def CUDAGraph(self) -> SimpleNamespace:
        graph = SimpleNamespace(calls=[0])
        graph.replay = lambda: setattr(self, "device_ms", self.device_ms + 0.25 * graph.calls[0])
        return graph

    def graph(self, graph: SimpleNamespace | None) -> object:
        device = self

        class Capture:
            def __enter__(self) -> None:
                device.captured = graph.calls if graph else None

            def __exit__(self, *_: object) -> None:
                device.captured = None

        return Capture()


def test_the_clock_counts_the_device_and_not_the_host(scripts):
    device = Device()
    times = scripts.kernels.GpuClock(5, device).time(device.call)
    assert times == pytest.approx([0.25] * 5)


def test_weights_are_packed_once(scripts, monkeypatch):
    layer = scripts.deform_rivals.Layer.draw((6, 5, 8), "f16", "cpu")
    packed, launched = [], []
    pack = torch_kernel.pack_weight
    monkeypatch.setattr(torch_kernel, "pack_weight", lambda *given: packed.append(1) or pack(*given))
    monkeypatch.setattr(scripts.deform_rivals, "launch_call", launched.append)
    way = scripts.deform_rivals.FusedKernel(layer, torch.channels_last)
    results = [way() for _ in range(3)]
    assert (len(packed), len(launched)) == (1, 3)
    assert results[0] is results[2]
    assert results[0].is_contiguous(memory_format=torch.channels_last)
    assert np.isfinite(layer.grid_sample().float().numpy()).all()
