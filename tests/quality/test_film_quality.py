"""Films beside their sharp twins: PSNR, and flicker by hand."""

from __future__ import annotations

import numpy as np
import pytest

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.data.optical_flow import Motion
from deblur_deploy.data.pairs import Pair
from deblur_deploy.quality.film_quality import evaluate_films, flicker
from deblur_deploy.quality.metrics import psnr_db


@pytest.fixture
def film(film_frames):
    """Frames with noise that is another in every one."""
    rng = np.random.default_rng(3)
    noisy = [np.clip(frame + rng.normal(0, 6, frame.shape), 0, 255).astype(np.uint8) for frame in film_frames]
    return [Pair(f"{index}.png", *pair) for index, pair in enumerate(zip(noisy, film_frames, strict=True))]


def test_flicker_is_the_difference_along_the_motion_where_it_is_trusted():
    x = np.arange(32)
    before = np.repeat((4 * x)[None, :, None], 32, 0).repeat(3, 2).astype(np.uint8)
    now = np.clip(before.astype(int) - 16, 0, 255).astype(np.uint8)  # moved to the right by 4 px
    flow, trust = np.zeros((2, 8, 8), np.float32), np.ones((1, 8, 8), np.float32)
    trust[..., :2] = 0  # what came in from outside
    moved = flow.copy()
    moved[0] = -1

    assert flicker(now, before, Motion(flow, trust)) == pytest.approx(16, abs=0.2)
    assert flicker(now, before, Motion(moved, trust)) == pytest.approx(0, abs=0.2)


def test_a_film_is_measured_as_it_was_frame_by_frame_and_as_a_film(temporal_artifact, film):
    told: list[int] = []

    report = evaluate_films(temporal_artifact, [film, film[:2]], "torch", told.append)

    blurred, single, temporal = report.scores
    assert [score.way for score in report.scores] == ["blurred", "frame by frame", "temporal"]
    pairs = [*film, *film[:2]]
    assert blurred.psnr_db == pytest.approx(np.mean([psnr_db(pair.blurred, pair.sharp) for pair in pairs]))
    assert blurred.flicker > 1.2  # the noise
    assert single.psnr_db != temporal.psnr_db
    assert (report.films, report.frames, temporal.cuts) == (2, 7, 0)
    assert told == list(range(1, 15))
    assert report.as_json()["scores"][2]["way"] == "temporal"


@pytest.mark.parametrize(
    ("films", "message"),
    [
        (lambda film: [], "there are no films"),
        (lambda film: [film[:1]], "has one frame"),
        (lambda film: [[film[0], Pair("b", film[0].blurred[:64], film[0].sharp[:64])]], "frames of several sizes"),
    ],
)
def test_what_is_no_film_is_refused(temporal_artifact, film, films, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_films(temporal_artifact, films(film))


def test_a_network_that_is_not_temporal_is_refused(artifact_of_a_plain_network, film):
    with pytest.raises(ConfigError, match="is not a temporal network"):
        evaluate_films(artifact_of_a_plain_network, [film])


@pytest.fixture
def artifact_of_a_plain_network(tmp_path):
    from deblur_deploy.core.artifact import new_step
    from deblur_deploy.network.checkpoint import save_network, spec_of
    from deblur_deploy.network.srn import SRN, SRNConfig

    net = SRN(SRNConfig.from_base(8, (1, 1, 1)))
    return save_network(tmp_path / "srn", net, spec_of(net), new_step("train", {}, None, {}))
