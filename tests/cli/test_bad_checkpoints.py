"""Files that are no checkpoint of this network: one error, one hint, and nothing imported."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file


def another_network(path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save({"features.0.weight": torch.ones(8, 3, 3, 3), "features.0.bias": torch.ones(8)}, path)


def nan_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    spoilt = weights | {"head.weight": torch.full_like(weights["head.weight"], float("nan"))}
    torch.save(spoilt, path)


def incomplete(path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save({name: tensor for name, tensor in weights.items() if name != "head.bias"}, path)


def misshapen(path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights | {"head.weight": torch.ones(5, 3, 3, 3)}, path)


def pickled_list(path: Path, weights: dict[str, torch.Tensor]) -> None:
    path.write_bytes(pickle.dumps([1, 2, 3]))


def pickled_code(path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save({"model": torch.nn.Linear(2, 2), "path": Path("x")}, path)


def saved_number(path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save({"epoch": 3, "loss": 0.1}, path)


def cut_off(path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights, path)
    path.write_bytes(path.read_bytes()[:5000])


def empty_file(path: Path, weights: dict[str, torch.Tensor]) -> None:
    path.write_bytes(b"")


def text_file(path: Path, weights: dict[str, torch.Tensor]) -> None:
    path.write_text("these are not weights")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (another_network, "is not an SRN checkpoint"),
        (nan_weights, "NaN or infinite weights in head.weight"),
        (incomplete, "missing: head.bias"),
        (misshapen, "misshapen: head.weight (5, 3, 3, 3)"),
        (pickled_list, "bad.pth"),
        (pickled_code, "bad.pth holds more than weights"),
        (saved_number, "not a state_dict"),
        (cut_off, "bad.pth is not a PyTorch checkpoint"),
        (empty_file, "bad.pth is not a PyTorch checkpoint"),
        (text_file, "bad.pth"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_checkpoint(refuse, tiny_weights, tmp_path, spoil, complaint):
    spoil(tmp_path / "bad.pth", tiny_weights)
    assert complaint in refuse(1, "import", tmp_path / "bad.pth")


def test_bad_safetensors(refuse, tiny_weights, tmp_path):
    save_file(dict(tiny_weights), tmp_path / "bad.safetensors")
    whole = (tmp_path / "bad.safetensors").read_bytes()
    (tmp_path / "bad.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "is not a safetensors file" in refuse(1, "import", tmp_path / "bad.safetensors")


def test_a_checkpoint_that_is_not_there_and_an_unknown_network(refuse, checkpoint_file, tmp_path):
    assert "there is no file" in refuse(1, "import", tmp_path / "missing.pth")
    assert "there is no file" in refuse(1, "import", tmp_path / "missing.safetensors")
    assert "holds no weights: nothing in it ends in" in refuse(1, "import", tmp_path)
    assert "architecture 'unet' is unknown" in refuse(2, "import", checkpoint_file, "--arch", "unet")
