"""Probes of whole networks on a GPU in PyTorch: pictures, latency, energy, training. See :mod:`gpu_probes`."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from probing import Finding

from deblur_deploy.core.artifact import Artifact, load_artifact
from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.sources import shipped

SIZES = (Resolution(640, 360), Resolution(1280, 720))
PLAIN = ("torch-cuda", "torch-cuda-channels-last", "torch-cuda-graph")
SHORT = ("torch-cuda-fp16-graph", "torch-cuda-bf16-graph", "torch-cuda-fp16", "torch-cuda-bf16")
COMPILED = ("torch-cuda-compile", "torch-cuda-fp16-compile", "torch-cuda-bf16-compile")

_LEAST_PSNR_DB = {"float32": 55.0, "float16": 45.0, "bfloat16": 35.0}
"""How near a GPU's picture must be to the processor's float32; float32 convolutions may run in TF32."""

_BF16_RATIO = 1.0
_DROP_DB = 0.05
_ROW_SECONDS = 5.0
_STEPS_TIMED = 12
_PILOT_STEPS = 16
_SHARE_FOR_TRAINING = 0.75
"""Of the time that is left; the rest is for starting, for the evaluation before and after it, and for writing."""


def torch_runners(
    seconds: float, runtimes: Sequence[str] = (*SHORT[:2], *PLAIN, *SHORT[2:]), sizes: Sequence[Resolution] = SIZES
) -> Iterator[Finding]:
    """Every shipped float network in every mode that starts at once: its picture, then its latency and energy."""
    yield from _rows_of(shipped_networks(), runtimes, sizes, seconds)


def torch_compile(seconds: float) -> Iterator[Finding]:
    """The same for what ``torch.compile`` makes of one network."""
    yield from _rows_of(shipped_networks(("srn-demo",)), COMPILED, SIZES[:1], seconds)


def shipped_networks(names: Sequence[str] = ()) -> list[Artifact]:
    """Shipped checkpoints, the largest first: those of the names, else all. A quantized one needs ModelOpt."""
    found = [load_artifact(path) for path in sorted(shipped("models").iterdir()) if not names or path.name in names]
    return sorted(found, key=lambda artifact: (artifact.network.quantization is not None, -_bytes(artifact)))


def _bytes(artifact: Artifact) -> int:
    return artifact.path.stat().st_size


def _rows_of(
    networks: Sequence[Artifact], runtimes: Sequence[str], sizes: Sequence[Resolution], seconds: float
) -> Iterator[Finding]:
    """One row for each network, size and runtime: checked first, then timed; networks and sizes outside."""
    from deblur_deploy.bench.ceilings import measure_gpu_ceilings

    end, rows, left = time.monotonic() + seconds, list[dict[str, Any]](), len(networks) * len(sizes) * len(runtimes)
    ceilings = measure_gpu_ceilings(1.0)
    for artifact, size in itertools.product(networks, sizes):
        if time.monotonic() > end - _ROW_SECONDS:
            return
        try:
            expected = _picture(artifact, "torch", size)
        except DeblurDeployError as err:  # a quantized network needs ModelOpt
            rows.append({"network": artifact.directory.name, "res": str(size), "skipped": err.message})
            left -= len(runtimes)
            yield _judged(rows, ceilings, left)
            continue
        for runtime in runtimes:
            if time.monotonic() > end - _ROW_SECONDS:
                return
            rows.append(_row(artifact, runtime, size, (expected, ceilings)))
            left -= 1
            yield _judged(rows, ceilings, left)


def _judged(rows: Sequence[dict[str, Any]], ceilings: Any, left: int) -> Finding:
    """Proven where no row is left and each that could run gives the picture; the best of each network is told."""
    ran = [row for row in rows if "skipped" not in row]
    wrong = [row for row in ran if row["psnr_db"] < row["least_psnr_db"]]
    best: dict[str, dict[str, Any]] = {}
    for row in ran:
        key = f"{row['network']} {row['res']}"
        if key not in best or row["median_ms"] < best[key]["median_ms"]:
            best[key] = row
    told = "; ".join(
        f"{key} {row['median_ms']:.2f} ms in {row['runtime']}"
        + (f", {100 * row['floor_share']:.0f} % of the roofline" if row["floor_share"] else "")
        for key, row in best.items()
    )
    details = {"rows": list(rows), "ceilings": dataclasses.asdict(ceilings) if ceilings else None}
    if wrong:
        first = wrong[0]
        found = f"{first['network']} in {first['runtime']} is {first['psnr_db']:.1f} dB from the processor's picture"
        return Finding("failed", found, details)
    skipped = len(rows) - len(ran)
    told += f"; {skipped} skipped: {next(row['skipped'] for row in rows if 'skipped' in row)}" if skipped else ""
    told = f"{len(ran)} rows, {left} not reached; {told}" if left else f"{len(ran)} rows; {told}"
    return Finding("proven" if ran and not left else "unproven", told, details)


def _row(artifact: Artifact, runtime: str, size: Resolution, against: tuple[Any, Any]) -> dict[str, Any]:
    """What one runtime makes of one picture, and how fast."""
    from deblur_deploy.bench.entries import BenchEntry
    from deblur_deploy.bench.floor import network_floor
    from deblur_deploy.bench.measure import BenchConfig, measure
    from deblur_deploy.runtime.eager import variant_of

    expected, ceilings = against
    told = {"network": artifact.directory.name, "runtime": runtime, "res": str(size)}
    try:
        found = _picture(artifact, runtime, size)
        config = BenchConfig(size, warmup_ms=100, duration_ms=600, windows=1, max_windows=1)
        (timed,) = measure([BenchEntry(artifact, runtime)], config).rows
    except DeblurDeployError as err:
        return told | {"skipped": err.message}
    if timed.latency_ms is None:
        return told | {"skipped": timed.skipped}
    floor = network_floor(artifact, runtime, (size, 1), ceilings) if ceilings else None
    median = timed.latency_ms.median
    return told | {
        "psnr_db": round(_psnr(found, expected), 2),
        "least_psnr_db": _LEAST_PSNR_DB[variant_of(runtime).dtype],
        "median_ms": median,
        "p99_ms": timed.latency_ms.p99,
        "gpu_ms": timed.metrics.get("GPU Compute Time", {}).get("median"),
        "floor_ms": floor.floor_ms if floor else None,
        "floor_share": floor.floor_ms / median if floor else None,
        "joules_per_frame": timed.joules_per_frame,
        "device_mib": timed.memory_mib.get("device"),
    }


def _picture(artifact: Artifact, runtime: str, size: Resolution) -> Any:
    """A runtime's result for the same random frame."""
    from deblur_deploy.runtime.runner import open_runner

    frame = np.random.default_rng(0).random((1, 3, size.height, size.width), dtype=np.float32)
    with open_runner(artifact, runtime) as runner:
        return runner.infer(frame)


def _psnr(found: Any, expected: Any) -> float:
    error = float(np.mean(np.square(found - expected, dtype=np.float64)))
    return 120.0 if error == 0 else min(120.0, 10 * float(np.log10(1 / error)))


def energy(seconds: float, runtimes: Sequence[str] = ("torch-cuda-fp16-graph", "torch-cuda")) -> Iterator[Finding]:
    """What the card uses for a frame, by its own counter, which moves some ten times a second."""
    from deblur_deploy.bench.entries import BenchEntry
    from deblur_deploy.bench.measure import BenchConfig, measure

    (artifact,) = shipped_networks(("srn-base",))
    config = BenchConfig(SIZES[0], duration_ms=3000, windows=1, max_windows=1)
    told: dict[str, float] = {}
    for runtime in runtimes:
        (row,) = measure([BenchEntry(artifact, runtime)], config).rows
        if row.joules_per_frame is None:
            yield Finding(
                "unproven", f"{runtime}: {row.skipped or 'this card has no energy counter'}", {"joules": told}
            )
            return
        told[runtime] = row.joules_per_frame
        words = "; ".join(f"{name} {joules:.2f} J" for name, joules in told.items())
        good = all(joules > 0 for joules in told.values())
        complete = "proven" if len(told) == len(runtimes) else "unproven"
        yield Finding(complete if good else "failed", f"a 640x360 frame: {words}", {"joules": told})


def training_speed(seconds: float, device: str = "cuda", crop: int = 256, batch: int = 8) -> Iterator[Finding]:
    """Steps on crops that lie ready, in both types; the data's own time is another matter."""
    medians: dict[str, float] = {}
    for precision in ("bfloat16", "float32"):
        medians[precision] = _step_seconds(precision, device, (crop, batch))
        told = ", ".join(f"{batch / median:.0f} crops/s in {name}" for name, median in medians.items())
        if len(medians) == 1:
            yield Finding("unproven", told, {"step_seconds": dict(medians)})
    ratio = medians["float32"] / medians["bfloat16"]
    verdict = "proven" if ratio > _BF16_RATIO else "failed"
    yield Finding(verdict, f"{told}: {ratio:.2f}×", {"step_seconds": medians, "ratio": ratio})


def _step_seconds(precision: Any, device: str, size: tuple[int, int]) -> float:
    """Median wall time of a training step of srn-base."""
    import torch

    from deblur_deploy.config import FitConfig
    from deblur_deploy.network.checkpoint import load_network
    from deblur_deploy.training.loop import Trainer
    from deblur_deploy.training.losses import Objective

    crop, batch = size
    (artifact,) = shipped_networks(("srn-base",))
    fit = FitConfig(steps=_STEPS_TIMED, batch=batch, crop=crop, warmup=0, precision=precision)
    trainer = Trainer(load_network(artifact).to(device), fit, Objective(fit))
    pair = torch.rand(2, batch, 3, crop, crop)
    moments = [time.perf_counter()]

    def note(step: int, loss: float) -> None:
        moments.append(time.perf_counter())  # the loss was read: the device is done

    trainer.run(((pair[0], pair[1]) for _ in range(_STEPS_TIMED)), note)
    times = [after - before for before, after in itertools.pairwise(moments)]
    return statistics.median(times[_STEPS_TIMED // 3 :])


def fine_tune(seconds: float, crop: int = 256, batch: int = 8) -> Iterator[Finding]:
    """The training stage from srn-base on the shipped photographs, for as many steps as there is time."""
    from deblur_deploy.config import FitConfig, TrainConfig
    from deblur_deploy.data.pairs import load_pairs
    from deblur_deploy.network.checkpoint import load_network
    from deblur_deploy.quality.evaluate import network_quality

    start = time.monotonic()
    (source,) = shipped_networks(("srn-base",))
    before = network_quality(load_network(source), load_pairs(None, "evaluation"))["psnr_db"]
    evaluating = time.monotonic() - start
    fit = FitConfig(steps=_PILOT_STEPS, batch=batch, crop=crop, lr=2e-5, warmup=_PILOT_STEPS)
    _, step = _train(source, TrainConfig(fit=fit))
    left = seconds - (time.monotonic() - start) - evaluating
    steps = int(_SHARE_FOR_TRAINING * left / step)
    yield Finding("unproven", f"{before:.2f} dB before, {steps} steps planned", {"before_db": before})
    if steps < 1:
        return
    tuned, step = _train(source, TrainConfig(fit=dataclasses.replace(fit, steps=steps)))
    after = tuned["psnr_db"]
    details = {"before_db": before, "after_db": after, "steps": steps, "step_seconds": step}
    details |= {key: tuned[key] for key in ("seconds", "data_seconds", "loss")}
    found = f"{before:.2f} dB before, {after:.2f} dB after {steps} steps of {batch} crops, {1000 * step:.0f} ms each"
    yield Finding("proven" if after >= before - _DROP_DB else "failed", found, details)


def _train(source: Artifact, config: Any) -> tuple[dict[str, Any], float]:
    """Train in a folder that does not stay; figures, and seconds of a step with all its waiting for crops."""
    from deblur_deploy.bench.device import usable_cores
    from deblur_deploy.config import RunConfig
    from deblur_deploy.training.train import train

    moments: list[float] = []

    def note(step: int, steps: int, loss: float) -> None:
        moments.append(time.perf_counter())

    run = RunConfig(save_minutes=1e6, workers=max(1, min(8, usable_cores() - 1)))
    with tempfile.TemporaryDirectory() as folder:
        tuned = train(source, config, Path(folder) / "tuned", note, run)
        figures = dict(tuned.figures)
    later = moments[len(moments) // 2 :]
    return figures, (later[-1] - later[0]) / (len(later) - 1) if len(later) > 1 else moments[-1]
