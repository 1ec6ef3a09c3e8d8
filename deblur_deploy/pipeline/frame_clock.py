"""Timing networks for a frame time: each as it will run, in turns with the network that it is pruned from."""

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
from deblur_deploy.config import ExportConfig, FrameTimeConfig, QatConfig
from deblur_deploy.core.artifact import Artifact, new_step
from deblur_deploy.core.bench_rows import device_identity
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.fake_quant import insert_quantizers
from deblur_deploy.network.generator import Generator
from deblur_deploy.runtime.runner import Runner, open_runner, reason_unavailable, runtimes_for

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
        ConfigError: The runtime does not run such networks, or not here.
    """

    def __init__(self, source: Artifact, config: FrameTimeConfig) -> None:
        self._source, self._config = source, config
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(TemporaryDirectory()))
        machine = device_identity(device_facts())
        res = str(Resolution(config.width, config.height))
        precision = "int8" if config.int8 else "fp32"
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
        artifact = self._artifact(net, name)
        runtime = self._config.runtime
        if runtime not in runtimes_for(artifact):
            known = ", ".join(runtimes_for(artifact))
            raise ConfigError(
                f"{runtime!r} is not a runtime that networks can be timed in here", hint=f"one of {known}"
            )
        if reason := reason_unavailable(artifact, runtime):
            raise ConfigError(f"networks cannot be timed in {runtime} here: {reason}", hint="name another --runtime")
        with open_runner(artifact, runtime) as runner:
            yield runner

    def _artifact(self, net: Generator, name: str) -> Artifact:
        """A network as it will run: exported, quantized before if that is what counts."""
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
        if settings.runtime in runtimes_for(checkpoint) and not settings.int8:
            return checkpoint
        size = ExportConfig(settings.width, settings.height, compare=False)  # only its time is wanted
        return export_onnx(checkpoint, size, self._folder / f"{name}-onnx")


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
