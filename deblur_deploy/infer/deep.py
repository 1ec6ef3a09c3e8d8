"""16-bit colour in PNG and TIFF, which Pillow reads with 8 bits.

imagecodecs has libpng's full depth and is one wheel with no dependency but numpy; tifffile, by the same author, reads
TIFF with it. The alternative with both formats, OpenCV, is more than twice as large and loses ICC profiles.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import ArtifactError, MissingDependencyError
from deblur_deploy.infer.picture import decoding, row_bands

try:
    import imagecodecs
    import tifffile
except ModuleNotFoundError as err:
    raise MissingDependencyError(
        f"pictures with 16 bits per colour need {err.name}", hint="pip install 'deblur-deploy[deep]'"
    ) from err

_PREMULTIPLIED = 1
"""What ExtraSamples says of an alpha channel with which the colours were multiplied (TIFF 6.0, section 18)."""


def read_deep(path: Path, kind: str, content: BinaryIO | None = None) -> NDArray[np.uint16]:
    """Decode a PNG or TIFF with 16 bits and several channels: (H, W, 2 to 4) uint16.

    Args:
        path: The file.
        kind: Pillow's name of its format.
        content: What is read in its place (see :func:`deblur_deploy.infer.picture.read_picture`).

    Raises:
        ArtifactError: It is damaged, or has another depth.
    """
    with decoding(path), path.open("rb") if content is None else nullcontext(content) as file:
        file.seek(0)
        samples = imagecodecs.png_decode(file.read()) if kind == "PNG" else _read_tiff(file)
    if samples.dtype != np.uint16 or samples.ndim != 3 or not 2 <= samples.shape[2] <= 4:
        raise ArtifactError(
            f"{path} has samples of {samples.dtype} in the shape {samples.shape}",
            hint="save it as gray or RGB with 8 or 16 bits",
        )
    return samples if samples.flags.writeable else np.array(samples)


def _read_tiff(content: BinaryIO) -> NDArray[Any]:
    with tifffile.TiffFile(content) as file:
        page = file.pages[0]
        samples = np.asarray(page.asarray())
        if page.photometric not in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK) or (
            page.bitspersample != 16
        ):
            raise ValueError(f"{page.photometric.name} with {page.bitspersample} bits is not supported")
        samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples
        return _straight(np.array(samples)) if _PREMULTIPLIED in page.extrasamples else samples


def _straight(samples: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Colours that were multiplied with the alpha channel, as they are without it (TIFF 6.0, section 18).

    Where alpha is zero there is no colour to find, and the stored one stays.
    """
    for rows in row_bands(*samples.shape[:2]):
        colors, alpha = samples[rows, :, :-1], samples[rows, :, -1:].astype(np.float64)
        divided = np.rint(colors * 65535.0 / np.maximum(alpha, 1)).clip(0, 65535)
        samples[rows, :, :-1] = np.where(alpha > 0, divided, colors)
    return samples
