"""Frames of a film to train on: some of them, evenly spread, as RGB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.curves import HDR_CURVES, LINEAR
from deblur_deploy.core.errors import ArtifactError, MissingDependencyError
from deblur_deploy.core.film_color import FULL, exact_interpolation, matrix_of, range_of

Image8 = NDArray[np.uint8]


def film_frames(path: Path, most: int) -> list[Image8]:
    """Decode a film and keep frames at even distances.

    Args:
        path: Anything that FFmpeg reads.
        most: How many frames are kept at most. Of a longer film it is more than half of that: the first frame and every
            second, fourth, eighth, … after it.

    Returns:
        (H, W, 3) uint8 sRGB each, in the film's order.

    Raises:
        MissingDependencyError: PyAV is not installed.
        ArtifactError: The file is not a film, is damaged or interlaced, or its values are not near sRGB.
    """
    try:
        import av
    except ModuleNotFoundError as err:
        raise MissingDependencyError("films need PyAV", hint="pip install 'deblur-deploy[video]'") from err
    kept: list[Image8] = []
    step = 1
    try:
        with av.open(f"file:{path}", metadata_errors="surrogateescape") as reader:
            stream = reader.streams.best("video")
            if stream is None:
                raise ArtifactError(f"{path} holds no video", hint="give a film, or a folder of pictures")
            for number, frame in enumerate(reader.decode(stream)):
                if number % step:
                    continue
                if len(kept) == most:
                    kept, step = kept[::2], 2 * step
                if number % step == 0:
                    kept.append(_rgb(path, frame))
    except (av.error.FFmpegError, ValueError) as err:
        said = getattr(err, "strerror", None) or err
        raise ArtifactError(f"{path} cannot be read: {said}", hint="check that it plays to the end") from err
    if not kept:
        raise ArtifactError(f"{path} holds no frames", hint="check that it plays to the end")
    return kept


def _rgb(path: Path, frame: Any) -> Image8:
    """A frame as (H, W, 3) uint8."""
    if frame.interlaced_frame:
        raise ArtifactError(f"{path} is interlaced", hint="deinterlace it first; `infer --deinterlace` does")
    if frame.color_trc in {LINEAR, *HDR_CURVES}:
        curve = HDR_CURVES.get(frame.color_trc, "linear")
        raise ArtifactError(
            f"{path} has {curve} values, and films to train on have to be near sRGB", hint="convert it to BT.709"
        )
    matrix = matrix_of(frame.colorspace, frame.width, frame.height)
    image: Image8 = frame.to_ndarray(
        format="rgb24",
        interpolation=exact_interpolation(),
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=range_of(frame.color_range, frame.format.name),
        dst_color_range=FULL,
    )
    return np.ascontiguousarray(image)
