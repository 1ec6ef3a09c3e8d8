"""Which of several sets of weights is taken, what names lose, and what unsafe unpickling is needed for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.network.weights_file import read_weights

RAW, AVERAGE = {"conv.weight": torch.zeros(2, 2)}, {"conv.weight": torch.ones(2, 2)}


def with_prefix(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("held", "taken"),
    [
        ({"params": RAW, "params_ema": AVERAGE}, "params_ema"),
        ({"state_dict": RAW, "state_dict_ema": AVERAGE, "epoch": 7}, "state_dict_ema"),
        ({"model": RAW, "model_ema": AVERAGE}, "model_ema"),
        ({"model": RAW, "ema": {"state_dict": AVERAGE}}, "ema"),
        ({"state_dict": with_prefix("generator.", RAW) | with_prefix("generator_ema.", AVERAGE)}, "generator_ema."),
        ({"state_dict": with_prefix("module.model_ema.", AVERAGE)}, None),
        ({"state_dict": AVERAGE}, None),
    ],
)
def test_the_average_is_taken_and_named(held, taken, tmp_path):
    torch.save(held, tmp_path / "net.pth")

    found = read_weights(tmp_path / "net.pth")

    assert found.taken == taken
    assert list(found.tensors) == ["conv.weight"]
    assert torch.equal(found.tensors["conv.weight"], AVERAGE["conv.weight"])


@pytest.mark.parametrize("prefix", ["module.", "generator.", "net_g.", "_orig_mod.", "module._orig_mod.module."])
def test_prefixes_around_all_names_go(prefix, tmp_path):
    torch.save(with_prefix(prefix, AVERAGE), tmp_path / "net.pth")
    assert list(read_weights(tmp_path / "net.pth").tensors) == ["conv.weight"]


def test_a_prefix_of_some_names_only_is_part_of_them(tmp_path):
    torch.save({**with_prefix("generator.", RAW), "head.weight": torch.ones(1)}, tmp_path / "net.pth")
    assert set(read_weights(tmp_path / "net.pth").tensors) == {"generator.conv.weight", "head.weight"}


def test_whole_networks_are_read_only_when_asked_for(tmp_path):
    net = nn.Sequential(nn.Linear(2, 3))
    for held, name in ((net, "net.pth"), ({"model": net, "epoch": 3}, "wrapped.pth")):
        torch.save(held, tmp_path / name)
        with pytest.raises(ArtifactError, match="holds more than weights") as caught:
            read_weights(tmp_path / name)
        assert "--unsafe-pickle" in caught.value.hint

        found = read_weights(tmp_path / name, unsafe_pickle=True)

        assert torch.equal(found.tensors["0.weight"], net[0].weight)


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_only_the_unsafe_way_runs_code(tmp_path):
    torch.save({"model": AVERAGE, "extra": Touches(tmp_path / "ran")}, tmp_path / "net.pth")

    with pytest.raises(ArtifactError, match="could run code"):
        read_weights(tmp_path / "net.pth")
    assert not (tmp_path / "ran").exists()
    read_weights(tmp_path / "net.pth", unsafe_pickle=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("unsafe", [False, True])
def test_rubbish_stays_rubbish(unsafe, tmp_path):
    (tmp_path / "net.pth").write_bytes(b"not a checkpoint at all")
    with pytest.raises(ArtifactError, match=r"is not a PyTorch checkpoint|holds more than weights"):
        read_weights(tmp_path / "net.pth", unsafe)
