"""Quantization: which layers, which ranges, and that a quantized artifact is rebuilt exactly from plain data."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from deblur_deploy.compress import quantize
from deblur_deploy.compress.finetune import evaluation_pairs
from deblur_deploy.compress.quantize import plan_scheme, qat, quantize_network, require_max_drop
from deblur_deploy.config import FitConfig, QatConfig, ShakeConfig, TuningConfig
from deblur_deploy.core.artifact import MANIFEST, load_artifact, new_step
from deblur_deploy.core.errors import ArtifactError, BudgetError, ConfigError
from deblur_deploy.core.images import save_rgb, to_batch
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.fake_quant import default_exemptions, quantizable_layers, read_ranges
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.quality.evaluate import evaluate_network
from deblur_deploy.training.loop import FitReport

EXEMPT = ("levels.0.enter", "deform.deform.conv_offset", "head")


@pytest.fixture
def net(tiny_config: SRNConfig, soften: Callable[[torch.nn.Module], None]) -> SRN:
    torch.manual_seed(3)
    net = SRN(tiny_config).eval()
    soften(net)
    torch.nn.init.normal_(net.head.weight, std=0.05)
    return net


def test_first_last_and_offset_convolutions_are_exempt(net):
    assert default_exemptions(net, torch.rand(1, 3, 32, 32)) == EXEMPT


def test_a_network_of_which_nothing_would_be_quantized_is_refused_before_the_work(net, tmp_path, monkeypatch):
    source = save_network(tmp_path / "float", net, spec_of(net), new_step("train", {}, None, {}))
    monkeypatch.setattr(quantize, "calibration_frames", lambda config: pytest.fail("work has begun"))
    everything = QatConfig(exempt=tuple(quantizable_layers(net)))
    with pytest.raises(
        ConfigError, match=r"all of its \d+ convolutions are exempt \(levels.0.enter, .* …\)"
    ) as refused:
        qat(source, everything, tmp_path / "out")
    assert "--include levels.0.enter" in refused.value.hint
    assert not (tmp_path / "out").exists()


def test_a_network_without_2d_convolutions_is_refused_too(tmp_path, monkeypatch):
    class Rows(Generator):
        arch = "rows"

        def __init__(self) -> None:
            super().__init__()
            self.mix = torch.nn.Conv1d(3, 3, 3, padding=1)

        def forward_scales(self, blurred):
            return [self.mix(blurred.flatten(2)).view(blurred.shape)]

    monkeypatch.setattr("deblur_deploy.compress.quantize._load_float", lambda source: Rows())
    monkeypatch.setattr("deblur_deploy.compress.quantize.load_network", lambda source: Rows())
    with pytest.raises(ConfigError, match="it has no 2D convolutions"):
        qat(None, QatConfig(), tmp_path / "out")


def test_normalisation_and_pooling_get_no_quantizers(photo):
    class Mixed(torch.nn.Sequential):
        def forward_once(self, image):
            return self(image)

    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.InstanceNorm2d(8, affine=True), torch.nn.MaxPool2d(2)]
    net = Mixed(*layers, torch.nn.BatchNorm2d(8), torch.nn.ConvTranspose2d(8, 3, 2, stride=2)).eval()

    peaks = quantize_network(net, {"bits": 8}, [to_batch(photo)])

    assert sorted(peaks) == ["0", "4"]
    assert {name.rpartition(".")[0].rpartition(".")[0] for name in read_ranges(net)} == {"0", "4"}
    assert read_ranges(net)["4.weight_quantizer._amax"].shape == (1, 3, 1, 1)


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


def test_of_a_deformable_convolution_only_the_weights_are_quantized(net, photo):
    original = net.deform.deform.weight.detach().clone()
    quantize_network(net, {"bits": 8, "exempt": list(EXEMPT)}, [to_batch(photo)])

    ranges = {name for name in read_ranges(net) if name.startswith("deform")}
    assert ranges == {"deform.deform.weight_quantizer._amax"}
    step = original.abs().amax((1, 2, 3), keepdim=True) / 127
    assert torch.allclose(net.deform.deform.weight, (original / step).round() * step, atol=1e-6)
    assert torch.equal(net.state_dict()["deform.deform.weight"], original)  # what is stored is not rounded


def test_a_deformable_convolution_can_be_exempt_while_its_offsets_are_not(net, photo):
    scheme = plan_scheme(net, QatConfig(exempt=("deform.deform",), include=("deform.deform.conv_offset",)))
    quantize_network(net, dataclasses.asdict(scheme), [to_batch(photo)])

    ranges = {name.rsplit(".", 1)[0] for name in read_ranges(net) if name.startswith("deform")}
    assert ranges == {f"deform.deform.conv_offset.{part}_quantizer" for part in ("weight", "input")}


def test_default_exemptions_can_be_quantized_by_name(net):
    scheme = plan_scheme(net, QatConfig(exempt=("recurrent.gate",), include=("head",)))

    assert scheme.exempt == ("levels.0.enter", "deform.deform.conv_offset", "recurrent.gate")
    with pytest.raises(ConfigError, match="no layer 'haed' to include") as caught:
        plan_scheme(net, QatConfig(include=("haed",)))
    assert "'head'" in caught.value.hint
    with pytest.raises(ConfigError, match="exempt and include both name"):
        QatConfig(exempt=("head",), include=("head",))


@pytest.mark.parametrize("number_format", ["int8", "fp8"])
def test_weights_only_leaves_activations_in_float(net, photo, number_format):
    scheme = plan_scheme(net, QatConfig(format=number_format, weights_only=True))
    quantize_network(net, dataclasses.asdict(scheme), [to_batch(photo)])

    names = {name.split(".")[-2] for name in read_ranges(net)}
    assert names == {"weight_quantizer"}


def test_fp8_weights_are_e4m3_with_one_scale_per_layer(net, photo):
    weight = net.pyramid.up[0].weight.detach().clone()
    quantize_network(net, dataclasses.asdict(plan_scheme(net, QatConfig(format="fp8"))), [to_batch(photo)])

    scale = weight.abs().max() / 448
    expected = (weight / scale).to(torch.float8_e4m3fn).float() * scale
    assert read_ranges(net)["pyramid.up.0.weight_quantizer._amax"].numel() == 1
    with net.pyramid.up[0].quantize_weight():
        assert torch.allclose(net.pyramid.up[0].weight, expected, rtol=1e-5)


def test_quantization_changes_the_picture_a_little(net, photo):
    frame = torch.from_numpy(to_batch(photo))
    with torch.no_grad():
        exact = net(frame)
        quantize_network(net, {"bits": 8, "exempt": list(EXEMPT)}, [to_batch(photo)])
        error = (net(frame) - exact).abs()

    assert 0 < error.mean() < 5e-3


def test_exempting_all_but_one_quantizes_that_one(net, photo):
    others = [name for name in quantizable_layers(net) if name != "recurrent.gate"]

    quantize_network(net, {"bits": 8, "exempt": others}, [to_batch(photo)])

    assert {name.rsplit(".", 2)[0] for name in read_ranges(net)} == {"recurrent.gate"}


def test_exempting_everything_is_refused(net, photo):
    with pytest.raises(ConfigError, match="nothing is left to quantize"):
        quantize_network(net, {"bits": 8, "exempt": list(quantizable_layers(net))}, [to_batch(photo)])


def test_an_exempt_layer_that_does_not_exist_is_refused(net, photo):
    with pytest.raises(ConfigError, match=r"no layer 'recurrent\.gates'") as caught:
        quantize_network(net, {"bits": 8, "exempt": ["recurrent.gates"]}, [to_batch(photo)])
    assert "'recurrent.gate'" in caught.value.hint


def test_any_unknown_name_gets_the_nearest_layer(net, photo):
    for name in ("", "xyz", "head.conv"):
        with pytest.raises(ConfigError, match="no layer") as caught:
            quantize_network(net, {"bits": 8, "exempt": [name]}, [to_batch(photo)])
        assert caught.value.hint.startswith("the nearest convolution is '")


@pytest.mark.parametrize("name", ["levels", "deform", "recurrent", "pyramid", "pyramid.up"])
def test_a_part_that_holds_convolutions_is_no_exemption(net, photo, name):
    with pytest.raises(ConfigError, match=f"'{name}' is not a convolution") as caught:
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
    assert manifest["network"]["quantization"] == {
        "format": "int8",
        "bits": 8,
        "weights_only": False,
        "reduce_range": True,
        "calibrator": "max",
        "percentile": None,
        "exempt": list(EXEMPT),
    }
    frame = torch.from_numpy(np.random.default_rng(0).random((1, 3, 40, 52), dtype=np.float32))
    first, second = (load_network(load_artifact(tmp_path / "qat")) for _ in range(2))
    with torch.no_grad():
        assert torch.equal(first(frame), second(frame))
        assert not torch.equal(first(frame), load_network(source)(frame))
    assert read_ranges(first).keys() == read_ranges(second).keys()
    assert quantized.figures["psnr_db"] > 10
    assert capsys.readouterr().out == ""  # stdout belongs to --json


@pytest.mark.parametrize(
    ("config", "reduced"),
    [({}, True), ({"reduce_range": False}, False), ({"weights_only": True}, False), ({"format": "fp8"}, False)],
    ids=["by default", "not asked for", "weights only", "fp8"],
)
def test_where_the_range_of_weights_is_reduced(net, config, reduced):
    assert plan_scheme(net, QatConfig(**config)).reduce_range is reduced


def test_weights_that_grew_after_the_ranges_were_frozen_stay_within_64_codes(net, config, tmp_path, monkeypatch):
    def grow(net, *_):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter *= 1.5
        return FitReport(0, 0.0, 0.0, None)

    monkeypatch.setattr(quantize, "finetune", grow)
    source = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))
    quantized = load_network(qat(source, config, tmp_path / "qat"))
    weights, ranges = dict(quantized.named_parameters()), read_ranges(quantized)
    largest = [
        float((weights[name.removesuffix("_quantizer._amax")].detach() * 127 / amax).abs().max())
        for name, amax in ranges.items()
        if name.endswith("weight_quantizer._amax")
    ]
    assert largest == pytest.approx([64] * len(largest), rel=1e-5)  # and not between two codes


def test_quantizing_twice_is_refused(net, config, tmp_path):
    source = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))
    quantized = qat(source, config, tmp_path / "qat")

    with pytest.raises(ArtifactError, match="quantized already"):
        qat(quantized, config, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def watch_quantize_network(monkeypatch):
    """A list that gets the network that ``qat`` works on."""
    seen, real = [], quantize.quantize_network

    def quantize_and_note(network, *rest):
        seen.append(network)
        return real(network, *rest)

    monkeypatch.setattr(quantize, "quantize_network", quantize_and_note)
    return seen


@pytest.mark.parametrize(
    "settings",
    [{"format": "fp8"}, {"weights_only": True}, {"calibrator": "percentile", "percentile": 99.9, "include": ("head",)}],
    ids=["fp8", "weights only", "percentile"],
)
def test_every_scheme_rebuilds_bit_for_bit(net, config, tmp_path, settings, monkeypatch):
    source = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))
    seen = watch_quantize_network(monkeypatch)

    qat(source, dataclasses.replace(config, **settings), tmp_path / "qat")

    frame = torch.from_numpy(np.random.default_rng(0).random((1, 3, 32, 48), dtype=np.float32))
    tuned = seen[0].to(memory_format=torch.contiguous_format)  # sums are rounded by the order in memory
    with torch.no_grad():
        assert torch.equal(load_network(load_artifact(tmp_path / "qat"))(frame), tuned(frame))


def test_weights_that_stay_in_float_are_exact_in_float16(net, config, tmp_path):
    source = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))

    tuned = load_network(qat(source, config, tmp_path / "qat"))

    for name in EXEMPT:
        weight = tuned.get_submodule(name).weight
        assert torch.equal(weight, weight.half().float())


def ranges_during(net, config, tmp_path, monkeypatch, freeze_share):
    """Ranges after each of four fine-tuning steps."""
    source = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))
    tuning = dataclasses.replace(config.tuning, fit=dataclasses.replace(config.tuning.fit, steps=4, lr=1e-2))
    config = dataclasses.replace(config, freeze_share=freeze_share, tuning=tuning, calibrator="percentile")
    seen = watch_quantize_network(monkeypatch)
    history = []

    def note(*_):
        history.append({name: amax.clone() for name, amax in read_ranges(seen[0]).items()})

    qat(source, config, tmp_path / "qat", note)
    return history


def test_ranges_follow_the_network_and_freeze_for_the_last_share(net, config, tmp_path, monkeypatch):
    history = ranges_during(net, config, tmp_path, monkeypatch, freeze_share=0.5)

    for kind in ("input_quantizer", "weight_quantizer"):
        name = f"recurrent.gate.{kind}._amax"
        assert not torch.equal(history[0][name], history[1][name])
        assert torch.equal(history[1][name], history[2][name])
        assert torch.equal(history[2][name], history[3][name])


def test_ranges_frozen_from_the_start_are_those_of_calibration(net, config, tmp_path, monkeypatch):
    history = ranges_during(net, config, tmp_path, monkeypatch, freeze_share=1.0)

    assert all(torch.equal(history[0][name], history[3][name]) for name in history[0])


def test_a_budget_that_holds_exempts_nothing(net, config, tmp_path):
    source = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))

    figures = qat(source, dataclasses.replace(config, max_drop=20.0), tmp_path / "qat").figures

    assert figures["exempted"] == []
    assert figures["drop_db"] == pytest.approx(figures["psnr_float_db"] - figures["psnr_db"])


def test_a_missed_budget_keeps_and_names_the_best_artifact(net, config, tmp_path):
    source = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))
    fit = dataclasses.replace(config.tuning.fit, lr=3e-2)  # ruins the weights, which no exemption mends
    tuning = dataclasses.replace(config.tuning, fit=fit)
    few = tuple(name for name in quantizable_layers(net) if not name.startswith(("levels.2", "recurrent")))
    ruinous = dataclasses.replace(config, max_drop=0.0, exempt=few, tuning=tuning)

    with pytest.raises(BudgetError, match="more than the 0 dB allowed") as caught:
        qat(source, ruinous, tmp_path / "qat")

    kept = load_artifact(tmp_path / "qat")
    assert str(kept.directory) in caught.value.message
    with pytest.raises(BudgetError, match="more than the 0 dB allowed"):  # whoever takes it up again is told again
        require_max_drop(kept, ruinous)
    require_max_drop(kept, dataclasses.replace(ruinous, max_drop=99.0))
    assert kept.figures["drop_db"] == min(kept.figures["drops_db"]) > 0
    assert set(kept.figures["exempted"]) | set(few) == set(kept.network.quantization["exempt"])
    assert len(kept.figures["drops_db"]) == len(kept.figures["sensitivity"])  # all but one were tried
    pairs = evaluation_pairs(config.tuning)
    measured = kept.figures["psnr_float_db"] - evaluate_network(load_network(kept), pairs)
    assert measured == pytest.approx(kept.figures["drop_db"], abs=0.02)
