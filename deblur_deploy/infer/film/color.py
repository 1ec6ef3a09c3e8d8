"""Between the colours of a film and the RGB of a network.

The network's change is what goes back, not its picture: both the RGB that it was given and the RGB that it returns are
converted to the film's format, and their difference is added to the film's own samples. What the network leaves alone
keeps its bits, in every matrix, range, depth and subsampling; so do colours that RGB cannot show, and transparency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.film_color import (
    BT601_MATRIX,
    FULL,
    LIMITED,
    RGB_MATRIX,
    exact_interpolation,
    matrix_of,
    range_of,
)
from deblur_deploy.infer.bad_files import BAD_FILE_ERRORS
from deblur_deploy.infer.film.deep_color import rgb_from_yuv, subsampled, yuv_change
from deblur_deploy.infer.film.source import COLOR_FIELDS, FilmFacts

_FLAGS = exact_interpolation()


@dataclass(frozen=True)
class Target:
    """How pictures are encoded.

    Args:
        pix_fmt: Pixel format.
        colors: Colour space, range, primaries and transfer.
    """

    pix_fmt: str
    colors: dict[str, int]


def target_colors(facts: FilmFacts, pix_fmt: str, codec: str) -> dict[str, int]:
    """Colours of the result: those of the film; of RGB that becomes YUV, a matrix that says which; of JPEG, its own."""
    colors = dict(facts.colors)
    if codec == "mjpeg" and facts.codec != codec:
        return colors | {"colorspace": BT601_MATRIX, "color_range": FULL}
    if facts.is_rgb and not av.VideoFormat(pix_fmt).is_rgb and not pix_fmt.startswith("gray"):
        colors["colorspace"] = matrix_of(RGB_MATRIX, facts.width, facts.height)
        colors["color_range"] = FULL if pix_fmt.startswith("yuvj") else LIMITED
    return colors


class ColorBridge:
    """Pictures of one film to RGB and back.

    Args:
        facts: The film.
        target: How its result is encoded.
    """

    def __init__(self, facts: FilmFacts, target: Target) -> None:
        self._target = target
        self._matrix = matrix_of(facts.colors["colorspace"], facts.width, facts.height)
        self._range = range_of(facts.colors["color_range"], facts.pix_fmt)
        self._target_matrix = matrix_of(target.colors["colorspace"], facts.width, facts.height)
        self._target_range = range_of(target.colors["color_range"], target.pix_fmt)
        self._layout = "rgb48le" if facts.bits > 8 else "rgb24"
        self._deep_source = facts.bits if facts.bits > 8 and _is_planar_yuv(facts.pix_fmt) else None
        self._deep_target = facts.bits > 8 and _is_planar_yuv(target.pix_fmt)
        # One for each direction: they work in different threads.
        self._reading, self._writing = (av.video.reformatter.VideoReformatter() for _ in range(2))

    def to_rgb(self, frame: Any) -> NDArray[Any]:
        """A picture as (H, W, 3) uint8, or uint16 where it has more than 8 bits; transparency is left out.

        Raises:
            ArtifactError: libswscale cannot read its format.
        """
        try:
            if self._deep_source is not None:
                layout = f"yuv444p{self._deep_source}le"
                full = self._converted(self._reading, frame, layout, (self._matrix, self._range) * 2)
                planes = [_samples(full, index, self._deep_source)[:, : frame.width] for index in range(3)]
                return rgb_from_yuv(planes, self._matrix, self._deep_source, self._range == LIMITED)
            ways = (self._matrix, self._range, self._matrix, FULL)
            return np.array(self._converted(self._reading, frame, self._layout, ways).to_ndarray())
        except BAD_FILE_ERRORS as err:
            raise ArtifactError(
                f"frames of {frame.format.name} cannot be read: {err}", hint="convert the film to yuv420p first"
            ) from err

    def to_film(self, frame: Any, given: NDArray[Any], restored: NDArray[Any]) -> Any:
        """A restored picture in the target's format, with the side data of the film's.

        Args:
            frame: The film's picture.
            given: What :meth:`to_rgb` made of it.
            restored: What the network made of that.

        Raises:
            ArtifactError: libswscale cannot write the format.
        """
        try:
            base = self._own(frame)
            if not np.array_equal(given, restored):
                self._add_change(base, given, restored)
        except BAD_FILE_ERRORS as err:
            raise ArtifactError(
                f"frames of {frame.format.name} cannot be written as {self._target.pix_fmt}: {err}",
                hint="give another --pixel-format",
            ) from err
        for name in COLOR_FIELDS:
            setattr(base, name, self._target.colors[name])
        base.pict_type = 0  # the decoder's would be forced onto the encoder
        return base

    def _own(self, frame: Any) -> Any:
        """The film's picture in the target's format, to write over."""
        ways = (self._matrix, self._range, self._target_matrix, self._target_range)
        base = self._converted(self._writing, frame, self._target.pix_fmt, ways)
        base.make_writable()
        return base

    def _add_change(self, base: Any, given: NDArray[Any], restored: NDArray[Any]) -> None:
        bits = max(component.bits for component in base.format.components)
        if self._deep_target:
            limited = self._target_range == LIMITED
            for index, change in enumerate(yuv_change(given, restored, self._target_matrix, bits, limited)):
                plane = base.planes[index]
                own = _samples(base, index, bits)[:, : plane.width]
                own[:] = _within(own + subsampled(change, plane.height, plane.width), bits)
            return
        before, after = (self._encoded(picture) for picture in (given, restored))
        for index in range(len(base.planes)):
            own, old, new = (_samples(picture, index, bits) for picture in (base, before, after))
            width = min(own.shape[1], old.shape[1])
            own[:, :width] = _within(own[:, :width] + (new[:, :width].astype(np.int32) - old[:, :width]), bits)

    def _encoded(self, picture: NDArray[Any]) -> Any:
        frame = av.VideoFrame.from_ndarray(picture, format=self._layout)
        ways = (self._target_matrix, FULL, self._target_matrix, self._target_range)
        return self._converted(self._writing, frame, self._target.pix_fmt, ways)

    @staticmethod
    def _converted(converter: Any, frame: Any, pix_fmt: str, ways: tuple[int, int, int, int]) -> Any:
        """A frame in another format; the ways are matrix and range of both."""
        return converter.reformat(
            frame,
            format=pix_fmt,
            interpolation=_FLAGS,
            src_colorspace=ways[0],
            src_color_range=ways[1],
            dst_colorspace=ways[2],
            dst_color_range=ways[3],
        )


def _is_planar_yuv(pix_fmt: str) -> bool:
    return pix_fmt.startswith(("yuv4", "yuva4")) and "p" in pix_fmt


def _within(codes: NDArray[Any], bits: int) -> NDArray[Any]:
    clipped: NDArray[Any] = np.clip(np.rint(codes), 0, (1 << bits) - 1)
    return clipped


def _samples(picture: Any, index: int, bits: int) -> NDArray[Any]:
    """(rows, samples in memory) of a plane, padding at the ends of rows included."""
    plane, big = picture.planes[index], picture.format.name.endswith("be")
    dtype = np.dtype(np.uint8 if bits <= 8 else (">u2" if big else "<u2"))
    flat = np.frombuffer(plane, dtype)
    length = abs(plane.line_size) // dtype.itemsize
    return flat[: plane.height * length].reshape(plane.height, length)
