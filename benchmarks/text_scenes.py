"""Photographs with number plates and signs on them, in perspective, whose texts are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from deblur_deploy.core.errors import MissingDependencyError

Image8 = NDArray[np.uint8]
Kind = Literal["plate", "sign"]
Quad = NDArray[np.float64]
"""(4, 2): x and y of the corners of a rectangle in a picture, clockwise from the top left."""

_FONTS = {
    "plate": ("DejaVuSans-Bold", "DejaVuSansMono-Bold", "DejaVuSans", "DejaVuSansMono"),
    "sign": ("DejaVuSans-Bold", "DejaVuSerif-Bold", "STIXGeneralBol", "DejaVuSans", "cmss10"),
}
"""Fonts that Matplotlib carries (DejaVu, STIX and Computer Modern, all free to pass on)."""

_COLORS = {
    "plate": (((238, 238, 232), (16, 16, 20)), ((244, 206, 60), (20, 20, 18)), ((22, 24, 30), (236, 236, 230))),
    "sign": (((18, 92, 60), (240, 244, 240)), ((24, 62, 140), (240, 242, 248)), ((240, 240, 236), (30, 30, 32))),
}
"""Ground and text in sRGB codes."""

_PATTERNS = ("LL DDLLL", "L DDD LL", "DDD LLL", "LL DDD LL", "DDLL DD")
_LETTERS, _DIGITS = "ABCDEFGHJKLMNPRSTUVWXYZ", "23456789"
"""No I, O, Q, 0 and 1: many countries leave out of plates what drivers mistake for one another."""

_WORDS = ("MARKET", "STATION", "HARBOUR", "MUSEUM", "BRIDGE", "AIRPORT", "CENTRE", "LIBRARY", "THEATRE", "STADIUM")

_EM = 96
"""Size of the letters before they are put into the photograph, in pixels."""

_SUPERSAMPLING = 4
_CELLS = (3, 2)
"""Columns and rows of places for texts in a photograph."""

TEXTS_PER_PHOTO = _CELLS[0] * _CELLS[1]


@dataclass(frozen=True)
class Text:
    """A text in a photograph.

    Args:
        kind: Plate or sign.
        text: What is written on it.
        quad: Where it is.
    """

    kind: Kind
    text: str
    quad: Quad


def write_on(photo: Image8, heights: tuple[float, float], rng: np.random.Generator) -> tuple[Image8, list[Text]]:
    """Put plates and signs into a photograph, side by side with random angles.

    Args:
        photo: (H, W, 3) uint8.
        heights: Range of the heights of capital letters, in pixels.
        rng: Source of all randomness; the same state gives the same picture.

    Returns:
        The new photograph and its texts.

    Raises:
        MissingDependencyError: Matplotlib, which brings the fonts, is not there.
    """
    canvas, texts = photo.copy(), []
    height, width = photo.shape[:2]
    for cell in range(TEXTS_PER_PHOTO):
        column, row = cell % _CELLS[0], cell // _CELLS[0]
        center = np.array([(column + 0.5) * width / _CELLS[0], (row + 0.5) * height / _CELLS[1]])
        center += rng.uniform(-0.05, 0.05, 2) * (width / _CELLS[0], height / _CELLS[1])
        kind: Kind = "plate" if cell % 2 == row % 2 else "sign"
        text = _new_plate(rng) if kind == "plate" else _new_sign(rng)
        board = _draw_board(text, kind, rng)
        quad = _new_quad(board.size, center, rng.uniform(*heights), rng)
        _paste(canvas, board, quad)
        texts.append(Text(kind, text, quad))
    return canvas, texts


def rectify(photo: Image8, quad: Quad, height: int = 48) -> Image8:
    """What is in a quadrilateral, seen from the front: (height, width, 3) uint8.

    Args:
        photo: (H, W, 3) uint8.
        quad: Where to look.
        height: Of the result, in pixels; its width follows from the sides of the quadrilateral.
    """
    across = (math.dist(quad[0], quad[1]) + math.dist(quad[3], quad[2])) / 2
    down = (math.dist(quad[0], quad[3]) + math.dist(quad[1], quad[2])) / 2
    size = max(round(height * across / down), 1), height
    coefficients = _homography(_corners(size), quad)
    flat = Image.fromarray(photo).transform(size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    return np.asarray(flat)


def _new_plate(rng: np.random.Generator) -> str:
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))]
    pools = {"L": _LETTERS, "D": _DIGITS}
    return "".join(pools[sign][rng.integers(len(pools[sign]))] if sign in pools else sign for sign in pattern)


def _new_sign(rng: np.random.Generator) -> str:
    return f"{_WORDS[rng.integers(len(_WORDS))]} {_DIGITS[rng.integers(8)]}{_DIGITS[rng.integers(8)]}"


def _draw_board(text: str, kind: Kind, rng: np.random.Generator) -> Image.Image:
    """A flat plate or sign with a rim."""
    fonts, colors = _FONTS[kind], _COLORS[kind]
    font = ImageFont.truetype(str(_font_file(fonts[rng.integers(len(fonts))])), _EM)
    ground, ink = colors[rng.integers(len(colors))]
    left, top, right, bottom = font.getbbox(text)
    margin = _EM // 3
    size = round(right - left) + 2 * margin, round(bottom - top) + 2 * margin
    light = rng.uniform(0.75, 1.0)
    board = Image.new("RGB", size, _dimmed(ground, light))
    draw = ImageDraw.Draw(board)
    draw.rectangle((3, 3, size[0] - 4, size[1] - 4), outline=_dimmed(ink, light), width=5)
    draw.text((margin - left, margin - top), text, _dimmed(ink, light), font)
    return board


def _dimmed(color: tuple[int, int, int], light: float) -> tuple[int, int, int]:
    red, green, blue = (round(code * light) for code in color)
    return red, green, blue


def _font_file(name: str) -> Path:
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as err:
        raise MissingDependencyError(
            "the fonts come with Matplotlib", hint="pip install 'deblur-deploy[report]'"
        ) from err
    return Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


def _new_quad(board: tuple[int, int], center: NDArray[np.float64], letters: float, rng: np.random.Generator) -> Quad:
    """Corners of a board in the photograph: as high as its letters should be, turned, and seen at an angle."""
    scale = letters / (0.73 * _EM)  # capital letters of these fonts are that share of their size
    width, height = board[0] * scale, board[1] * scale
    corners = _corners((width, height)) - (width / 2, height / 2)
    corners[:, 0] *= rng.uniform(0.8, 1.0)
    corners += rng.uniform(-0.12, 0.12, (4, 2)) * height
    angle = math.radians(rng.uniform(-10, 10))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    quad: Quad = corners @ turn + center
    return quad


def _paste(canvas: Image8, board: Image.Image, quad: Quad) -> None:
    """Put a board into a photograph, in place, with edges that are as soft as a lens makes them."""
    height, width = canvas.shape[:2]
    left, top = np.maximum(np.floor(quad.min(axis=0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(quad.max(axis=0)).astype(int) + 1, (width, height))
    fine = (right - left) * _SUPERSAMPLING, (bottom - top) * _SUPERSAMPLING
    coefficients = _homography((quad - (left, top)) * _SUPERSAMPLING, _corners(board.size))
    warped = board.convert("RGBA").transform(fine, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    small = np.asarray(warped.reduce(_SUPERSAMPLING), np.float64)
    cover = small[..., 3:] / 255
    part = canvas[top:bottom, left:right]
    part[:] = np.rint(small[..., :3] * cover + part * (1 - cover)).astype(np.uint8)


def _corners(size: tuple[float, float]) -> Quad:
    width, height = size
    return np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)


def _homography(output: Quad, source: Quad) -> Sequence[float]:
    """The eight numbers that Pillow takes: where in ``source`` a point of ``output`` comes from."""
    rows, values = [], []
    for (x, y), (u, v) in zip(output, source, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
        values += [u, v]
    return [float(value) for value in np.linalg.solve(np.array(rows), np.array(values))]
