"""Quantization: which layers, which ranges, and that a quantized artifact is rebuilt exactly from plain data."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from deblur_deploy.artifact import MANIFEST, load_artifact, new_step
from deblur_deploy.compress.quantize import qat, quantize_network
from deblur_deploy.config import FitConfig, QatConfig, ShakeConfig, TuningConfig
from deblur_deploy.errors import ArtifactError, ConfigError
from deblur_deploy.images import save_rgb, to_batch
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.fake_quant import default_exemptions, read_ranges
from deblur_deploy.network.srn import SRN, SRNConfig

EXEMPT = ("levels.0.enter", "deform.deform.conv_offset", "head")


@pytest.fixture
def net(tiny_config: SRNConfig) -> SRN:
    torch.manual_seed(3)
    net = SRN(tiny_config).eval()
    torch.nn.init.normal_(net.head.weight, std=0.05)
    return net


def test_first_last_and_offset_convolutions_are_exempt(net):
    assert default_exemptions(net, torch.rand(1, 3, 32, 32)) == EXEMPT


def test_weights_are_rounded_per_output_channel_and_activations_per_tensor(net, photo):
    original = copy.deepcopy(net)
    quantize_network(net, {"bits": 8, "exempt": list(EXEMPT)}, [to_batch(photo)])

    ranges = read_ranges(net)
    for name, module in original.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)) and name not in EXEMPT:
            axes = (0, 2, 3) if isinstance(module, torch.nn.ConvTranspose2d) else (1, 2, 3)
            amax = ranges[f"{name}.weight_quantizer._amax"].flatten()
            assert torch.allclose(amax, module.weight.detach().abs().amax(axes))
            assert ranges[f"{name}.input_quantizer._amax"].numel() == 1
    assert not any(name.startswith(EXEMPT) for name in ranges)


def test_quantization_changes_the_picture_a_little(net, photo):
    frame = torch.from_numpy(to_batch(photo))
    with torch.no_grad():
        exact = net(frame)
        quantize_network(net, {"bits": 8, "exempt": list(EXEMPT)}, [to_batch(photo)])
        error = (net(frame) - exact).abs()

    assert 0 < error.mean() < 5e-3


def test_exempting_all_but_one_quantizes_that_one(net, photo):
    layers = [n for n, m in net.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))]

    quantize_network(net, {"bits": 8, "exempt": [n for n in layers if n != "recurrent.gate"]}, [to_batch(photo)])

    assert {name.rsplit(".", 2)[0] for name in read_ranges(net)} == {"recurrent.gate"}


def test_exempting_everything_is_refused(net, photo):
    layers = [n for n, m in net.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))]

    with pytest.raises(ConfigError, match="nothing is left to quantize"):
        quantize_network(net, {"bits": 8, "exempt": layers}, [to_batch(photo)])


def test_an_exempt_layer_that_does_not_exist_is_refused(net, photo):
    with pytest.raises(ConfigError, match=r"no layer 'recurrent\.gates'") as caught:
        quantize_network(net, {"bits": 8, "exempt": ["recurrent.gates"]}, [to_batch(photo)])
    assert "'recurrent.gate'" in caught.value.hint


def test_any_unknown_name_gets_the_nearest_layer(net, photo):
    for name in ("", "xyz", "head.conv"):
        with pytest.raises(ConfigError, match="no layer") as caught:
            quantize_network(net, {"bits": 8, "exempt": [name]}, [to_batch(photo)])
        assert caught.value.hint.startswith("the nearest convolution is '")


@pytest.mark.parametrize("name", ["levels", "deform", "deform.deform", "recurrent", "pyramid", "pyramid.up"])
def test_a_part_that_holds_convolutions_is_no_exemption(net, photo, name):
    with pytest.raises(ConfigError, match=f"'{name}' is no convolution") as caught:
        quantize_network(net, {"bits": 8, "exempt": [name, "head"]}, [to_batch(photo)])
    assert f"{name}." in caught.value.hint


def test_nothing_to_calibrate_on_is_refused(net):
    with pytest.raises(ConfigError, match="no pictures to calibrate on") as caught:
        quantize_network(net, {"bits": 8, "exempt": []}, [])
    assert "--data" in caught.value.hint


@pytest.fixture
def config(photo, tmp_path) -> QatConfig:
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "one.png", photo)
    folder = str(tmp_path / "photos")
    fit = FitConfig(steps=2, batch=2, crop=64, lr=1e-4, warmup=1, ema_decay=0.5)
    return QatConfig(calibration_images=1, tuning=TuningConfig(folder, folder, ShakeConfig(length_px=(2.0, 4.0)), fit))


def test_a_quantized_artifact_is_plain_data_and_rebuilds_bit_for_bit(net, config, tmp_path, capsys):
    source = save_network(
        tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {"params": 1, "gmacs": 1.0})
    )

    quantized = qat(source, config, tmp_path / "qat")

    manifest = json.loads((tmp_path / "qat" / MANIFEST).read_text())
    assert manifest["network"]["quantization"] == {"bits": 8, "exempt": list(EXEMPT)}
    frame = torch.from_numpy(np.random.default_rng(0).random((1, 3, 40, 52), dtype=np.float32))
    first, second = (load_network(load_artifact(tmp_path / "qat")) for _ in range(2))
    with torch.no_grad():
        assert torch.equal(first(frame), second(frame))
        assert not torch.equal(first(frame), load_network(source)(frame))
    assert read_ranges(first).keys() == read_ranges(second).keys()
    assert quantized.figures["psnr_db"] > 10
    assert capsys.readouterr().out == ""  # stdout belongs to --json


def test_quantizing_twice_is_refused(net, config, tmp_path):
    source = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))
    quantized = qat(source, config, tmp_path / "qat")

    with pytest.raises(ArtifactError, match="quantized already"):
        qat(quantized, config, tmp_path / "again")
    assert not (tmp_path / "again").exists()
