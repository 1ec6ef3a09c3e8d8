"""How the samples of a film become RGB: which matrix and which range, where the film says it and where it does not."""

from __future__ import annotations

from typing import Any

from deblur_deploy.core.errors import ArtifactError

_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
"""libswscale's tables by the code points of H.273, table 4; 10 is BT.2020 with constant luminance, taken as 9."""

RGB_MATRIX, UNSPECIFIED_MATRIX, BT709_MATRIX, BT601_MATRIX = 0, 2, 1, 5
LIMITED, FULL = 1, 2


def matrix_of(colorspace: int, width: int, height: int) -> int:
    """Libswscale's table for a colour space; unspecified is BT.709 from 720 lines on, as players take it.

    Raises:
        ArtifactError: libswscale has none, as for YCgCo and ICtCp.
    """
    if colorspace in (RGB_MATRIX, UNSPECIFIED_MATRIX, 3):
        return BT709_MATRIX if width >= 1280 or height > 576 else BT601_MATRIX
    if colorspace not in _MATRICES:
        raise ArtifactError(
            f"the colour space with code {colorspace} of H.273 cannot be converted", hint="convert it to BT.709 first"
        )
    return _MATRICES[colorspace]


def range_of(color_range: int, pix_fmt: str) -> int:
    """:data:`LIMITED` or :data:`FULL`; where the film does not say, its pixel format does."""
    return color_range or (FULL if pix_fmt.startswith("yuvj") else LIMITED)


def exact_interpolation() -> Any:
    """Flags for PyAV's ``reformat``: libswscale's fast path rounds down, neutral 100 came back as 99."""
    from av.video.reformatter import Interpolation

    return (
        Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
    )
