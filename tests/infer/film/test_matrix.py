"""Films of many kinds through a network that changes nothing, looked at by another program: Debian's ffmpeg.

Each film differs from its source in nothing that ffprobe says of dimensions, frames, times, tags, turns, streams and
side data; a second decoder finds the same mean colour. A part runs always, the whole when slow tests do.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from film_maker import FULL, LIMITED, Recipe, make_film, pictures, restored

pytestmark = pytest.mark.skipif(
    shutil.which("ffprobe") is None or shutil.which("ffmpeg") is None, reason="needs ffmpeg: apt-get install ffmpeg"
)

KINDS = [
    ("libx264", ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le"), (".mp4", ".mov", ".mkv", ".ts", ".flv", ".avi")),
    ("libx264", ("gray",), (".mp4", ".mkv")),
    ("libx265", ("yuv420p", "yuv444p", "yuv420p10le", "yuv422p12le"), (".mp4", ".mov", ".mkv", ".ts")),
    ("libsvtav1", ("yuv420p", "yuv420p10le"), (".mp4", ".mkv", ".webm")),
    ("libvpx-vp9", ("yuv420p", "yuv444p"), (".webm", ".mkv", ".mp4")),
    ("libvpx", ("yuv420p",), (".webm", ".mkv")),
    ("mpeg4", ("yuv420p",), (".mp4", ".avi", ".mkv")),
    ("mpeg2video", ("yuv420p", "yuv422p"), (".ts", ".mpg", ".mkv", ".mxf")),
    ("mjpeg", ("yuvj420p", "yuvj422p", "yuvj444p"), (".mov", ".avi", ".mkv")),
    ("prores_ks", ("yuv422p10le", "yuv444p10le"), (".mov", ".mkv")),
    ("ffv1", ("yuv420p", "yuv422p10le", "yuv444p16le", "gbrp10le", "bgr0", "gray"), (".mkv", ".avi")),
    ("png", ("rgb24", "rgb48be"), (".mov",)),
    ("qtrle", ("rgb24",), (".mov",)),
    ("utvideo", ("gbrp", "yuv422p"), (".avi",)),
    ("wmv2", ("yuv420p",), (".wmv",)),
]  # fmt: skip
RATES = {"constant": tuple(range(6)), "variable": (0, 1, 3, 4, 8, 9)}
SOUNDS = {".webm": "libopus", ".wmv": "libmp3lame", ".mpg": "mp2", ".avi": "mp2", ".mxf": "pcm_s16le"}
CONSTANT_ONLY = {".avi", ".mxf", ".mpg", ".wmv"}
TIME = "best_effort_timestamp_time"
TURNING = {".mp4", ".mov", ".mkv"}
FIELDS = (
    "codec_name", "codec_tag_string", "width", "height", "pix_fmt", "sample_aspect_ratio", "color_range", "color_space",
    "color_transfer", "color_primaries", "channels", "sample_rate",
)  # fmt: skip


def cases() -> list[tuple[str, ...]]:
    """Codec, pixel format, container, range, rate, turn and sound of every film."""
    found = []
    for codec, formats, suffixes in KINDS:
        for pix_fmt, suffix in itertools.product(formats, suffixes):
            is_yuv = pix_fmt.startswith("yuv") and not pix_fmt.startswith("yuvj")
            ranges = ("limited", "full") if is_yuv and codec != "wmv2" else ("limited",)
            rates = ("constant",) if suffix in CONSTANT_ONLY else tuple(RATES)
            ways = [("0", "silent"), ("90" if suffix in TURNING else "0", "sound")]
            for color_range, rate, (turn, sound) in itertools.product(ranges, rates, ways):
                found.append((codec, pix_fmt, suffix, color_range, rate, turn, sound))
    return found


ALL = cases()
QUICK = ALL[:: len(ALL) // 24]


def make(folder: Any, photo: Any, case: tuple[str, ...]) -> Any:
    codec, pix_fmt, suffix, color_range, rate, turn, sound = case
    quality = {"crf": "4"} if codec.startswith("lib") else {"qmin": "2", "qmax": "2"}
    if codec.startswith("libvpx"):
        quality["b"] = "0" if codec.endswith("9") else "90000000"
    recipe = Recipe(
        codec,
        pix_fmt,
        ticks=RATES[rate],
        rate=25,
        color_range=FULL if color_range == "full" or pix_fmt.startswith("yuvj") else LIMITED,
        options={} if codec in ("prores_ks", "ffv1", "png", "qtrle", "utvideo") else quality,
        context={"color_primaries": 1, "color_trc": 1, "sample_aspect_ratio": Fraction(1)},
        metadata={"title": "A film"},
        sound=SOUNDS.get(suffix, "aac") if sound == "sound" else None,
        turn=int(turn),
    )
    return make_film(folder / f"a{suffix}", pictures(photo, 6, (96, 64)), recipe)


def probe(path: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, str]]:
    """Streams, frames of the film, and texts of the file."""
    command = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", str(path)]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_frames", "-of", "json", str(path)]
    frames = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)["frames"]
    return answer["streams"], frames, answer["format"].get("tags", {})


def means(path: Any, stream: dict[str, Any]) -> np.ndarray:
    """Mean level of every plane of every frame as the second decoder shows it."""
    planes = "gbrp16le" if stream["pix_fmt"].startswith(("rgb", "gbr", "bgr")) else "yuv444p16le"
    command = ["ffmpeg", "-v", "error", "-noautorotate", "-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough"]
    command += ["-sws_flags", "accurate_rnd+full_chroma_int+bitexact", "-pix_fmt", planes, "-f", "rawvideo", "-"]
    raw = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    return np.frombuffer(raw, "<u2").reshape(-1, 3, stream["width"] * stream["height"]).mean(axis=2) / 257


def check(folder: Any, photo: Any, case: tuple[str, ...]) -> None:
    source = make(folder, photo, case)
    path, film = restored(source)
    (before, frames, texts), (after, new_frames, new_texts) = probe(source), probe(path)

    # FFmpeg reads ProRes 4444 as 12 bits and writes it with 10.
    assert film.notes == (("12 bits become 10",) if case[:2] == ("prores_ks", "yuv444p10le") else ())
    assert [stream["codec_type"] for stream in after] == [stream["codec_type"] for stream in before]
    for old, new in zip(before, after, strict=True):
        assert {field: new.get(field) for field in FIELDS} == {field: old.get(field) for field in FIELDS}
        assert new["disposition"] == old["disposition"]
    assert len(new_frames) == len(frames) == 6
    if case[2] != ".avi":  # AVI has no times of pictures, only of packets: see test_encoders.py
        shown = [(old.get(TIME), new.get(TIME)) for old, new in zip(frames, new_frames, strict=True)]
        known = [(float(old), float(new)) for old, new in shown if old and new]  # ffprobe knows no last one in MPG
        assert len(known) >= 5
        assert all(abs(old - new) < 1e-6 for old, new in known)
    sides = [{side["side_data_type"] for side in each[0].get("side_data_list", [])} for each in (frames, new_frames)]
    assert sides[0] - sides[1] <= {"H.26[45] User Data Unregistered SEI message"}  # the encoder's own name
    turns = [each[0].get("side_data_list", [{}])[-1].get("rotation") for each in (frames, new_frames)]
    assert turns[0] == turns[1]
    assert ("title" in texts) <= ("title" in {key.lower(): value for key, value in new_texts.items()})
    assert np.abs((means(source, before[0]) - means(path, after[0])).mean(axis=0)).max() <= 0.1


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("SVT_LOG", "0")


@pytest.mark.parametrize("case", QUICK, ids="-".join)
def test_a_part_of_the_matrix(tmp_path, photo, case):
    check(tmp_path, photo, case)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", sorted({case[:3] for case in ALL}), ids="-".join)
def test_the_whole_matrix(tmp_path, photo, kind):
    for index, case in enumerate(case for case in ALL if case[:3] == kind):
        check(tmp_path / str(index), photo, case)
