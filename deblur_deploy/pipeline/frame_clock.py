"""Timing networks for a frame time: each as it will run, in turns with the network that it is pruned from.

For TensorRT that is an engine, built for the card at hand.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.bench.device import device_facts
from deblur_deploy.bench.samples import median_ratio_interval
from deblur_deploy.compress.calibration import assume_ranges
from deblur_deploy.compress.quantize import plan_scheme
from deblur_deploy.config import EngineConfig, ExportConfig, FrameTimeConfig, PrecisionConfig, QatConfig
from deblur_deploy.core.artifact import Artifact, new_step
from deblur_deploy.core.bench_rows import device_identity
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution
from deblur_deploy.engine.build import build_engine
from deblur_deploy.export.precision import lower_precision
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.fake_quant import insert_quantizers
from deblur_deploy.network.generator import Generator
from deblur_deploy.runtime.runner import Runner, open_runner, reason_missing
from deblur_deploy.runtime.runtimes import find_runtime

Frames = NDArray[np.float32]
"""(1, 3, H, W), RGB in [0, 1]."""

_LEAST, _ENOUGH, _MOST, _SECONDS = 3, 10, 60, 0.6
"""Frames of each network: from the fewest on until the ratio is certain, else until there are enough and the time is
up, or the most."""

_CERTAIN = 0.01
"""Half of the 95 % interval of the ratio of two networks that needs no more frames, as a share of it."""


class FrameClock:
    """Times networks in one runtime and precision; used as a context manager.

    A network's frames take turns with those of the network that it came from, and what counts is the ratio of the two:
    a machine that slows down slows both.

    Args:
        source: The float checkpoint that is pruned.
        config: Runtime, precision and size of the frame.

    Raises:
        ConfigError: There is no such runtime, or it does not compute in INT8 and should.
    """

    def __init__(self, source: Artifact, config: FrameTimeConfig) -> None:
        self._source, self._config = source, config
        self._runtime = find_runtime(config.runtime)
        if config.int8 and self._runtime.kind == "checkpoint":
            raise ConfigError(
                f"{config.runtime} computes quantized networks in floats, and --int8 was asked for",
                hint="name a --runtime of ONNX files or engines, such as openvino or tensorrt-rtx, or leave --int8 out",
            )
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(TemporaryDirectory()))
        machine = device_identity(device_facts())
        res = str(Resolution(config.width, config.height))
        precision = "int8" if config.int8 else "fp16" if self._runtime.flavour else "fp32"
        self.identity: Mapping[str, Any] = {
            **{"network": source.sha256, "runtime": config.runtime, "precision": precision, "res": res},
            **machine,
        }
        shape = (1, 3, config.height, config.width)
        self._frame = np.random.default_rng(0).random(shape, dtype=np.float32)
        self._reference: tuple[Runner, float] | None = None

    def __enter__(self) -> FrameClock:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def time(self, net: Generator) -> tuple[float, float]:
        """Median ms of a frame, and half of the 95 % interval of its ratio to the unpruned network's, as a share of it.

        Args:
            net: A float network; it is left as it is.

        Raises:
            DeblurDeployError: It cannot be exported, or not run.
        """
        reference, reference_ms = self._open_reference()
        with self._opened(net, "candidate") as runner:
            ours, theirs = _in_turns(runner, reference, self._frame)
        ratio = statistics.median(ours) / statistics.median(theirs)
        return ratio * reference_ms, _uncertainty(ours, theirs)

    def _open_reference(self) -> tuple[Runner, float]:
        """The unpruned network, kept open, and its own median."""
        if self._reference is None:
            runner = self._stack.enter_context(self._opened(load_network(self._source), "reference"))
            ours, again = _in_turns(runner, runner, self._frame)
            self._reference = runner, statistics.median([*ours, *again])
        return self._reference

    @contextmanager
    def _opened(self, net: Generator, name: str) -> Iterator[Runner]:
        runtime = self._config.runtime
        if reason := reason_missing(runtime):
            raise ConfigError(f"networks cannot be timed in {runtime} here: {reason}", hint="name another --runtime")
        with open_runner(self._artifact(net, name), runtime) as runner:
            yield runner

    def _artifact(self, net: Generator, name: str) -> Artifact:
        """A network as it will run: quantized if that is what counts, exported, built."""
        spec, settings = spec_of(net), self._config
        if settings.int8:
            net = load_network(
                save_network(self._folder / f"{name}-float", net, spec, new_step("import", {}, None, {}))
            )
            scheme = plan_scheme(net, QatConfig())
            insert_quantizers(net, dataclasses.asdict(scheme))
            assume_ranges(net, scheme)  # those of activations make no difference to the time
            spec = dataclasses.replace(spec, quantization=dataclasses.asdict(scheme))
        checkpoint = save_network(self._folder / name, net, spec, new_step("import", {}, None, {}))
        if self._runtime.kind == "checkpoint":
            return checkpoint
        size = ExportConfig(settings.width, settings.height, compare=False)  # only its time is wanted
        graph = export_onnx(checkpoint, size, self._folder / f"{name}-onnx")
        return self._engine(graph, name) if self._runtime.flavour else graph

    def _engine(self, graph: Artifact, name: str) -> Artifact:
        """The engine of an ONNX file, in INT8 where the file is, else in FP16."""
        precision = self.identity["precision"]
        config = EngineConfig(target="current", flavour=self._runtime.flavour or "auto", precision=precision)
        if not self._config.int8:
            graph = lower_precision(graph, PrecisionConfig(precision=precision), self._folder / f"{name}-{precision}")
        # In the narrowest networks of a table the layers that stay float32 can be more than a tenth.
        return build_engine(graph, config, self._folder / f"{name}-engine", strict=False)


def _in_turns(one: Runner, other: Runner, frame: Frames) -> tuple[list[float], list[float]]:
    """Milliseconds of frames of two networks that take turns."""
    taken: tuple[list[float], list[float]] = ([], [])
    for runner in (one, other):
        runner.infer(frame)  # the first frame is slower
    until = time.perf_counter() + _SECONDS
    while not _is_enough(taken, until):
        for runner, times in zip((one, other), taken, strict=True):
            start = time.perf_counter()
            runner.infer(frame)
            times.append((time.perf_counter() - start) * 1000)
    return taken


def _is_enough(taken: tuple[list[float], list[float]], until: float) -> bool:
    count = len(taken[0])
    if count < _LEAST:
        return False
    is_late = count >= _MOST or (count >= _ENOUGH and time.perf_counter() >= until)
    return is_late or _uncertainty(*taken) <= _CERTAIN


def _uncertainty(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Half of the 95 % interval of the ratio of two medians, as a share of it."""
    low, high = median_ratio_interval(ours, theirs)
    return (high - low) / 2 / (statistics.median(ours) / statistics.median(theirs))
