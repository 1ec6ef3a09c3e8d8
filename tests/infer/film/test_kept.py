"""What is beside the picture: covers, chapters, fonts, texts, tags, HDR, turns, times and sound."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from film_maker import BT2020, Recipe, film_frames, jpeg, make_film, pictures, restored

POINTS = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
"""BT.2020, D65, 0.0001 to 1000 cd/m2 in the steps of H.265."""

PLAIN = "G(0.265,0.69)B(0.15,0.06)R(0.68,0.32)WP(0.3127,0.329)L(1000,0.0001)"
HDR = {
    "libx265": {"x265-params": f"log-level=none:master-display={POINTS}:max-cll=1000,400"},
    "libx264": {"x264-params": f"mastering-display={POINTS}:cll=1000,400"},
    "libsvtav1": {"svtav1-params": f"mastering-display={PLAIN}:content-light=1000,400"},
}


def everything_of(path):
    with av.open(str(path), metadata_errors="surrogateescape") as reader:
        streams = [(stream.type, dict(stream.metadata), int(stream.disposition)) for stream in reader.streams]
        return reader.metadata, reader.chapters(), streams


def test_the_film_is_restored_and_not_the_cover_before_it(tmp_path, photo):
    cover = jpeg(photo)
    source = make_film(tmp_path / "cover.mp4", pictures(photo), Recipe(cover=cover))
    path, film = restored(source)

    assert (film.frames, film.notes) == (8, ())
    assert (film_frames(path)[0].width, len(film_frames(path))) == (96, 8)
    with av.open(str(path)) as reader:
        (still,) = [stream for stream in reader.streams.video if stream.disposition & 1024]
        assert bytes(next(reader.demux(still))) == cover


def test_a_cover_attached_to_matroska_stays_attached(tmp_path, photo):
    source = tmp_path / "cover.mkv"
    with av.open(str(source), "w") as writer:
        stream = writer.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        writer.add_attachment("cover.jpg", "image/jpeg", jpeg(photo))
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(photo[:64, :96]), format="rgb24")
        writer.mux(stream.encode(frame))
        writer.mux(stream.encode(None))
    path, film = restored(source)

    assert film.notes == ()
    with av.open(str(path)) as reader:
        (still,) = [stream for stream in reader.streams.video if stream.disposition & 1024]
        assert still.metadata["filename"] == "cover.jpg"
        assert bytes(next(reader.demux(still))) == jpeg(photo)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
def test_text_that_is_not_utf_8_goes_through_as_its_bytes(tmp_path, photo, suffix):
    title = b"Urlaub am M\xe4rz".decode("utf-8", "surrogateescape")
    source = make_film(tmp_path / f"latin1{suffix}", pictures(photo), Recipe(metadata={"title": title}))
    path, _ = restored(source)
    assert everything_of(path)[0]["title"] == everything_of(source)[0]["title"] == title


def test_chapters_fonts_languages_titles_and_dispositions_are_kept(tmp_path, photo):
    recipe = Recipe(
        sound="aac", chapters=("One", "Two"), attachment=b"\0\1\0\0font", stream={"title": "View", "language": "fra"}
    )
    source = make_film(tmp_path / "a.mkv", pictures(photo), recipe)
    path, film = restored(source)

    assert film.notes == ()
    before, after = everything_of(source), everything_of(path)
    assert after[1] == before[1]
    assert [chapter["metadata"]["title"] for chapter in after[1]] == ["One", "Two"]
    keys = ("language", "title", "filename", "mimetype")
    assert [(kind, {key: texts.get(key) for key in keys}, how) for kind, texts, how in after[2]] == [
        (kind, {key: texts.get(key) for key in keys}, how) for kind, texts, how in before[2]
    ]
    with av.open(str(path)) as reader:
        (font,) = [stream for stream in reader.streams if stream.type == "attachment"]
        assert font.data == b"\0\1\0\0font"


def test_chapters_of_mp4_are_kept_and_no_stream_is_added(tmp_path, photo):
    source = make_film(tmp_path / "a.mp4", pictures(photo), Recipe(sound="aac", chapters=("One", "Two")))
    path, film = restored(source)
    assert film.notes == ()
    titles = [chapter["metadata"]["title"] for chapter in everything_of(path)[1]]
    assert titles == ["One", "Two"]
    assert len(everything_of(path)[2]) == len(everything_of(source)[2])


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("codec", HDR)
def test_the_side_data_of_hdr10_is_kept(tmp_path, photo, monkeypatch, codec, suffix):
    monkeypatch.setenv("SVT_LOG", "0")
    context = {"color_primaries": 9, "color_trc": 16}
    recipe = Recipe(codec, "yuv420p10le", colorspace=BT2020, options=HDR[codec], context=context)
    source = make_film(tmp_path / f"hdr{suffix}", pictures(photo), recipe)
    path, film = restored(source)

    before, after = film_frames(source)[0], film_frames(path)[0]
    for kind in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"):
        old, new = (np.frombuffer(bytes(frame.side_data[kind]), np.int32) for frame in (before, after))
        if kind.startswith("MASTERING"):  # the same rational numbers, whatever their denominators
            old, new = (
                [round(Fraction(int(a), int(b)) * 10_000) for a, b in data[:20].reshape(10, 2)] for data in (old, new)
            )
        assert np.array_equal(old, new)
    assert (after.color_primaries, after.color_trc, after.colorspace) == (9, 16, 9)
    assert film.notes == ()


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libsvtav1"])
def test_what_cannot_be_kept_is_said(tmp_path, photo, codec):
    """PyAV writes no pixel aspect ratio into Matroska, and VP9 and AV1 have none in the stream itself."""
    recipe = Recipe(context={"sample_aspect_ratio": Fraction(16, 11)})
    source = make_film(tmp_path / "a.mkv", pictures(photo), recipe)
    _, film = restored(source)
    assert film.notes == ()
    path, film = restored(source, codec=codec)
    with av.open(str(path)) as reader:
        assert (reader.streams.video[0].sample_aspect_ratio or 1) == 1
    assert film.notes == ("the pixel aspect ratio 16/11 cannot be kept here",)


@pytest.mark.parametrize("tag", ["hvc1", "hev1"])
def test_the_name_that_apples_players_ask_for_stays(tmp_path, photo, tag):
    source = make_film(tmp_path / "a.mp4", pictures(photo), Recipe("libx265", context={"codec_tag": tag}))
    path, _ = restored(source)
    with av.open(str(path)) as reader:
        assert reader.streams.video[0].codec_context.codec_tag == tag


def test_quicktimes_camera_place_date_and_time_code_are_kept(tmp_path, photo):
    texts = {
        "com.apple.quicktime.make": "Acme",
        "com.apple.quicktime.model": "Seven",
        "com.apple.quicktime.location.ISO6709": "+48.1371+011.5754/",
        "com.apple.quicktime.creationdate": "2020-05-06T07:08:09+0200",
        "creation_time": "2020-05-06T05:08:09.000000Z",
    }
    recipe = Recipe(metadata=texts, stream={"timecode": "01:02:03:04"}, container={"movflags": "+use_metadata_tags"})
    source = make_film(tmp_path / "a.mov", pictures(photo), recipe)
    path, film = restored(source)

    assert film.notes == ()
    metadata, _, streams = everything_of(path)
    assert texts.items() <= metadata.items()
    assert [texts.get("timecode") for _, texts, _ in streams] == ["01:02:03:04", "01:02:03:04"]
    assert len(streams) == len(everything_of(source)[2])


@pytest.mark.parametrize(("suffix", "ticks"), [(".mp4", (0, 1, 2, 5, 6, 10, 11, 12)), (".mkv", (0, 1, 4, 5, 6))])
def test_times_and_the_last_pictures_duration_are_kept(tmp_path, photo, suffix, ticks):
    source = make_film(tmp_path / f"a{suffix}", pictures(photo), Recipe(ticks=ticks, sound="aac"))
    path, _ = restored(source)
    assert [frame.time for frame in film_frames(path)] == [frame.time for frame in film_frames(source)]
    assert abs(end_of(source) - end_of(path)) <= Fraction(1, 1000)
    assert sound_of(path) == sound_of(source)
    assert len(sound_of(source)) > 3


def end_of(path):
    with av.open(str(path)) as reader:
        return max((packet.pts + packet.duration) * packet.time_base for packet in reader.demux(video=0) if packet.size)


def sound_of(path):
    with av.open(str(path)) as reader:
        return [bytes(packet) for packet in reader.demux(audio=0) if packet.size]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("turn", [90, 180, -90])
def test_turns_are_kept(tmp_path, photo, suffix, turn):
    source = make_film(tmp_path / f"a{suffix}", pictures(photo), Recipe(turn=turn))
    path, film = restored(source)
    assert film_frames(path)[0].rotation == film_frames(source)[0].rotation
    assert film.notes == ()
