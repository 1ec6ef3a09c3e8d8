"""Which encoder writes a film: its own where it can, as good as its source, with what the user asks for."""

from __future__ import annotations

import subprocess
import sys

import av
import numpy as np
import pytest
from film_maker import (
    FULL,
    Recipe,
    Same,
    codes,
    film_frames,
    make_film,
    mean_levels,
    pictures,
    psnr,
    restored,
)

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.infer.film.encoders import ENCODERS

GOOD = {"crf": "4"}
LOSSY = [
    ("libx264", "yuv420p", ".mp4", GOOD),
    ("libx264", "yuv444p", ".mp4", GOOD),
    ("libx264", "yuv422p10le", ".mkv", GOOD),
    ("libx264rgb", "rgb24", ".mkv", GOOD),
    ("libx265", "yuv420p", ".mp4", GOOD),
    ("libx265", "yuv420p10le", ".mkv", GOOD),
    ("libvpx-vp9", "yuv420p", ".webm", {"crf": "4", "b": "0"}),
    ("libsvtav1", "yuv420p", ".mp4", GOOD),
    ("libsvtav1", "yuv420p10le", ".webm", GOOD),
    ("libvpx", "yuv420p", ".webm", {"crf": "4", "b": "100000000"}),
    ("mpeg4", "yuv420p", ".mp4", {"qmin": "2", "qmax": "2"}),
    ("mpeg2video", "yuv420p", ".ts", {"qmin": "2", "qmax": "2"}),
    ("mpeg1video", "yuv420p", ".mpg", {"qmin": "2", "qmax": "2"}),
    ("mjpeg", "yuvj420p", ".mov", {"qmin": "2", "qmax": "2"}),
    ("wmv2", "yuv420p", ".wmv", {"qmin": "2", "qmax": "2"}),
    ("msmpeg4", "yuv420p", ".avi", {"qmin": "2", "qmax": "2"}),
    ("flv", "yuv420p", ".flv", {"qmin": "2", "qmax": "2"}),
    ("h263p", "yuv420p", ".avi", {"qmin": "2", "qmax": "2"}),
    ("rv20", "yuv420p", ".rm", {"qmin": "2", "qmax": "2"}),
    ("prores_ks", "yuv422p10le", ".mov", {"profile": "hq"}),
    ("dnxhd", "yuv422p", ".mov", {"profile": "dnxhr_hq"}),
    ("dnxhd", "yuv422p10le", ".mxf", {"profile": "dnxhr_hqx"}),
]
LOSSLESS = [
    ("ffv1", "yuv420p", ".mkv"),
    ("ffv1", "yuv444p16le", ".mkv"),
    ("ffv1", "bgra", ".mkv"),
    ("ffv1", "gray", ".mkv"),
    ("png", "rgb24", ".mov"),
    ("png", "rgb48be", ".mov"),
    ("png", "rgba", ".mov"),
    ("qtrle", "rgb24", ".mov"),
    ("qtrle", "argb", ".mov"),
    ("utvideo", "gbrp", ".avi"),
    ("magicyuv", "yuv444p", ".avi"),
    ("ffvhuff", "yuv420p", ".avi"),
    ("huffyuv", "yuv422p", ".avi"),
    ("rawvideo", "yuv420p", ".avi"),
    ("v210", "yuv422p10le", ".mov"),
]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("SVT_LOG", "0")


def film_of(tmp_path, photo, kind, options=None):
    codec, pix_fmt, suffix = kind
    size = (288, 144) if codec == "dnxhd" else (176, 144)
    shown = pictures(np.tile(photo, (1, 2, 1)), 6, size)
    recipe = Recipe(codec, pix_fmt, options=options or {}, color_range=FULL if pix_fmt.startswith("yuvj") else 1)
    if recipe.pix_fmt in ("bgra", "argb", "rgba"):
        alpha = np.tile(np.linspace(0, 255, size[0]).astype(np.uint8), (size[1], 1))[..., None]
        shown = [np.concatenate([picture, alpha], axis=2) for picture in shown]
    return make_film(tmp_path / f"a{suffix}", shown, recipe)


def codec_of(path):
    with av.open(str(path)) as reader:
        return reader.streams.video[0].codec_context.codec.canonical_name


@pytest.mark.parametrize("kind", LOSSY, ids=lambda kind: "-".join(kind[:3]))
def test_a_lossy_codec_stays_with_40_db_and_its_mean_after_five_passes(tmp_path, photo, kind):
    source = film_of(tmp_path, photo, kind[:3], kind[3])
    path, film = restored(source)

    assert codec_of(path) == codec_of(source)
    assert film.notes == ()
    before, after = film_frames(source), film_frames(path)
    assert after[0].format.name == before[0].format.name
    assert psnr(before, after) >= 40
    for index in range(4):
        path, _ = restored(path, out=str(index))
    drift = 0.2 if kind[0] == "rv20" else 0.1  # RealVideo's quantizer has no smaller step
    assert np.abs(mean_levels(path) - mean_levels(source)).max() <= drift


@pytest.mark.parametrize("kind", LOSSLESS, ids="-".join)
def test_a_lossless_codec_stays_bit_for_bit(tmp_path, photo, kind):
    source = film_of(tmp_path, photo, kind)
    path, film = restored(source)

    assert (codec_of(path), film.notes) == (codec_of(source), ())
    for before, after in zip(film_frames(source), film_frames(path), strict=True):
        assert before.format.name == after.format.name
        assert all(np.array_equal(codes(before, index), codes(after, index)) for index in range(len(before.planes)))


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libvpx-vp9", "mjpeg", "prores_ks", "libsvtav1", "libx265"])
def test_crf_acts_on_every_encoder(tmp_path, photo, codec):
    suffix = {"prores_ks": ".mov", "libvpx-vp9": ".webm"}.get(codec, ".mp4")
    pix_fmt = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    source = film_of(tmp_path, photo, (codec, pix_fmt, suffix))
    sizes = [restored(source, out=str(crf), crf=crf)[0].stat().st_size for crf in (4, 25)]
    assert sizes[0] > 1.5 * sizes[1]


@pytest.mark.parametrize(
    ("kind", "crf", "reason"),
    [
        (("ffv1", "yuv420p", ".mkv"), 18, "ffv1 is lossless, and --crf 18 would do nothing"),
        (("dnxhd", "yuv422p", ".mov"), 18, "quality of dnxhd is that of its profile"),
        (("mpeg4", "yuv420p", ".mp4"), 40, "--crf is 40"),
    ],
)
def test_crf_is_refused_where_it_would_do_nothing(tmp_path, photo, kind, crf, reason):
    source = film_of(tmp_path, photo, kind, {"profile": "dnxhr_hq"} if kind[0] == "dnxhd" else None)
    with pytest.raises(ConfigError, match=reason):
        restored(source, crf=crf)
    assert not (tmp_path / "out" / source.name).exists()


@pytest.mark.parametrize(
    "codec", [row for row in ENCODERS if row.scale in ("crf", "quantizer")], ids=lambda row: row.name
)
def test_the_scales_of_the_table_are_those_of_the_encoders(codec):
    """Best and worst value are taken, and what lies between acts in order."""
    assert codec.best <= codec.default <= codec.worst
    assert av.codec.Codec(codec.name, "w").canonical_name == codec.codec


@pytest.mark.parametrize(
    ("kind", "becomes", "said"),
    [
        (("cinepak", "rgb24", ".avi"), ("h264", "yuv444p"), ("cinepak with rgb24", "RGB becomes yuv444p")),
        (("svq1", "yuv410p", ".mov"), ("h264", "yuv420p"), ("svq1 with yuv410p",)),
        (("cfhd", "yuv422p10le", ".mov"), ("prores", "yuv422p10le"), ("cfhd with yuv422p10le",)),
        (("msvideo1", "rgb555le", ".avi"), ("h264", "yuv444p"), ("msvideo1 with rgb555le",)),
    ],
)
def test_a_codec_that_cannot_be_written_becomes_the_nearest_and_is_said(tmp_path, photo, kind, becomes, said):
    source = film_of(tmp_path, photo, kind)
    path, film = restored(source)
    assert (codec_of(path), film_frames(path)[0].format.name) == becomes
    assert all(any(words in note for note in film.notes) for words in said)


def test_10_bit_vp9_becomes_10_bit_av1_in_webm(tmp_path, photo):
    """The decoder's name is not the codec's, and libvpx here has 8 bits only."""
    source = film_of(tmp_path, photo, ("libsvtav1", "yuv420p10le", ".webm"))
    path, film = restored(source)
    assert (codec_of(path), film_frames(path)[0].format.name, film.notes) == ("av1", "yuv420p10le", ())


@pytest.mark.parametrize("codec", ["qtrle", "png"])
@pytest.mark.parametrize("size", [(97, 65), (1, 1), (95, 64)])
def test_odd_sizes_of_rgb_are_written_as_they_are(tmp_path, photo, codec, size):
    source = make_film(tmp_path / "odd.mov", pictures(photo, 3, size), Recipe(codec, "rgb24"))
    path, _ = restored(source)
    frame = film_frames(path)[0]
    assert (frame.width, frame.height) == size
    assert np.array_equal(codes(frame), codes(film_frames(source)[0]))


def test_odd_sizes_become_444_where_the_encoder_asks_for_even_ones(tmp_path, photo):
    source = make_film(tmp_path / "odd.mov", pictures(photo, 3, (97, 65)), Recipe("qtrle", "rgb24"))
    path, film = restored(source, codec="libx264")
    frame = film_frames(path)[0]
    assert (frame.width, frame.height, frame.format.name) == (97, 65, "yuv444p")
    assert frame.colorspace == 5  # a true matrix, and no "RGB" on YUV
    assert "RGB becomes yuv444p" in film.notes
    rgb = frame.to_ndarray(format="rgb24").astype(int)
    assert np.abs(rgb - film_frames(source)[0].to_ndarray(format="rgb24")).mean() < 3


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"),
    [("prores_ks", "yuva444p10le", ".mov"), ("libvpx-vp9", "yuva420p", ".webm"), ("libvpx", "yuva420p", ".webm")],
)
def test_transparency_is_kept_where_the_codec_has_it(tmp_path, photo, codec, pix_fmt, suffix):
    alpha = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1))[..., None]
    shown = [np.concatenate([picture, alpha], axis=2) for picture in pictures(photo, 4)]
    options = {"auto-alt-ref": "0", "crf": "4", "b": "90000000"} if codec.startswith("libvpx") else {}
    stream = {"alpha_mode": "1"} if codec.startswith("libvpx") else {}
    source = make_film(tmp_path / f"a{suffix}", shown, Recipe(codec, pix_fmt, options=options, stream=stream))
    path, film = restored(source, Same(lambda samples: np.iinfo(samples.dtype).max - samples))

    assert codec_of(path) == codec_of(source)
    again, _ = restored(path, out="again")
    planes = [alpha_of(each) for each in (source, path, again)]
    assert np.ptp(planes[0]) > 200
    assert max(np.abs(planes[0] - plane).mean() for plane in planes) < 1
    assert not any("transparency" in note for note in film.notes)


def alpha_of(path):
    """The plane of transparency in levels of 8 bits."""
    with av.open(str(path)) as reader:
        stream = reader.streams.video[0]
        name = {"vp9": "libvpx-vp9", "vp8": "libvpx"}.get(stream.codec_context.codec.canonical_name)
        decoder = av.CodecContext.create(name, "r") if name else stream.codec_context
        frame = next(frame for packet in reader.demux(stream) for frame in decoder.decode(packet))
        bits = frame.format.components[0].bits
        return codes(frame, 3).astype(float) / (1 << (bits - 8))


def test_transparency_that_nothing_keeps_is_refused_unless_it_may_go(tmp_path, photo):
    source = film_of(tmp_path, photo, ("qtrle", "argb", ".mov"))
    with pytest.raises(ConfigError, match="no video with transparency") as error:
        restored(source, codec="libx264")
    assert "--drop-alpha" in error.value.hint
    path, film = restored(source, codec="libx264", drop_alpha=True)
    assert (codec_of(path), film_frames(path)[0].format.name) == ("h264", "yuv444p")
    assert "transparency is left out" in film.notes


def test_no_pictures_between_others_go_into_avi_and_its_times_are_by_order(tmp_path, photo):
    source = make_film(tmp_path / "b.avi", pictures(photo, 16), Recipe(ticks=tuple(range(16)), options={"bf": "2"}))
    path, _ = restored(source)
    for each in (source, path):
        with av.open(str(each)) as reader:
            assert codec_of(each) == "h264"
            types = [frame.pict_type for frame in reader.decode(video=0)]
            assert len(types) == 16
            assert (3 in types) == (each == source)
    with av.open(str(path)) as reader:
        assert [packet.dts for packet in reader.demux(video=0) if packet.size] == list(range(16))
    # In the source's order of display: each picture is nearest to itself.
    before, after = ([codes(frame).astype(int) for frame in film_frames(each)] for each in (source, path))
    for index, picture in enumerate(after):
        assert np.argmin([np.abs(picture - other).mean() for other in before]) == index


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"codec": "libx264", "pixel_format": "yuv422p10le"}, ("h264", "yuv422p10le", "High 4:2:2")),
        ({"codec": "libx264", "profile": "main", "preset": "faster"}, ("h264", "yuv420p", "Main")),
        ({"codec": "hevc", "preset": "ultrafast"}, ("hevc", "yuv420p", "Main")),
        ({"pixel_format": "yuv422p10le"}, ("h264", "yuv422p10le", "High 4:2:2")),
        ({"pixel_format": "yuv444p"}, ("h264", "yuv444p", "High 4:4:4 Predictive")),
    ],
)
def test_codec_pixel_format_profile_and_preset_are_those_that_are_asked_for(tmp_path, photo, settings, found):
    source = film_of(tmp_path, photo, ("mpeg4", "yuv420p", ".mp4"))
    path, _ = restored(source, **settings)
    with av.open(str(path)) as reader:
        context = reader.streams.video[0].codec_context
        assert (codec_of(path), context.pix_fmt, context.profile) == found


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"codec": "libx264", "pixel_format": "argb"}, "libx264 takes no pixel format 'argb'"),
        ({"codec": "libvpx-vp9", "preset": "slow"}, "libvpx-vp9 has no presets"),
        ({"codec": "libx264", "profile": "high9000"}, "libx264 does not take these settings"),
        ({"codec": "libx264", "preset": "hasty"}, "libx264 does not take these settings"),
        ({"codec": "prores_ks"}, "is not an encoder that mp4 files take"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, photo, settings, reason):
    source = film_of(tmp_path, photo, ("mpeg4", "yuv420p", ".mp4"))
    with pytest.raises(ConfigError, match=reason):
        restored(source, **settings)
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("codec", ["libx265", "libsvtav1"])
def test_encoders_write_no_log_of_their_own(tmp_path, photo, codec, monkeypatch):
    source = film_of(tmp_path, photo, ("mpeg4", "yuv420p", ".mp4"))
    monkeypatch.delenv("SVT_LOG")
    code = f"""
import sys; sys.path.insert(0, {str(__file__.rpartition("/")[0])!r})
from pathlib import Path
from film_maker import restored
restored(Path({str(source)!r}), codec={codec!r})
"""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=True)
    assert (outcome.stdout, outcome.stderr) == ("", "")
