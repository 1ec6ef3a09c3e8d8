"""Runners that keep the frame before: in every runtime the same, anew behind a cut, and refused where none is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import new_step
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import to_batch
from deblur_deploy.data.optical_flow import find_motion, quarter_gray
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.network.temporal import TemporalStep, state_shape
from deblur_deploy.runtime.runner import open_runner, open_with
from deblur_deploy.runtime.runtimes import OpenOptions

FOLLOWS = OpenOptions(1, temporal=True)


@pytest.fixture(scope="module")
def exported(temporal_artifact, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / "model"
    return export_onnx(temporal_artifact, ExportConfig(128, 96, temporal=True), out)


@pytest.fixture(scope="module")
def plain_artifact(tmp_path_factory):
    net = SRN(SRNConfig.from_base(8, (1, 1, 1)))
    return save_network(tmp_path_factory.mktemp("plain") / "srn", net, spec_of(net), new_step("train", {}, None, {}))


@pytest.fixture(scope="module")
def batches(film_frames):
    return [to_batch(frame) for frame in film_frames]


def through(artifact, runtime, batches, options=FOLLOWS):
    with open_with(artifact, runtime, options) as runner:
        return [runner.infer(batch) for batch in batches], runner


def test_a_film_is_the_recurrence_written_out_by_hand(temporal_artifact, film_frames, batches):
    net = load_network(temporal_artifact)
    step, wanted = TemporalStep(net), []
    grays = [quarter_gray(frame) for frame in film_frames]
    state, before = torch.zeros(state_shape(net.config, 96, 128)), torch.zeros(1, 3, 96, 128)
    flow, trust = torch.zeros(1, 2, 24, 32), torch.zeros(1, 1, 24, 32)
    for index, batch in enumerate(batches):
        if index:
            motion = find_motion(grays[index], grays[index - 1])
            flow, trust = torch.from_numpy(motion.flow[None]), torch.from_numpy(motion.trust[None])
        with torch.no_grad():
            restored, state = step(torch.from_numpy(batch), before, state, flow, trust)
        before = restored.clamp(0, 1)
        wanted.append(restored.numpy())

    found, runner = through(temporal_artifact, "torch", batches)

    assert (runner.cuts, runner.begins) == (0, 1)
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(one - other).max() < 1e-5
    alone, _ = through(temporal_artifact, "torch", batches, OpenOptions(1))
    assert np.abs(found[0] - alone[0]).max() < 1e-6
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(found[1:], alone[1:], strict=True))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_gives_what_the_checkpoint_gives_frame_after_frame(temporal_artifact, exported, batches, runtime):
    wanted, _ = through(temporal_artifact, "torch", batches)

    found, _ = through(exported, runtime, batches)

    for one, other in zip(found, wanted, strict=True):
        assert np.abs(one - other).max() < 1e-4


def test_a_file_restores_pictures_one_by_one_where_they_are_no_film(temporal_artifact, exported, batches):
    with open_runner(temporal_artifact, "torch", 1) as plain, open_runner(exported, "onnxruntime", 1) as file:
        for batch in batches[:3]:
            assert np.abs(plain.infer(batch) - file.infer(batch)).max() < 1e-5


def test_frames_as_a_camera_gives_them_are_taken(temporal_artifact, film_frames, batches):
    wanted, _ = through(temporal_artifact, "torch", batches[:2])

    found, _ = through(temporal_artifact, "torch", [frame[None] for frame in film_frames[:2]])

    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == np.uint8
        assert np.abs(one[0] / 255.0 - np.clip(other[0].transpose(1, 2, 0), 0, 1)).max() < 0.51 / 255


def test_a_cut_a_new_film_and_another_size_begin_anew(temporal_artifact, batches):
    rng = np.random.default_rng(1)
    other = rng.random((1, 3, 96, 128), dtype=np.float32)
    with open_runner(temporal_artifact, "torch", 1) as single:
        alone = [single.infer(batch) for batch in (other, batches[1], batches[2][..., :64])]

    with open_with(temporal_artifact, "torch", FOLLOWS) as runner:
        runner.infer(batches[0])
        assert np.abs(runner.infer(other) - alone[0]).max() < 1e-6
        assert (runner.cuts, runner.begins) == (1, 1)
        runner.begin_film()
        assert np.abs(runner.infer(batches[1]) - alone[1]).max() < 1e-6
        assert np.abs(runner.infer(np.ascontiguousarray(batches[2][..., :64])) - alone[2]).max() < 1e-6
        assert (runner.cuts, runner.begins) == (1, 3)


def test_a_cut_at_every_frame_is_frame_by_frame(temporal_artifact):
    rng = np.random.default_rng(2)
    frames = [rng.random((1, 3, 96, 128), dtype=np.float32) for _ in range(4)]
    alone, _ = through(temporal_artifact, "torch", frames, OpenOptions(1))

    found, runner = through(temporal_artifact, "torch", frames)

    assert runner.cuts == 3
    for one, other in zip(found, alone, strict=True):
        assert np.abs(one - other).max() < 1e-6


def test_several_frames_at_once_are_refused(temporal_artifact, batches):
    with (
        open_with(temporal_artifact, "torch", FOLLOWS) as runner,
        pytest.raises(ConfigError, match="a batch of 2 frames"),
    ):
        runner.infer(np.concatenate(batches[:2]))


def test_networks_and_files_without_a_frame_before_are_refused(tmp_path, temporal_artifact, plain_artifact):
    with pytest.raises(ConfigError, match="is not a temporal network"):
        open_with(plain_artifact, "torch", FOLLOWS)
    plain = export_onnx(temporal_artifact, ExportConfig(64, 64, compare=False), tmp_path / "plain")
    with pytest.raises(ConfigError, match="does not take the frame before") as caught:
        open_with(plain, "onnxruntime", FOLLOWS)
    assert "export-onnx --temporal" in caught.value.hint
    with pytest.raises(ConfigError, match="is not a temporal network"):
        export_onnx(plain_artifact, ExportConfig(64, 64, temporal=True), tmp_path / "none")


def test_a_frame_of_another_size_than_the_file_s_is_refused(exported, batches):
    with open_with(exported, "onnxruntime", FOLLOWS) as runner, pytest.raises(ConfigError, match="128x96"):
        runner.infer(np.ascontiguousarray(batches[0][..., :64]))


def test_a_state_of_another_size_is_an_error_that_says_on_what(exported, batches, monkeypatch):
    with open_with(exported, "onnxruntime", FOLLOWS) as runner:
        monkeypatch.setattr(runner, "_state_of", lambda height, width: (1, 3, 2, 2))
        with pytest.raises(Exception, match="onnxruntime failed on a 1x3x96x128 batch"):
            runner.infer(batches[0])
