"""Sensitivity of layers, and budgets that are held by exempting the most sensitive."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from deblur_deploy.compress.quant_sensitivity import hold_budget, quantizing_only, scan_layers, write_scan
from deblur_deploy.compress.quantize import plan_scheme, quantize_network, scan
from deblur_deploy.config import QatConfig, TuningConfig
from deblur_deploy.core.artifact import new_step
from deblur_deploy.core.images import from_batch, save_rgb, to_batch
from deblur_deploy.data.pairs import Pair
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.fake_quant import exempt_layers, quantizable_layers
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.quality.evaluate import evaluate_network

MEASURED = ("levels.1.enter", "recurrent.candidate", "pyramid.smooth.0", "head")
RUINED = "pyramid.smooth.0"


@pytest.fixture
def net(tiny_config: SRNConfig) -> SRN:
    torch.manual_seed(3)
    net = SRN(tiny_config).eval()
    torch.nn.init.normal_(net.head.weight, std=0.5)  # moves the picture by many levels
    return net


@pytest.fixture
def pairs(net, photo) -> list[Pair]:
    """The float network's own picture, with a grain of its own, as the sharp one: quantization can only lose."""
    blurred = photo[:64, :80]
    with torch.no_grad():
        restored = from_batch(net(torch.from_numpy(to_batch(blurred))).numpy())
    grain = np.random.default_rng(0).integers(-1, 2, restored.shape)
    return [Pair("one", blurred, np.clip(restored + grain, 0, 255).astype(np.uint8))]


@pytest.fixture
def quantized(net, pairs, photo) -> SRN:  # the pairs are made with the float network, so before it
    """Four layers quantized; one of them with a range that ruins the picture."""
    exempt = [name for name in quantizable_layers(net) if name not in MEASURED]
    quantize_network(net, {"exempt": exempt}, [to_batch(photo[:64, :80])])
    ruined = net.get_submodule(f"{RUINED}.input_quantizer")
    ruined.amax = ruined.amax / 20
    return net


def test_the_scan_finds_the_ruined_layer_first_and_measures_each_alone(quantized, pairs):
    told = []
    report = scan_layers(quantized, pairs, exempt=("recurrent.candidate",), on_layer=lambda *what: told.append(what))

    assert {item.layer for item in report.layers} == set(MEASURED)
    assert report.layers[0].layer == RUINED
    drops = [item.drop_db for item in report.layers]
    assert drops == sorted(drops, reverse=True)
    assert [item.layer for item in report.layers if item.exempt] == ["recurrent.candidate"]
    assert [what[:2] for what in told] == [(number, 4) for number in (1, 2, 3, 4)]
    with quantizing_only(quantized, (RUINED,)):
        assert drops[0] == pytest.approx(report.psnr_float_db - evaluate_network(quantized, pairs))
    assert set(quantizable_layers(quantized)) - set(exempt_layers(quantized)) == set(MEASURED)  # all on again


def test_a_budget_is_held_with_the_fewest_exemptions(quantized, pairs):
    whole = evaluate_network(quantized, pairs)
    with quantizing_only(quantized, tuple(set(MEASURED) - {RUINED})):
        without_ruined = evaluate_network(quantized, pairs)
    with quantizing_only(quantized, ()):
        float_db = evaluate_network(quantized, pairs)

    report = hold_budget(quantized, pairs, float_db, max_drop=float_db - without_ruined + 0.01)

    assert report.exempted == (RUINED,)
    assert report.drops_db == (pytest.approx(float_db - whole), pytest.approx(float_db - without_ruined))
    assert report.drop_db == pytest.approx(float_db - evaluate_network(quantized, pairs))
    assert next(iter(report.sensitivity)) == RUINED
    assert RUINED in exempt_layers(quantized)


def test_a_budget_that_cannot_be_held_leaves_the_best_network(quantized, pairs):
    float_db = 99.0  # no network reaches it

    report = hold_budget(quantized, pairs, float_db, max_drop=0.1)

    assert len(report.drops_db) == len(MEASURED)  # every layer but the last was tried
    assert report.drop_db == min(report.drops_db) > 0.1
    assert float_db - evaluate_network(quantized, pairs) == pytest.approx(report.drop_db)
    left = set(quantizable_layers(quantized)) - set(exempt_layers(quantized))
    assert left == set(MEASURED) - set(report.exempted) != set()


def test_the_stage_scans_every_layer_and_writes_a_table(net, photo, tmp_path):
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "one.png", photo[:64, :80])
    folder = str(tmp_path / "photos")
    config = QatConfig(calibration_images=1, tuning=TuningConfig(folder, folder))
    source = save_network(tmp_path / "net", net, spec_of(net), new_step("import", {}, None, {}))

    report = scan(source, config)
    table, summary = write_scan(report, tmp_path / "scan")

    assert {item.layer for item in report.layers} == set(quantizable_layers(net))
    assert {item.layer for item in report.layers if item.exempt} == set(plan_scheme(net, config).exempt)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == [item.layer for item in report.layers]
    assert [float(row["drop_db"]) for row in rows] == [item.drop_db for item in report.layers]
    assert json.loads(summary.read_text()) == json.loads(json.dumps(report.as_json()))
    gain = report.psnr_float_db - report.psnr_blurred_db
    assert gain < 0  # random weights restore nothing
    assert {row["gain_kept"] for row in rows} == {""}
