"""Videos keep their times, their turn, their colours and their sound; raw frames go through as they come."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import Resolution
from deblur_deploy.infer.raw import restore_raw
from deblur_deploy.infer.restore import Restorer, deblur
from deblur_deploy.infer.settings import VideoConfig

av = pytest.importorskip("av", reason="videos need the extra `video`")

TICKS = [0, 1, 2, 5, 6, 10, 11, 12]
"""Times of the frames in 1/30 s: the rate varies."""

BT709 = 1


def make_video(path: Path, photo, codec="libx264", pix_fmt="yuv420p", **extras) -> None:
    """Eight frames of a moving photograph, with half a second of a tone; extras are ``turn`` and ``sound``."""
    turn, sound = extras.get("turn"), extras.get("sound", True)
    with av.open(str(path), "w") as writer:
        video = writer.add_stream(codec, rate=30, options={"crf": "4"} if codec.startswith("libx") else {})
        video.width, video.height, video.pix_fmt = 96, 64, pix_fmt
        video.codec_context.time_base = Fraction(1, 30)
        video.codec_context.colorspace = BT709
        if turn:
            video.set_display_rotation(turn)
        audio = writer.add_stream("aac", rate=16_000) if sound else None
        if audio is not None:
            audio.layout = "mono"
        for index, tick in enumerate(TICKS):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(photo, index, 1)[:64, :96]), format="rgb24")
            frame = frame.reformat(format=pix_fmt, dst_colorspace=BT709, dst_color_range=1)
            frame.pts, frame.time_base = tick, Fraction(1, 30)
            writer.mux(video.encode(frame))
        writer.mux(video.encode(None))
        if audio is not None:
            tone = (8000 * np.sin(np.arange(8192) / 6)).astype(np.int16)[None]
            samples = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
            samples.sample_rate, samples.pts = 16_000, 0
            writer.mux(audio.encode(samples))
            writer.mux(audio.encode(None))


def frames_of(path: Path):
    """Times in seconds, pictures and turns of a video."""
    with av.open(str(path)) as reader:
        frames = list(reader.decode(video=0))
        return (
            [round(float(frame.time), 4) for frame in frames],
            [frame.to_ndarray(format="rgb24") for frame in frames],
            {int(frame.rotation) for frame in frames},
        )


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as reader:
        return [bytes(packet) for packet in reader.demux(audio=0) if packet.dts is not None]


def restore_video(*arguments):
    from deblur_deploy.infer.video import restore_video as run

    counts: list[int] = []
    film = run(*arguments, lambda count, of: counts.append(count))
    assert counts == list(range(1, film.frames + 1))
    return film


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_times_turn_and_sound_are_kept_and_pictures_restored(tmp_path, runner, photo, suffix):
    source, target = tmp_path / f"a{suffix}", tmp_path / "out" / f"a{suffix}"
    make_video(source, photo, pix_fmt="yuv444p", turn=90)

    assert restore_video(source, target, Restorer(runner), VideoConfig(crf=1)).frames == 8

    times, pictures, turns = frames_of(target)
    before, blurred, turned = frames_of(source)
    assert times == before == [round(tick / 30, 3 if suffix == ".mkv" else 4) for tick in TICKS]
    assert turns == turned
    assert turned == {90} or suffix == ".mkv"
    assert sound_of(target) == sound_of(source)
    assert len(sound_of(source)) > 3
    for restored, picture in zip(pictures, blurred, strict=True):
        expected = deblur(runner, picture)
        error, change = (np.abs(shown.astype(int) - expected).mean() for shown in (restored, picture))
        assert error < min(1.5, change / 2)
    assert np.abs(blurred[0].astype(int) - photo[:64, :96]).mean() < 1.5  # read with the matrix of its colour space


def test_the_codec_is_that_of_the_input_or_what_was_asked_for(tmp_path, runner, photo):
    make_video(tmp_path / "a.mp4", photo, codec="libx265", sound=False)
    for config, codec in ((VideoConfig(), "hevc"), (VideoConfig("libx264", 30), "h264")):
        restore_video(tmp_path / "a.mp4", tmp_path / f"{codec}.mp4", Restorer(runner), config)
        with av.open(str(tmp_path / f"{codec}.mp4")) as reader:
            assert reader.streams.video[0].codec_context.name == codec


def test_crf_decides_over_the_size(tmp_path, runner, photo):
    make_video(tmp_path / "a.mp4", photo, sound=False)
    sizes = []
    for crf in (5, 40):
        restore_video(tmp_path / "a.mp4", tmp_path / f"{crf}.mp4", Restorer(runner), VideoConfig(crf=crf))
        sizes.append((tmp_path / f"{crf}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


def test_10_bits_stay_10_bits(tmp_path, runner, photo):
    make_video(tmp_path / "a.mkv", photo, codec="ffv1", pix_fmt="yuv420p10le", sound=False)
    restore_video(tmp_path / "a.mkv", tmp_path / "b.mkv", Restorer(runner), VideoConfig())
    with av.open(str(tmp_path / "b.mkv")) as reader:
        frame = next(reader.decode(video=0))
        assert frame.format.name == "yuv420p10le"
        assert (frame.to_ndarray(format="gray10le") % 4).any()


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "cannot be restored"), (b"no video" * 99, "cannot be restored"), (None, "holds no")]
)
def test_what_is_no_video_is_named(tmp_path, runner, photo, content, reason):
    source = tmp_path / "a.mp4"
    if content is None:
        with av.open(str(source), "w") as writer:
            audio = writer.add_stream("aac", rate=16_000)
            audio.layout = "mono"
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
            samples.sample_rate, samples.pts = 16_000, 0
            writer.mux(audio.encode(samples))
            writer.mux(audio.encode(None))
    else:
        source.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"a\.mp4 {reason}"):
        restore_video(source, tmp_path / "b.mp4", Restorer(runner), VideoConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_sound_that_the_container_does_not_take_is_named(tmp_path, runner, photo):
    """A file with the suffix of another container: its sound cannot go where its name says."""
    make_video(tmp_path / "a.mkv", photo, codec="libvpx-vp9")
    (tmp_path / "a.mkv").rename(tmp_path / "a.webm")
    with pytest.raises(ArtifactError, match="webm files take no audio of the codec aac"):
        restore_video(tmp_path / "a.webm", tmp_path / "b.webm", Restorer(runner), VideoConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["a.webm"]


def test_an_unknown_encoder_and_a_failing_network_leave_nothing_behind(tmp_path, runner, photo):
    make_video(tmp_path / "a.mp4", photo)
    with pytest.raises(ConfigError, match="no encoder 'libx999'"):
        restore_video(tmp_path / "a.mp4", tmp_path / "b.mp4", Restorer(runner), VideoConfig("libx999"))
    with pytest.raises(ConfigError, match="crf is 99"):
        VideoConfig(crf=99)

    class Failing(Restorer):
        def restore_in_place(self, samples):
            raise ConfigError("out of memory", hint="none")

    with pytest.raises(ConfigError, match="out of memory"):
        restore_video(tmp_path / "a.mp4", tmp_path / "b.mp4", Failing(runner), VideoConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_raw_frames_go_through_in_order(runner, photo):
    frames = [np.ascontiguousarray(np.roll(photo, index, 0)[:33, :47]) for index in range(4)]
    sink, counts = io.BytesIO(), []
    source = io.BytesIO(b"".join(frame.tobytes() for frame in frames))

    assert restore_raw(source, sink, Resolution(47, 33), Restorer(runner), counts.append) == 4
    assert sink.getvalue() == b"".join(deblur(runner, frame).tobytes() for frame in frames)
    assert counts == [1, 2, 3, 4]


def test_a_raw_stream_that_ends_within_a_frame_is_an_error(runner):
    sink, restorer = io.BytesIO(), Restorer(runner)
    with pytest.raises(ArtifactError, match="ends within frame 3, after 10 of 48 bytes"):
        restore_raw(io.BytesIO(bytes(3 * 48 + 10)), sink, Resolution(4, 4), restorer, lambda count: None)
    black = deblur(runner, np.zeros((4, 4, 3), np.uint8)).tobytes()
    assert sink.getvalue() == 3 * black  # the complete frames before it are not lost
