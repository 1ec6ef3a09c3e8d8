"""``import`` of networks other than the default: what it prints, what it refuses, and what comes after it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from deblur_deploy.network.mimo_unet import MIMOUNet, MIMOUNetConfig


@pytest.fixture
def mimo_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = MIMOUNet(MIMOUNetConfig(blocks=1))
    average = {name: tensor * 0.5 for name, tensor in net.state_dict().items()}
    torch.save({"params": net.state_dict(), "params_ema": average}, tmp_path / "mimo.pkl")
    return tmp_path / "mimo.pkl"


def test_another_network_goes_from_its_checkpoint_to_onnx(run, mimo_file, tmp_path):
    imported = run("import", mimo_file, "--arch", "mimo-unet", "--out", tmp_path / "mimo").done()
    assert "the moving average (params_ema)" in imported.out + imported.err
    facts = run("inspect", tmp_path / "mimo", "--json").done().json
    assert facts["multiple_of"] == 4

    exported = run("export-onnx", tmp_path / "mimo", "--res", "48x32", "--out", tmp_path / "onnx", "--json").done()
    assert Path(exported.json["artifact"]) == tmp_path / "onnx"


def test_what_a_users_network_prints_stays_off_stdout(run, tmp_path, monkeypatch):
    (tmp_path / "printing_networks.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Conv2d):\n"
        "    def __init__(self):\n"
        "        super().__init__(3, 3, 1)\n"
        "        print('made')\n"
        "    def forward(self, x):\n"
        "        print('called')\n"
        "        return super().forward(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(torch.nn.Conv2d(3, 3, 1).state_dict(), tmp_path / "own.pth")
    arguments = ("import", tmp_path / "own.pth", "--arch", "printing_networks:Net", "--out")

    outcome = run(*arguments, tmp_path / "quiet", "--json").done()
    assert outcome.json["kind"] == "checkpoint"
    assert "made\n" in outcome.err
    assert "called\n" in outcome.err
    assert "called\n" in run(*arguments, tmp_path / "plain").done().out
    sys.modules.pop("printing_networks")


def test_wrong_options_and_networks_are_one_line_and_a_hint(run, mimo_file, tmp_path):
    out = ("--out", tmp_path / "out")
    assert "by its names it is mimo-unet" in run("import", mimo_file, *out).refusal(1)
    assert "takes no --norm" in run("import", mimo_file, "--arch", "mimo-unet", "--norm", "folded", *out).refusal(2)
    assert "cannot be imported" in run("import", mimo_file, "--arch", "no_such:Net", *out).refusal(2)
    assert "there is no TensorFlow checkpoint" in run(
        "import", tmp_path / "deblur.model-1", "--arch", "srn-cvpr18", *out
    ).refusal(1)


def test_pickled_networks_need_to_be_asked_for_by_name(run, tmp_path):
    torch.save(MIMOUNet(MIMOUNetConfig(blocks=1)), tmp_path / "whole.pth")
    arguments = ("import", tmp_path / "whole.pth", "--arch", "mimo-unet", "--out", tmp_path / "out")
    assert "--unsafe-pickle" in run(*arguments).refusal(1)
    run(*arguments, "--unsafe-pickle").done()


def test_both_normalisations_are_printed_with_what_lies_between_them(run, deblurgan_state, tmp_path):
    torch.save({"model": deblurgan_state}, tmp_path / "fpn.h5")
    printed, measured = {}, {}
    for norm in ("image", "folded"):
        arguments = ("--arch", "deblurgan-v2-mobilenet", "--norm", norm, "--out", tmp_path / norm)
        done = run("import", tmp_path / "fpn.h5", *arguments).done()
        (line,) = (line for line in (done.out + done.err).splitlines() if line.startswith("norm "))
        assert f"{norm} was taken" in line
        printed[norm] = [float(figure) for figure in re.findall(r"(\S+) dB", line)]
        measured[norm] = run("eval", tmp_path / norm, "--json").done().json["psnr_db"]

    assert printed["image"] == printed["folded"]
    image, folded, between = printed["image"]
    assert [image, folded] == pytest.approx([measured["image"], measured["folded"]], abs=0.006)
    assert between == pytest.approx(measured["folded"] - measured["image"], abs=0.006)
    assert abs(between) > 0.01
