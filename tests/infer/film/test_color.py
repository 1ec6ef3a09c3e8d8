"""Colours by H.273: what a network sees, and what comes back."""

from __future__ import annotations

import itertools

import av
import numpy as np
import pytest
from film_maker import BT601, BT709, BT2020, FULL, LIMITED, Recipe, Same, codes, film_frames, make_film, restored

WEIGHTS = {BT601: (0.299, 0.114), BT709: (0.2126, 0.0722), BT2020: (0.2627, 0.0593)}
WAYS = list(itertools.product(("420", "422", "444"), ("", "10le"), WEIGHTS, (LIMITED, FULL)))


def raw_frame(pix_fmt, planes, colorspace, color_range):
    """A frame from codes; each plane is one number or a row of them."""
    frame = av.VideoFrame(224, 64, pix_fmt)
    bits = frame.format.components[0].bits
    for plane, code in zip(frame.planes, planes, strict=True):
        samples = np.frombuffer(plane, np.uint8 if bits == 8 else "<u2").reshape(plane.height, -1)
        samples[:, : plane.width] = code if np.isscalar(code) else np.asarray(code)[: plane.width]
    frame.colorspace, frame.color_range = colorspace, color_range
    return frame


def rgb_by_hand(codes, bits, colorspace, color_range):
    """H.273, section 8.3: R, G and B in [0, 1] of codes of Y, Cb and Cr."""
    unit, full = 1 << (bits - 8), (1 << bits) - 1
    y, cb, cr = codes
    if color_range == LIMITED:
        y, cb, cr = (y / unit - 16) / 219, (cb / unit - 128) / 224, (cr / unit - 128) / 224
    else:
        y, cb, cr = y / full, (cb - 128 * unit) / full, (cr - 128 * unit) / full
    red, blue = WEIGHTS[colorspace]
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    return np.array([r, (y - red * r - blue * b) / (1 - red - blue), b])


def codes_by_hand(rgb, bits, colorspace, color_range):
    """The way back."""
    unit, full = 1 << (bits - 8), (1 << bits) - 1
    red, blue = WEIGHTS[colorspace]
    y = red * rgb[0] + (1 - red - blue) * rgb[1] + blue * rgb[2]
    cb, cr = (rgb[2] - y) / (2 - 2 * blue), (rgb[0] - y) / (2 - 2 * red)
    if color_range == LIMITED:
        return np.array([16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr]) * unit
    return np.array([full * y, 128 * unit + full * cb, 128 * unit + full * cr])


@pytest.mark.parametrize(("chroma", "depth", "colorspace", "color_range"), WAYS)
def test_a_ramp_and_a_colour_are_seen_as_by_hand_and_come_back_bit_for_bit_after_five_passes(
    tmp_path, chroma, depth, colorspace, color_range
):
    pix_fmt, bits = f"yuv{chroma}p{depth}", 10 if depth else 8
    unit = 1 << (bits - 8)
    ramp = np.linspace(16 * unit, 235 * unit, 224).round().astype(int)
    gray = raw_frame(pix_fmt, (ramp, 128 * unit, 128 * unit), colorspace, color_range)
    color = raw_frame(pix_fmt, (120 * unit, 98 * unit, 148 * unit), colorspace, color_range)
    recipe = Recipe("ffv1", pix_fmt, colorspace=colorspace, color_range=color_range)
    path = source = make_film(tmp_path / "a.mkv", [gray, color], recipe)
    network = Same()
    for index in range(5):
        path, film = restored(path, network, out=str(index))
        assert film.notes == ()

    white = 255 if bits == 8 else 65535
    seen = network.given[0][32, :, 0] / white
    assert (
        np.abs(
            seen - np.clip(rgb_by_hand((ramp, 128 * unit, 128 * unit), bits, colorspace, color_range)[0], 0, 1)
        ).max()
        < 0.51 / 255
    )
    by_hand = rgb_by_hand((120 * unit, 98 * unit, 148 * unit), bits, colorspace, color_range)
    assert np.abs(network.given[1][32, 112] / white - by_hand).max() < 0.6 / 255
    for before, after in zip(film_frames(source), film_frames(path), strict=True):
        assert (after.colorspace, after.color_range) == (colorspace, color_range)
        assert all(np.array_equal(codes(before, index), codes(after, index)) for index in range(3))


@pytest.mark.parametrize(("chroma", "depth", "colorspace", "color_range"), WAYS[::5])
def test_what_a_network_changes_comes_back_as_by_hand(tmp_path, chroma, depth, colorspace, color_range):
    pix_fmt, bits = f"yuv{chroma}p{depth}", 10 if depth else 8
    unit, white = 1 << (bits - 8), 255 if bits == 8 else 65535
    change = np.array([20, -10, 5]) * (white / 255)
    frame = raw_frame(pix_fmt, (100 * unit, 120 * unit, 140 * unit), colorspace, color_range)
    recipe = Recipe("ffv1", pix_fmt, colorspace=colorspace, color_range=color_range)
    source = make_film(tmp_path / "a.mkv", [frame], recipe)
    path, _ = restored(source, Same(lambda samples: (samples + change).astype(samples.dtype)))

    rgb = (
        rgb_by_hand((100 * unit, 120 * unit, 140 * unit), bits, colorspace, color_range) + np.array([20, -10, 5]) / 255
    )
    (after,) = film_frames(path)
    expected = codes_by_hand(rgb, bits, colorspace, color_range)
    assert all(np.abs(codes(after, index) - expected[index]).max() <= 1.01 for index in range(3))


def test_neutral_100_of_limited_range_is_98_and_comes_back_as_100(tmp_path):
    frame = raw_frame("yuv420p", (100, 128, 128), BT709, LIMITED)
    network = Same()
    path, _ = restored(make_film(tmp_path / "flat.mkv", [frame], Recipe("ffv1")), network)
    assert (network.given[0] == 98).all()
    assert (codes(film_frames(path)[0]) == 100).all()


def test_codes_outside_of_rgb_stay_where_the_network_leaves_them(tmp_path):
    """Whiter than white, blacker than black and colours that no RGB has."""
    ramp = np.linspace(0, 255, 224).round().astype(int)
    frame = raw_frame("yuv444p", (ramp, 20, 240), BT709, LIMITED)
    source = make_film(tmp_path / "a.mkv", [frame], Recipe("ffv1", "yuv444p"))
    path, _ = restored(source)
    assert np.array_equal(codes(film_frames(path)[0]), codes(film_frames(source)[0]))


def test_an_unspecified_matrix_is_taken_as_players_take_it(tmp_path):
    """BT.601 for small pictures, BT.709 from 720 lines on; the film stays unspecified."""
    for height, matrix in ((64, BT601), (720, BT709)):
        frame = av.VideoFrame(64, height, "yuv444p")
        for plane, code in zip(frame.planes, (120, 98, 148), strict=True):
            np.frombuffer(plane, np.uint8)[:] = code
        network = Same()
        source = make_film(tmp_path / f"{height}.mkv", [frame], Recipe("ffv1", "yuv444p", colorspace=2))
        path, _ = restored(source, network)
        by_hand = rgb_by_hand((120, 98, 148), 8, matrix, LIMITED)
        assert np.abs(network.given[0][32, 32] / 255 - by_hand).max() < 0.6 / 255
        assert film_frames(path)[0].colorspace == 2


def test_a_film_that_becomes_motion_jpeg_gets_the_matrix_of_jpeg(tmp_path):
    """JPEG is BT.601 of full range, whatever a container says."""
    frame = raw_frame("yuv444p", (120, 98, 148), BT709, LIMITED)
    source = make_film(tmp_path / "a.mkv", [frame], Recipe("ffv1", "yuv444p"))
    path, _ = restored(source, codec="mjpeg")
    expected = codes_by_hand(rgb_by_hand((120, 98, 148), 8, BT709, LIMITED), 8, BT601, FULL)
    (after,) = film_frames(path)
    assert all(abs(codes(after, index).mean() - expected[index]) < 1.5 for index in range(3))
