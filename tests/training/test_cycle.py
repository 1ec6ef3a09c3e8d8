"""Training on footage without sharp twins: the losses by hand, two generators that learn, and runs that go on."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.config import (
    AugmentConfig,
    CameraConfig,
    FitConfig,
    LossConfig,
    RunConfig,
    ShakeConfig,
    TrainConfig,
    UnpairedConfig,
)
from deblur_deploy.core.artifact import Artifact, load_artifact, new_step
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import save_rgb
from deblur_deploy.data.pairs import Pair
from deblur_deploy.data.shake import shake
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.training import train as train_module
from deblur_deploy.training.cycle import Critics, UnpairedObjective, unpaired_objective
from deblur_deploy.training.loop import Trainer
from deblur_deploy.training.train import load_recipe, train

RECIPE = """
[fit]
steps = 8
batch = 2
crop = 48
lr = 1e-3
warmup = 2
[unpaired]
blur_base = 4
blur_share = 0.5
check_every = 3
guard_db = 30.0
"""


class Brightness(nn.Module):
    """Adds one number to the picture: a generator whose losses can be worked out by hand."""

    def __init__(self, add: float) -> None:
        super().__init__()
        self.add = nn.Parameter(torch.tensor(add))

    def forward_scales(self, image: Tensor) -> list[Tensor]:
        return [image + self.add]


def flat(level: float) -> Tensor:
    return torch.full((1, 3, 32, 32), level)


def constant_critics(verdict: float) -> Critics:
    """Discriminators that say the same of every picture."""
    critics = Critics()
    for scales in (critics.sharp.scales, critics.blurred.scales):
        for discriminator in scales:
            nn.init.zeros_(discriminator.layers[-1].weight)
            nn.init.constant_(discriminator.layers[-1].bias, verdict)
    return critics


def objective_of(config: UnpairedConfig, critics: Critics | None, steps: int = 8) -> UnpairedObjective:
    return UnpairedObjective(FitConfig(steps=steps), config, Brightness(0.25), Brightness(-0.125), critics)


def test_the_losses_by_hand() -> None:
    """Footage of 0.5 and photographs of 0.75 through one generator that adds 0.25 and one that takes off 0.125."""
    config = UnpairedConfig(cycle=8.0, identity=4.0, adversarial=2.0)
    objective = objective_of(config, constant_critics(0.3))
    blurred, sharp = flat(0.5), flat(0.75)
    estimates = objective.net.forward_scales(blurred)
    terms = {name: float(term.detach()) for name, term in objective.terms(estimates, blurred, sharp).items()}
    # Both ways around end 0.125 too bright; what should be left alone is changed by 0.25 and by 0.125.
    assert terms == pytest.approx(
        {
            "cycle": 8.0 * (0.125 + 0.125),
            "identity": 4.0 * (0.25 + 0.125),
            "adversarial": 2.0 * 2 * 0.5 * (0.3 - 1) ** 2,
        }
    )
    told = objective.telling_loss(estimates[-1], blurred, sharp)
    assert float(told.detach()) == pytest.approx(2 * 0.5 * ((0.3 - 1) ** 2 + 0.3**2))


def test_what_has_no_weight_is_left_out() -> None:
    objective = objective_of(UnpairedConfig(identity=0.0, adversarial=0.0), None)
    blurred = flat(0.5)
    assert list(objective.terms(objective.net.forward_scales(blurred), blurred, blurred)) == ["cycle"]
    assert objective.critic is None


def test_while_the_generator_stands_still_only_the_second_one_is_judged() -> None:
    objective = objective_of(UnpairedConfig(cycle=8.0, identity=4.0, adversarial=2.0), constant_critics(0.3))
    blurred, sharp = flat(0.5), flat(0.75)
    with torch.no_grad():
        estimates = objective.net.forward_scales(blurred)
    terms = objective.terms(estimates, blurred, sharp)
    values = {name: float(term.detach()) for name, term in terms.items()}
    assert values == pytest.approx({"cycle": 8.0 * 0.125, "identity": 4.0 * 0.125, "adversarial": 0.49})
    torch.stack(list(terms.values())).sum().backward()
    assert objective.net.add.grad is None
    assert objective.partner.add.grad is not None


def test_every_scale_counts(tiny_config: SRNConfig) -> None:
    torch.manual_seed(0)
    net, blurrer = SRN(tiny_config), SRN(tiny_config)
    generator = torch.Generator().manual_seed(1)
    blurred, sharp = (torch.rand(1, 3, 32, 32, generator=generator) for _ in range(2))
    config = UnpairedConfig(cycle=1.0, identity=0.0, adversarial=0.0)
    objective = UnpairedObjective(FitConfig(coarse_weight=0.25), config, net, blurrer, None)
    estimates = net.forward_scales(blurred)

    expected = torch.zeros(())
    for picture, there, back in ((blurred, net, blurrer), (sharp, blurrer, net)):
        coarse, middle, fine = back.forward_scales(there.forward_scales(picture)[-1])
        expected = expected + F.l1_loss(fine, picture) + 0.25 * F.l1_loss(middle, F.avg_pool2d(picture, 2))
        expected = expected + 0.25 * F.l1_loss(coarse, F.avg_pool2d(F.avg_pool2d(picture, 2), 2))
    torch.testing.assert_close(objective.terms(estimates, blurred, sharp)["cycle"], expected)


def test_each_player_moves_its_own_weights(tiny_config: SRNConfig) -> None:
    torch.manual_seed(0)
    critics, blurrer, net = Critics(), SRN(tiny_config), SRN(tiny_config)
    objective = UnpairedObjective(FitConfig(), UnpairedConfig(), net, blurrer, critics)
    blurred, sharp = torch.rand(2, 1, 3, 32, 32)
    estimates = net.forward_scales(blurred)
    torch.stack(list(objective.terms(estimates, blurred, sharp).values())).sum().backward()
    assert all(p.grad is not None for part in (net, blurrer) for p in part.head.parameters())
    assert all(p.grad is None for p in critics.parameters())
    net.zero_grad()
    blurrer.zero_grad()
    objective.telling_loss(estimates[-1], blurred, sharp).backward()
    assert all(p.grad is None for part in (net, blurrer) for p in part.parameters())
    assert all(p.grad is not None for p in critics.parameters())


@pytest.fixture
def crops(photo) -> tuple[Tensor, Tensor]:
    """A blurred crop and a sharp one of another place, each (1, 3, 64, 64)."""
    blurred = shake(photo[40:104, 60:124], ShakeConfig(length_px=(8.0, 8.0)), np.random.default_rng(0)).blurred
    first, second = (
        torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        for image in (blurred, photo[80:144, 100:164])
    )
    return first, second


def test_the_second_generator_learns_first_and_then_both_close_the_cycle(tiny_config, crops) -> None:
    torch.manual_seed(0)
    net = SRN(tiny_config)
    nn.init.normal_(net.head.weight, std=0.02)  # one that changes the picture, so that there is something to undo
    fit = FitConfig(steps=24, batch=1, crop=64, lr=1e-3, warmup=2, ema_decay=0.0)
    config = TrainConfig(fit=fit, unpaired=UnpairedConfig(blur_base=8, blur_share=0.25))
    objective = unpaired_objective(config, fit, net)

    def cycle() -> float:
        return float(objective.terms(net.forward_scales(crops[0]), *crops)["cycle"].detach())

    first = {name: p.detach().clone() for name, p in net.named_parameters()}
    blurrer = {name: p.detach().clone() for name, p in objective.partner.named_parameters()}
    before, moved = cycle(), list[bool]()

    def look(step: int, loss: float) -> None:
        moved.append(any(not torch.equal(p, first[name]) for name, p in net.named_parameters()))

    Trainer(net, fit, objective).run(repeat(crops), look)
    assert moved == [step > 6 for step in range(1, 25)]
    assert any(not torch.equal(p, blurrer[name]) for name, p in objective.partner.named_parameters())
    assert cycle() < 0.8 * before


def test_the_two_generators_have_their_own_rates() -> None:
    fit = FitConfig(steps=4, lr=1e-3, lr_final=1e-3, warmup=0, ema_decay=0.0, clip_norm=1e9)
    net, blurrer = Brightness(0.25), Brightness(0.25)
    config = UnpairedConfig(blur_lr=1e-2, blur_share=0.0, adversarial=0.0)
    Trainer(net, fit, UnpairedObjective(fit, config, net, blurrer, None)).run(repeat((flat(0.25), flat(0.5))))
    # Both are too bright throughout, and a step of Adam is as long as its rate.
    assert net.add.item() == pytest.approx(0.25 - 4e-3, rel=1e-3)
    assert blurrer.add.item() == pytest.approx(0.25 - 4e-2, rel=1e-3)


@pytest.fixture
def recipe(write_recipe: Callable[[str], Path], photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A recipe for one photograph beside two blurred pictures, judged on one small pair."""
    pair = Pair("a.png", shake(photo, ShakeConfig(), np.random.default_rng(0)).blurred, photo)
    monkeypatch.setattr(train_module, "load_pairs", lambda folder, split: [pair])
    (tmp_path / "footage").mkdir()
    for name in "ab":
        save_rgb(tmp_path / "footage" / f"{name}.png", np.ascontiguousarray(pair.blurred[:, ::-1]))
    config = load_recipe(write_recipe(RECIPE))
    assert config.unpaired is not None
    footage = dataclasses.replace(config.unpaired, blurred=str(tmp_path / "footage"))
    return dataclasses.replace(config, unpaired=footage)


@pytest.fixture
def source(tiny_config: SRNConfig, tmp_path: Path) -> Artifact:
    """A generator to start from."""
    torch.manual_seed(3)
    net = SRN(tiny_config)
    return save_network(tmp_path / "source", net, spec_of(net), new_step("import", TrainConfig(), None, {}), ())


def with_(config: TrainConfig, **values: Any) -> TrainConfig:
    assert config.unpaired is not None
    return dataclasses.replace(config, unpaired=dataclasses.replace(config.unpaired, **values))


def test_a_run_on_footage_changes_the_generator_and_says_what_it_saw(recipe, source, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    tuned = train(source, recipe, tmp_path / "out", lambda step, steps, loss: seen.append((step, steps)))

    assert seen == [(step, 8) for step in range(1, 9)]
    assert load_network(tuned).config == load_network(source).config
    before, after = (load_network(artifact).head.weight for artifact in (source, tuned))
    assert 0 < (before - after).abs().max() < 0.1
    found = load_artifact(tmp_path / "out").figures
    assert found["photos"] == 1
    assert found["unpaired"]["footage"] == 2
    assert [step for step, _ in found["unpaired"]["checks"]] == [0, 3, 6, 8]
    assert found["unpaired"]["turned_at"] is None
    assert found["unpaired"]["checks"][-1][1] == pytest.approx(found["psnr_db"], abs=1e-6)
    assert train(source, recipe, tmp_path / "again").sha256 == tuned.sha256


@pytest.mark.parametrize("stop", [3, 6], ids=["while the generator stands still", "while both learn"])
def test_a_run_on_footage_goes_on_bit_for_bit(recipe, source, tmp_path: Path, stop: int) -> None:
    def interrupt(step: int, steps: int, loss: float) -> None:
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(source, recipe, tmp_path / "cut", interrupt)
    with pytest.raises(ConfigError, match=r"unpaired\.cycle differ"):
        train(source, with_(recipe, cycle=3.0), tmp_path / "cut", None, RunConfig(resume=True))
    resumed = train(source, recipe, tmp_path / "cut", None, RunConfig(resume=True))

    whole = train(source, recipe, tmp_path / "whole")
    assert resumed.sha256 == whole.sha256
    assert resumed.figures["unpaired"] == whole.figures["unpaired"]


def test_a_run_with_an_absurd_rate_gives_back_what_it_started_from(recipe, source, tmp_path: Path) -> None:
    fit = dataclasses.replace(recipe.fit, lr=0.05, warmup=0, ema_decay=0.0)
    absurd = with_(dataclasses.replace(recipe, fit=fit), blur_share=0.0, check_every=1, guard_db=0.3)
    tuned = train(source, absurd, tmp_path / "out")

    found = tuned.figures["unpaired"]
    start, last = found["checks"][0][1], found["checks"][-1][1]
    assert last is None or last < start - 0.3
    assert found["turned_at"] == found["checks"][-1][0] < 8
    assert found["kept_step"] == 0
    assert tuned.figures["psnr_db"] == pytest.approx(start, abs=1e-6)
    before, after = (load_network(artifact).state_dict() for artifact in (source, tuned))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


RUN = """
import json, os, sys
from pathlib import Path
import torch
from deblur_deploy.config import RunConfig
from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.images import load_rgb
from deblur_deploy.data.pairs import Pair
from deblur_deploy.training import train as train_module

torch.set_num_threads(1)
recipe, source, footage, out = map(Path, sys.argv[1:])
picture = load_rgb(footage / "a.png")
train_module.load_pairs = lambda folder, split: [Pair("a.png", picture, picture)]
config = train_module.load_recipe(recipe)
losses = []
tell = lambda step, steps, loss: losses.append(loss)
train_module.train(load_artifact(source), config, out, tell, RunConfig(workers=0))
out.with_suffix(f".rank{os.environ.get('RANK', '0')}.json").write_text(json.dumps(losses))
"""


def test_two_processes_follow_the_curve_of_one(recipe: TrainConfig, source: Artifact, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="needs accelerate: pip install 'deblur-deploy[train]'")
    one: list[float] = []
    alone = train(source, recipe, tmp_path / "one", lambda step, steps, loss: one.append(loss), RunConfig(workers=0))
    (tmp_path / "run.py").write_text(RUN)
    named = tmp_path / "two.toml"
    named.write_text((tmp_path / "recipe.toml").read_text() + f'blurred = "{tmp_path / "footage"}"\n')
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    places = [str(path) for path in (tmp_path / "run.py", named, source.directory, tmp_path / "footage")]
    subprocess.run(
        [*launch, "--master_addr", "127.0.0.1", *places, str(tmp_path / "two")],
        check=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(train_module.__file__).parents[2])},
    )
    first, second = (json.loads((tmp_path / f"two.rank{rank}.json").read_text()) for rank in (0, 1))
    assert len(one) == 8
    assert first == second
    np.testing.assert_allclose(first, one, rtol=1e-3)
    together = load_artifact(tmp_path / "two")
    assert together.figures["processes"] == 2
    for (name, a), b in zip(
        load_network(alone).state_dict().items(), load_network(together).state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-2, msg=name)


def test_footage_needs_a_generator_to_start_from(recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to start from") as error:
        train(None, recipe, tmp_path / "out")
    assert "--init" in error.value.hint


def test_a_quantized_generator_is_refused(recipe, source, tmp_path: Path) -> None:
    quantized = dataclasses.replace(source, network=dataclasses.replace(source.network, quantization={}))
    with pytest.raises(ArtifactError, match="is quantized"):
        train(quantized, recipe, tmp_path / "out")


def test_a_recipe_whose_footage_is_not_named_is_refused(recipe, source, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no footage is named") as error:
        train(source, with_(recipe, blurred=None), tmp_path / "out")
    assert "--unpaired" in error.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"camera": CameraConfig(length_px=(2.0, 4.0))}, r"\[camera\]"),
        ({"shake": ShakeConfig(length_px=(2.0, 4.0))}, r"\[shake\]"),
        ({"loss": LossConfig(frequency=0.1)}, r"\[loss\]"),
        ({"augment": AugmentConfig(linear_share=0.5)}, r"augment\.linear_share"),
        ({"fit": FitConfig(crop=48, distill_weight=0.1)}, r"fit\.distill_weight"),
        ({"fit": FitConfig(crop=48, feature_weight=0.1)}, r"fit\.feature_weight"),
    ],
)
def test_settings_of_other_training_are_refused(recipe, source, tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"the recipe has {said}, which training on footage does not use"):
        train(source, dataclasses.replace(recipe, **change), tmp_path / "out")


def test_pairs_are_no_sharp_photographs(recipe, source, photo, tmp_path: Path) -> None:
    for kind in ("blur", "sharp"):
        (tmp_path / "pairs" / kind).mkdir(parents=True)
        save_rgb(tmp_path / "pairs" / kind / "a.png", photo)
    paired = dataclasses.replace(recipe, photos=str(tmp_path / "pairs"))
    with pytest.raises(ConfigError, match="pairs holds blurred and sharp pairs") as error:
        train(source, paired, tmp_path / "out")
    assert "without --unpaired" in error.value.hint
