"""Large pictures from file to file, of which only some rows are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.files import whole_file
from deblur_deploy.infer.encode import ROW_WRITERS, encoding
from deblur_deploy.infer.picture import Metadata
from deblur_deploy.infer.pipeline import overlap
from deblur_deploy.infer.png_rows import PngRows, find_png_rows
from deblur_deploy.infer.restore import Restorer
from deblur_deploy.infer.tiff_rows import TiffRows, find_tiff_rows

LARGE_BYTES = 60_000_000
"""Pictures that take more than this to decode are restored in rows where that is possible; 6 megapixels of colour."""


class RowReader(Protocol):
    """A picture that is decoded from top to bottom.

    Attributes:
        kind: Pillow's name of the file format.
        shape: Height, width and channels.
        dtype: uint8 or uint16.
        metadata: What the file says about the picture.
    """

    kind: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    metadata: Metadata

    def bands(self) -> Iterator[NDArray[Any]]:
        """The rows in order, some at a time: (n, W, C).

        Raises:
            ArtifactError: The file is damaged.
        """


def is_large(decoding_bytes: int, restorer: Restorer) -> bool:
    """Whether a picture should be restored in rows.

    Args:
        decoding_bytes: What decoding it as a whole takes.
        restorer: The network.
    """
    return decoding_bytes > min(LARGE_BYTES, restorer.in_flight_bytes)


def open_rows(path: Path, target_format: str | None) -> RowReader | None:
    """A picture to be read row by row, or None where it, or its result, has to be in memory as a whole.

    Args:
        path: The picture.
        target_format: Pillow's name of the format that it will be written in, or None for its own.

    Raises:
        ArtifactError: Its header cannot be read.
        MissingDependencyError: 16-bit colour, and the extra ``deep`` is not installed.
    """
    if target_format is not None and target_format not in ROW_WRITERS:
        return None
    if (png := find_png_rows(path)) is not None:
        return PngRows(path, png)
    if (tiff := find_tiff_rows(path)) is not None:
        return TiffRows(path, tiff)
    return None


def restore_rows(reader: RowReader, target: Path, target_format: str | None, restorer: Restorer) -> int:
    """Restore a picture row by row; the result appears whole or not at all.

    Args:
        reader: The picture.
        target: The result.
        target_format: As in :func:`open_rows`.
        restorer: The network.

    Returns:
        Number of tiles.

    Raises:
        ArtifactError: The file is damaged, or the result cannot be written.
        ConfigError: The memory does not suffice.
        DeblurDeployError: The network gave up.
    """
    height, width, channels = reader.shape
    plan = restorer.plan(width, height, channels * reader.dtype.itemsize)
    restore = restorer.begin_rows(plan, reader.dtype)
    kind = target_format or reader.kind
    with whole_file(target) as partial, partial.open("wb") as file:
        with encoding(target, kind, reader.shape):
            writer = ROW_WRITERS[kind](file, reader.shape, reader.dtype, reader.metadata)
        with writer:

            def write(finished: list[NDArray[Any]]) -> None:
                for rows in finished:
                    writer.write(rows)

            overlap(reader.bands(), restore, write)
    return plan.tiles
