"""The scan: what it measures, the curves that it gives, and the files that it writes."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from deblur_deploy.compress.finetune import evaluation_pairs
from deblur_deploy.compress.plan import Analysis
from deblur_deploy.compress.prune import ChannelSurvey, load_float
from deblur_deploy.compress.removal import remove_channels, weakest
from deblur_deploy.compress.scan_files import draw_chart, write_scan
from deblur_deploy.compress.sensitivity import (
    ScanReport,
    ScanRow,
    WholeNetwork,
    predicted_drop_db,
    scan_network,
    scan_pairs,
)
from deblur_deploy.config import FitConfig, PruneConfig, TuningConfig
from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import to_batch
from deblur_deploy.core.sources import shipped
from deblur_deploy.data.pairs import Pair
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.quality.evaluate import evaluate_network, pairs_psnr_db
from deblur_deploy.quality.metrics import psnr_db


@pytest.fixture
def pairs(photo) -> list[Pair]:
    return [Pair("one.png", photo[:64, :96], photo[8:72, :96]), Pair("two.png", photo[64:96, :48], photo[60:92, :48])]


@pytest.fixture
def report() -> ScanReport:
    def row(group: int, before: int, kept: int, drop_db: float, deviation: float) -> ScanRow:
        layers, share = (f"a<{group}>", "b"), kept / before
        return ScanRow(group, layers, before, kept, share, 30 - drop_db, drop_db, deviation, 1000 * kept, 0.5)

    rows = (row(0, 32, 24, 0.1, 0.1), row(0, 32, 16, 0.05, 0.05), row(0, 32, 8, 1.1, 1.1), row(2, 16, 8, -0.2, 0.3))
    return ScanReport(30.0, 2, 64, rows, blurred_db=28.0)


def test_every_group_is_measured_alone(unet, frames, pairs):
    config = PruneConfig(round_to=4, importance="l2")
    analysis = Analysis.of(unet, config, frames=frames)
    told = []

    report = scan_network(unet, analysis.channels.groups, analysis.state, pairs, lambda *facts: told.append(facts))

    assert report.psnr_db == evaluate_network(unet, pairs)
    assert report.blurred_db == np.mean([psnr_db(pair.blurred, pair.sharp) for pair in pairs])
    assert [(row.group, row.kept) for row in report.rows] == [
        *((0, kept) for kept in (12, 8, 4)),
        *((group, kept) for group in (1, 2) for kept in (24, 16, 8, 4)),
        *((3, kept) for kept in (16, 12, 4)),
        *((4, kept) for kept in (12, 8, 4)),
    ]
    row = next(row for row in report.rows if (row.group, row.kept) == (3, 12))
    narrow = remove_channels(unet, [analysis.channels.groups[3]], [weakest(analysis.state.strengths[3], 12)])
    assert row.psnr_db == evaluate_network(narrow, pairs)
    assert row.drop_db == report.psnr_db - row.psnr_db
    with torch.no_grad():
        seen = [[net(torch.from_numpy(to_batch(pair.blurred))) for pair in pairs] for net in (unet, narrow)]
    sharp = [torch.from_numpy(to_batch(pair.sharp)) for pair in pairs]
    own, moved = ([mean_square(*both) for both in zip(seen[0], other, strict=True)] for other in (sharp, seen[1]))
    assert row.deviation == pytest.approx(sum(moved) / sum(own))
    assert row.params == sum(parameter.numel() for parameter in narrow.parameters())
    assert [(done, of) for done, of, _ in told] == [(n, len(report.rows)) for n in range(1, len(report.rows) + 1)]


def mean_square(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.clamp(0, 1) - other.clamp(0, 1)).double().square().mean())


def test_a_smaller_network_deviates_even_where_it_is_better_by_luck(pairs):
    """One half of the whole network's error is taken away: nearer to the sharp picture, and still another network."""

    class Mixing(torch.nn.Module):
        def __init__(self, share: float) -> None:
            super().__init__()
            self.share, self.left = share, iter(pairs)

        def forward(self, blurred: torch.Tensor) -> torch.Tensor:
            return torch.lerp(blurred, torch.from_numpy(to_batch(next(self.left).sharp)), self.share)

    whole = WholeNetwork(Mixing(0.0), pairs)

    assert whole.compare(Mixing(0.0)) == (whole.psnr_db, 0.0)
    psnr, deviation = whole.compare(Mixing(0.5))
    assert psnr > whole.psnr_db
    assert deviation == pytest.approx(0.25, rel=1e-4)
    assert predicted_drop_db(deviation) == pytest.approx(0.969, abs=1e-3)


def test_a_network_without_any_error_is_compared_too(pairs):
    sharp = [Pair(pair.name, pair.sharp, pair.sharp) for pair in pairs]
    psnr, deviation = WholeNetwork(torch.nn.Identity(), sharp).compare(torch.nn.Identity())
    assert (psnr, deviation) == (math.inf, 0.0)


def test_a_scan_gives_the_same_figures_twice(fpn, frames, pairs):
    analysis = Analysis.of(fpn, PruneConfig(round_to=8, importance="l2"), frames=frames)
    fpn.forward = lambda frame, forward=fpn.forward: forward(frame)[-1]

    first, second = (scan_network(fpn, analysis.channels.groups, analysis.state, pairs) for _ in range(2))

    assert first == second


def test_curves_are_straight_between_measurements_and_never_fall(report):
    curves = report.curves()

    assert curves.keys() == {0, 2}
    assert [curves[0](width) for width in (32, 28, 24, 16, 12, 8)] == pytest.approx([0, 0.05, 0.1, 0.1, 0.6, 1.1])
    assert [curves[2](width) for width in (16, 8)] == [0, 0.3], "the deviation counts, not the luck in dB"


def test_pairs_are_cut_from_the_middle_and_small_ones_stay_whole(pairs):
    cut = scan_pairs(pairs, images=5, size=40)

    assert [pair.sharp.shape for pair in cut] == [(40, 40, 3), (32, 40, 3)]
    assert np.array_equal(cut[0].sharp, pairs[0].sharp[12:52, 28:68])
    assert [pair.name for pair in scan_pairs(pairs, images=1, size=40)] == ["one.png"]
    with pytest.raises(ConfigError, match="no pairs to scan on"):
        scan_pairs([], images=1, size=40)


def test_the_files_hold_the_whole_scan(report, tmp_path):
    paths = write_scan(report, tmp_path / "scan")

    assert [path.name for path in paths] == ["scan.csv", "scan.json", "scan.svg"]
    assert sorted(path.name for path in (tmp_path / "scan").iterdir()) == sorted(path.name for path in paths)
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["layers"], float(row["drop_db"])) for row in rows[::3]] == [("a<0> b", 0.1), ("a<2> b", -0.2)]
    assert [float(row["gain_kept"]) for row in rows] == pytest.approx([0.95, 0.975, 0.45, 1.1])
    assert report.as_json()["psnr_blurred_db"] == 28.0
    assert json.loads(paths[1].read_text()) == json.loads(json.dumps(report.as_json()))
    assert write_scan(report, tmp_path / "scan") == paths  # an earlier one is replaced


def test_the_chart_has_a_line_for_each_group_and_needs_nothing_from_outside(report):
    chart = draw_chart(report)

    root = ElementTree.fromstring(chart)
    svg = "{http://www.w3.org/2000/svg}"
    lines = [line.attrib["points"].split() for line in root.iter(f"{svg}polyline")]
    assert [len(points) for points in lines] == [4, 2]
    assert len({tuple(map(float, points[0].split(","))) for points in lines}) == 1  # all start at the whole network
    height = {points[-1]: float(points[-1].split(",")[1]) for points in lines}
    assert height[lines[0][-1]] > height[lines[1][-1]]  # the greater loss is further down
    labels = [text.text for text in root.iter(f"{svg}text")]
    assert {"a<0>, b", "a<2>, b", "100%", "-1.10 dB", "0.20 dB"} <= set(labels)
    assert chart.count("http") == 1  # the name space


def test_a_folder_that_cannot_be_written_is_refused(report, tmp_path):
    (tmp_path / "scan").write_text("a file")

    with pytest.raises(ArtifactError, match="cannot be written"):
        write_scan(report, tmp_path / "scan")


def test_the_shipped_generator_keeps_its_gain_at_45_percent_of_the_arithmetic_before_any_tuning():
    """A quick look at two crops; the scenario ``pruned-untuned`` measures it on all of the shipped pairs."""
    net = load_float(load_artifact(shipped("models") / "srn-demo"))
    tuning = TuningConfig(fit=FitConfig(steps=0, crop=64, batch=2))
    config = PruneConfig(macs=0.45, allocation="sensitivity", scan_images=1, scan_size=96, tuning=tuning)
    unseen = scan_pairs(evaluation_pairs(tuning)[4:], 2, 160)
    blurred, whole = pairs_psnr_db(unseen), evaluate_network(net, unseen)

    def kept(config: PruneConfig) -> float:
        survey = ChannelSurvey.of(net, config)
        small = survey.analysis.carry_out(net, survey.plan(config))
        assert measure_cost(small)["gmacs"] <= 0.45 * measure_cost(net)["gmacs"]
        return (evaluate_network(small, unseen) - blurred) / (whole - blurred)

    ours = kept(config)
    assert ours > 0.85
    assert ours > kept(replace(config, allocation="uniform", importance="l2")) + 0.25
