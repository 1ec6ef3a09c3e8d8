"""Several processes train as one; precision, and what TensorBoard is shown."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deblur_deploy.config import FitConfig, RunConfig
from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.errors import ConfigError, MissingDependencyError
from deblur_deploy.data.pairs import Pair
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.training import train as train_module
from deblur_deploy.training.devices import open_devices
from deblur_deploy.training.loop import Trainer, fit, uses_bfloat16
from deblur_deploy.training.losses import Objective
from deblur_deploy.training.monitor import Monitor
from deblur_deploy.training.train import load_recipe, train

RECIPE = """
base = 8
depths = [1, 1, 1]
[shake]
length_px = [2.0, 4.0]
[fit]
steps = 6
batch = 4
crop = 48
lr = 1e-3
warmup = 2
[loss]
adversarial = 0.01
gradient_penalty = 0.0
frequency = 0.1
"""

RUN = """
import json, os, sys
from pathlib import Path
import torch
from deblur_deploy.config import RunConfig
from deblur_deploy.training import train as train_module

torch.set_num_threads(1)
train_module.network_quality = lambda net, pairs: {"psnr_db": 0.0}
train_module.load_pairs = lambda folder, split: []
opened = train_module.open_devices

def open_and_check(batch):
    devices = opened(batch)
    assert not devices.accelerator.native_amp
    return devices

train_module.open_devices = open_and_check
losses = []
config = train_module.load_recipe(Path(sys.argv[1]))
out = Path(sys.argv[2])
train_module.train(None, config, out, lambda step, steps, loss: losses.append(loss), RunConfig(workers=0))
out.with_suffix(f".rank{os.environ.get('RANK', '0')}.json").write_text(json.dumps(losses))
"""


@pytest.fixture
def recipe(write_recipe, tmp_path: Path) -> Path:
    (tmp_path / "run.py").write_text(RUN)
    return write_recipe(RECIPE)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_two_processes_follow_the_curve_of_one(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate", reason="needs accelerate: pip install 'deblur-deploy[train]'")
    monkeypatch.setattr(train_module, "network_quality", lambda net, pairs: {"psnr_db": 0.0})
    monkeypatch.setattr(train_module, "load_pairs", lambda folder, split: [])
    one: list[float] = []
    train(None, load_recipe(recipe), tmp_path / "one", lambda step, steps, loss: one.append(loss), RunConfig(workers=0))
    # `accelerate launch` starts several processes on GPUs only, or through MPI; torchrun sets the same variables.
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    # What `accelerate config` may have left on a machine must not decide the precision.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "bf16"}
    arguments = [str(tmp_path / "run.py"), str(recipe), str(tmp_path / "two")]
    subprocess.run([*launch, *arguments], check=True, timeout=240, env=environment)
    first, second = (json.loads((tmp_path / f"two.rank{rank}.json").read_text()) for rank in (0, 1))
    assert len(one) == 6
    assert first == second
    np.testing.assert_allclose(first, one, rtol=1e-4)
    assert load_artifact(tmp_path / "two").figures["processes"] == 2


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate: pip install 'deblur-deploy[train]'")

    class TwoProcesses:
        num_processes, process_index, device = 2, 0, torch.device("cpu")

        def __init__(self, cpu: bool, mixed_precision: str) -> None:
            pass

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(accelerate, "Accelerator", TwoProcesses)
    with pytest.raises(ConfigError, match="a batch of 3 cannot be shared by 2 processes"):
        open_devices(3)
    assert open_devices(4).world == 2


def test_several_processes_without_accelerate_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingDependencyError, match="needs accelerate") as error:
        open_devices(4)
    assert "deblur-deploy[train]" in error.value.hint


def test_bfloat16_trains_close_to_float32(tiny_config: SRNConfig) -> None:
    generator = torch.Generator().manual_seed(0)
    pair = (torch.rand(1, 3, 32, 32, generator=generator), torch.rand(1, 3, 32, 32, generator=generator))
    losses = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        config = FitConfig(steps=4, batch=1, crop=32, lr=1e-3, precision=precision)
        net = SRN(tiny_config)
        losses.append(fit(net, repeat(pair), config).loss)
        assert all(p.dtype == torch.float32 for p in net.parameters())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_automatic_precision_leaves_a_processor_alone() -> None:
    assert not uses_bfloat16(FitConfig(), torch.device("cpu"))
    assert uses_bfloat16(FitConfig(precision="bfloat16"), torch.device("cpu"))


@pytest.mark.parametrize(
    ("flags", "has"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True), ({"avx512_f": True}, False)],
    ids=["AVX512-BF16", "AMX", "Arm", "AVX512 alone"],
)
def test_the_fastest_precision_is_bfloat16_where_the_processor_has_it(
    flags: dict[str, bool], has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert uses_bfloat16(FitConfig(precision="fastest"), torch.device("cpu")) is has


@pytest.mark.parametrize(("precision", "told"), [("bfloat16", 1), ("fastest", 0), ("float32", 0)])
def test_bfloat16_on_a_processor_without_it_is_told(
    tiny_config: SRNConfig, precision: Any, told: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    fit(SRN(tiny_config), iter(()), FitConfig(steps=0, batch=1, crop=32, precision=precision))
    assert ["this processor has no bfloat16" in record.getMessage() for record in caplog.records] == [True] * told


def test_bfloat16_on_a_processor_that_has_it_is_not(
    tiny_config: SRNConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    fit(SRN(tiny_config), iter(()), FitConfig(steps=0, batch=1, crop=32, precision="bfloat16"))
    assert not caplog.records


@pytest.mark.parametrize(("optimizer", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_optimizer_is_the_one_that_was_named(tiny_config: SRNConfig, optimizer: str, kind: type) -> None:
    config = FitConfig(optimizer=optimizer, weight_decay=0.01)
    trainer = Trainer(SRN(tiny_config), config, Objective(config))
    assert type(trainer.optimizer) is kind
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.01


def test_tensorboard_gets_scalars_and_a_sample(
    recipe: Path, photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'deblur-deploy[train]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(train_module, "network_quality", lambda net, pairs: {"psnr_db": 0.0})
    monkeypatch.setattr(train_module, "load_pairs", lambda folder, split: [Pair("a.png", photo[::-1], photo)])
    train(None, load_recipe(recipe), tmp_path / "run", None, RunConfig(tensorboard=True, workers=0))
    events = EventAccumulator(str(tmp_path / "run.training" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"loss/total", "loss/content", "loss/adversarial", "loss/discriminator"} <= set(tags["scalars"])
    assert {"learning rate", "time/step_ms", "time/data_ms"} <= set(tags["scalars"])
    assert tags["images"] == ["blurred, restored, sharp"]
    (picture,) = events.Images(tags["images"][0])
    assert picture.width == 3 * photo.shape[1]


def test_scalars_come_every_so_many_steps(tiny_config: SRNConfig, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'deblur-deploy[train]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = torch.rand(1, 3, 16, 16)
    monitor = Monitor(tmp_path, 0, (picture, picture), every=2, sample_every=3)
    net = SRN(tiny_config)
    for step in range(1, 7):
        monitor.record(step, {"loss": float(step)}, net)
    monitor.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 4, 6]
    assert [event.step for event in events.Images("blurred, restored, sharp")] == [1, 3, 6]
    assert net.training


def test_what_was_shown_beyond_the_saved_state_is_hidden(tiny_config: SRNConfig, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'deblur-deploy[train]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture, net = torch.rand(1, 3, 16, 16), SRN(tiny_config)
    for done, last in ((0, 5), (3, 6)):  # cut off after step 5, two steps after the state was saved
        monitor = Monitor(tmp_path, done, (picture, picture), every=1, sample_every=100)
        for step in range(done + 1, last + 1):
            monitor.record(step, {"loss": float(done)}, net)
        monitor.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        *((step, 0.0) for step in (1, 2, 3)),
        *((step, 3.0) for step in (4, 5, 6)),
    ]


def test_tensorboard_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    picture = torch.rand(1, 3, 16, 16)
    with pytest.raises(MissingDependencyError, match="needs tensorboard"):
        Monitor(tmp_path, 0, (picture, picture))
