"""Foreign checkpoints: what loads, and what each kind of rubbish is told."""

from __future__ import annotations

import dataclasses
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from deblur_deploy.core.artifact import load_artifact, new_step
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.network.checkpoint import (
    build_network,
    import_checkpoint,
    load_network,
    save_network,
    spec_of,
)
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.network.weights_file import read_state_dict

ODD_WIDTHS = SRNConfig((6, 10, 14), ((5, 7), (9,), (11, 3)), 13, (4, 8, 12), (3, 5, 9))


@pytest.fixture
def net() -> SRN:
    torch.manual_seed(5)
    return SRN(ODD_WIDTHS).eval()


def _same(net: nn.Module, other: nn.Module) -> bool:
    frame = torch.rand(1, 3, 20, 27)
    with torch.no_grad():
        return torch.equal(net(frame), other(frame))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "params", "params_ema", "model", "generator"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_usual_wrapping_loads_with_widths_read_off_the_weights(net, wrapper, prefix, tmp_path):
    state = {prefix + name: tensor for name, tensor in net.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "net.pth")

    artifact = import_checkpoint(tmp_path / "net.pth", "srn", tmp_path / "artifact")

    assert load_network(artifact).config == ODD_WIDTHS
    assert _same(net, load_network(artifact))


def test_moving_average_is_preferred_to_raw_weights(net, tmp_path):
    raw = {name: tensor + 1 for name, tensor in net.state_dict().items()}
    torch.save({"params": raw, "params_ema": net.state_dict()}, tmp_path / "both.pth")

    assert _same(net, load_network(import_checkpoint(tmp_path / "both.pth", "srn", tmp_path / "artifact")))


def test_safetensors_and_half_precision_load_as_float32(net, tmp_path):
    halves = {name: tensor.half() for name, tensor in net.state_dict().items()}
    save_file(halves, tmp_path / "net.safetensors")

    weights = read_state_dict(tmp_path / "net.safetensors")

    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    assert all(torch.equal(weights[name], halves[name].float()) for name in halves)


def test_an_artifact_rebuilds_bit_for_bit_in_a_fresh_process(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "net.pt")
    import_checkpoint(tmp_path / "net.pt", "srn", tmp_path / "artifact")
    frame = torch.rand(1, 3, 33, 18)
    torch.save(frame, tmp_path / "frame.pt")
    script = (
        "import sys, torch; from pathlib import Path\n"
        "from deblur_deploy.core.artifact import load_artifact\n"
        "from deblur_deploy.network.checkpoint import load_network\n"
        "folder = Path(sys.argv[1]); torch.set_num_threads(1)\n"
        "net = load_network(load_artifact(folder / 'artifact'))\n"
        "with torch.no_grad(): out = net(torch.load(folder / 'frame.pt'))\n"
        "torch.save(out, folder / 'out.pt')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            assert torch.equal(torch.load(tmp_path / "out.pt"), net(frame))
    finally:
        torch.set_num_threads(threads)


def _write_garbage(path: Path) -> None:
    path.write_bytes(b"not a checkpoint at all")


def _write_list(path: Path) -> None:
    torch.save([1, 2, 3], path)


def _write_object(path: Path) -> None:
    torch.save(nn.Linear(2, 2), path)


def _write_plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weights": Path("x")}))


def _write_config_dict(path: Path) -> None:
    torch.save({"lr": 0.1, "name": "run"}, path)


def _write_empty(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (_write_garbage, "not a PyTorch checkpoint|holds more than weights"),
        (_write_list, "holds 'list', not a state_dict"),
        (_write_object, "holds more than weights"),
        (_write_plain_pickle, "not a PyTorch checkpoint|holds more than weights"),
        (_write_config_dict, "holds 'dict', not a state_dict"),
        (_write_empty, "not a PyTorch checkpoint"),
    ],
)
def test_files_that_are_no_state_dict_are_named_and_leave_nothing(write, said, tmp_path):
    write(tmp_path / "bad.pth")

    with pytest.raises(ArtifactError, match=said) as caught:
        import_checkpoint(tmp_path / "bad.pth", "srn", tmp_path / "artifact")

    assert "bad.pth" in str(caught.value)
    assert "Hint: " in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]


def test_unpickling_never_runs_code(tmp_path):
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")

    with pytest.raises(ArtifactError, match="could run code"):
        read_state_dict(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_truncated_files_are_refused(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "net.pth")
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    for name, said in (("net.pth", "not a PyTorch checkpoint"), ("net.safetensors", "not a safetensors file")):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ArtifactError, match=said):
            read_state_dict(tmp_path / name)


def test_a_damaged_file_of_the_older_format_is_refused_or_still_whole(tiny_config, tmp_path):
    torch.manual_seed(5)
    torch.save(SRN(tiny_config).state_dict(), tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "net.pth").read_bytes()
    assert read_state_dict(tmp_path / "net.pth")
    structure = whole.index(b"levels.0.enter.weight"), whole.rindex(b"head.bias") + 2000
    rng = np.random.default_rng(11)
    refused = 0
    for _ in range(200):
        changed = bytearray(whole)
        start, stop = structure if rng.random() < 0.7 else (0, len(whole))
        for position in rng.integers(start, stop, rng.integers(1, 4)):
            changed[position] = rng.integers(256)
        (tmp_path / "net.pth").write_bytes(changed)
        try:
            read_state_dict(tmp_path / "net.pth")
        except ArtifactError:
            refused += 1
    assert refused > 50


class Raising:
    """Stands in for torch.load."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, *args: object, **settings: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error", [AssertionError(), IndexError("pop"), TypeError("x"), AttributeError("x"), struct.error("x")], ids=repr
)
def test_whatever_a_damaged_file_makes_the_reader_raise_is_one_clear_error(monkeypatch, tmp_path, error):
    (tmp_path / "net.pth").write_bytes(b"x")
    monkeypatch.setattr(torch, "load", Raising(error))

    with pytest.raises(ArtifactError, match=r"net\.pth is not a PyTorch checkpoint"):
        read_state_dict(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(0, 6, 3, 3), r"is empty: its shape is \(0, 6, 3, 3\)"),
        (torch.ones(8, 6).to_sparse(), "is not a plain array but torch.sparse_coo"),
        (torch.zeros(8, 6, device="meta"), "was saved without its values"),
        (torch.zeros(8, 6, dtype=torch.complex64), "holds torch.complex64"),
    ],
    ids=["empty", "sparse", "meta", "complex"],
)
def test_weights_that_are_no_plain_numbers_are_named(net, tensor, said, tmp_path):
    torch.save({**net.state_dict(), "levels.0.enter.weight": tensor}, tmp_path / "net.pth")

    with pytest.raises(ArtifactError, match=rf"the weight levels\.0\.enter\.weight {said}"):
        import_checkpoint(tmp_path / "net.pth", "srn", tmp_path / "artifact")


def test_a_dictionary_that_holds_itself_is_refused(tmp_path):
    endless: dict[str, object] = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "endless.pth")

    with pytest.raises(ArtifactError, match="holds 'dict', not a state_dict"):
        read_state_dict(tmp_path / "endless.pth")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    for name in ("none.pth", "none.safetensors"):
        with pytest.raises(ArtifactError, match="there is no file"):
            read_state_dict(tmp_path / name)


def test_another_network_is_recognised_by_its_keys(tmp_path):
    torch.save(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)).state_dict(), tmp_path / "other.pth")

    with pytest.raises(ArtifactError, match=r"not an SRN checkpoint: it lacks .*; it has 0\.bias, 0\.weight"):
        import_checkpoint(tmp_path / "other.pth", "srn", tmp_path / "artifact")


def test_the_one_missing_tensor_is_named_and_no_block_of_another_depth(tiny_config, tmp_path):
    state = SRN(tiny_config).state_dict()
    del state["recurrent.candidate.weight"]
    torch.save(state, tmp_path / "net.pth")

    with pytest.raises(ArtifactError) as caught:
        import_checkpoint(tmp_path / "net.pth", "srn", tmp_path / "artifact")

    assert "it lacks recurrent.candidate.weight; it has nothing else" in caught.value.message


def test_the_tensor_that_was_looked_for_is_named_first(net, tmp_path):
    state = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith(("pyramid", "deform"))}
    torch.save(state, tmp_path / "net.pth")

    with pytest.raises(ArtifactError, match=r"it lacks pyramid\.lateral\.0\.weight, deform\.deform\.\S+, "):
        import_checkpoint(tmp_path / "net.pth", "srn", tmp_path / "artifact")


def test_a_single_number_for_a_weight_is_named(net, tmp_path):
    torch.save({**net.state_dict(), "recurrent.candidate.weight": torch.tensor(1.0)}, tmp_path / "net.pth")

    with pytest.raises(ArtifactError, match=r"recurrent\.candidate\.weight should be an array"):
        import_checkpoint(tmp_path / "net.pth", "srn", tmp_path / "artifact")


def test_missing_unexpected_and_misshapen_keys_are_named(net, tmp_path):
    state = dict(net.state_dict())
    del state["head.bias"]
    state["head.scale"] = torch.ones(3)
    state["recurrent.gate.weight"] = torch.zeros(13, 25, 3, 3)
    torch.save(state, tmp_path / "odd.pth")

    with pytest.raises(ArtifactError) as caught:
        import_checkpoint(tmp_path / "odd.pth", "srn", tmp_path / "artifact")

    assert "missing: head.bias" in caught.value.message
    assert "unexpected: head.scale" in caught.value.message
    assert "misshapen: recurrent.gate.weight (13, 25, 3, 3) instead of (13, 26, 3, 3)" in caught.value.message


def test_nan_weights_are_named(net, tmp_path):
    state = net.state_dict()
    state["deform.deform.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")

    with pytest.raises(ArtifactError, match=r"NaN or infinite weights in deform\.deform\.weight"):
        import_checkpoint(tmp_path / "nan.pth", "srn", tmp_path / "artifact")


def test_unknown_architectures_are_refused(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "net.pth")

    with pytest.raises(ConfigError, match="'unet' is unknown"):
        import_checkpoint(tmp_path / "net.pth", "unet", tmp_path / "artifact")


def test_weights_that_do_not_fit_their_manifest_are_refused(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "net.pth")
    artifact = import_checkpoint(tmp_path / "net.pth", "srn", tmp_path / "artifact")
    wider = dataclasses.replace(artifact.network, config={**artifact.network.config, "recurrent_channels": 16})

    with pytest.raises(ArtifactError, match="misshapen"):
        load_network(dataclasses.replace(load_artifact(artifact.path), network=wider))


def test_a_spec_of_nonsense_is_refused(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "net.pth")
    spec = import_checkpoint(tmp_path / "net.pth", "srn", tmp_path / "artifact").network

    with pytest.raises(ConfigError, match="level_channels"):
        build_network(dataclasses.replace(spec, config={**spec.config, "level_channels": "wide"}))


def test_a_checkpoint_that_the_system_does_not_write_leaves_nothing(
    tmp_path: Path, tiny_config: SRNConfig, small_files_only: Callable[[], AbstractContextManager[None]]
) -> None:
    net = SRN(tiny_config)
    with pytest.raises(ArtifactError, match="net cannot be written"), small_files_only():
        save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))
    assert list(tmp_path.iterdir()) == []
