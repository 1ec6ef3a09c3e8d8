"""Large pictures from file to file, with only some rows in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from deblur_deploy.core.files import whole_file
from deblur_deploy.core.formats import FORMATS
from deblur_deploy.core.lazy import load_named
from deblur_deploy.infer import thumbnail
from deblur_deploy.infer.encode import encoding, streaming_writer
from deblur_deploy.infer.fit import fit_metadata
from deblur_deploy.infer.overlap import overlap
from deblur_deploy.infer.picture import Layout, Metadata, Tones
from deblur_deploy.infer.restore import Restorer
from deblur_deploy.infer.tones import NOT_ON_THE_CURVE, TonedRows

LARGE_BYTES = 60_000_000
"""Pictures that take more than this to decode are streamed where that is possible; 6 megapixels of colour."""


class StreamingReader(Protocol):
    """A picture that is decoded from top to bottom.

    Attributes:
        kind: Pillow's name of the file format.
        layout: Gray or RGB of uint8 or uint16, with or without alpha.
        metadata: What the file says about the picture.
        tones: Black, white and the curve where they are not sRGB's.
        notes: What of the file is not kept.
    """

    kind: str
    layout: Layout
    metadata: Metadata
    tones: Tones | None
    notes: tuple[str, ...]

    def bands(self) -> Iterator[NDArray[Any]]:
        """The rows in order, some at a time: (n, W, C).

        Raises:
            ArtifactError: The file is damaged.
        """


def is_large(decoding_bytes: int, restorer: Restorer) -> bool:
    """Whether a picture should be streamed.

    Args:
        decoding_bytes: What decoding it as a whole takes.
        restorer: The network.
    """
    return decoding_bytes > min(LARGE_BYTES, restorer.in_flight_bytes)


def open_streaming(path: Path, target_format: str | None) -> StreamingReader | None:
    """A reader of a picture row by row; None where the picture or its result has to be in memory as a whole.

    Args:
        path: The picture.
        target_format: Pillow's name of the format that it will be written in, or None for its own.

    Raises:
        ArtifactError: Its header cannot be read.
        MissingDependencyError: 16-bit colour, and the extra ``deep`` is not installed.
    """
    if target_format is not None and FORMATS[target_format].streaming_writer is None:
        return None
    for row in FORMATS.values():
        if row.streaming_reader is None or (target_format is None and row.streaming_writer is None):
            continue
        reader: StreamingReader | None = load_named(row.streaming_reader)(path)
        if reader is not None:
            return _if_it_fits(reader, target_format)
    return None


def _if_it_fits(reader: StreamingReader, target_format: str | None) -> StreamingReader | None:
    """The reader, or None where the other format cannot record its curve, which reading it as a whole then refuses."""
    return None if reader.tones is not None and target_format not in (None, reader.kind) else reader


def restore_streaming(
    reader: StreamingReader, target: Path, target_format: str | None, restorer: Restorer
) -> tuple[int, tuple[str, ...]]:
    """Restore a picture row by row; the result appears whole or not at all.

    Args:
        reader: The picture.
        target: The result.
        target_format: As in :func:`open_streaming`.
        restorer: The network.

    Returns:
        Number of tiles, and what of the picture's file is not kept.

    Raises:
        ArtifactError: The file is damaged, or the result cannot be written.
        ConfigError: The memory does not suffice.
        DeblurDeployError: The network failed.
    """
    (height, width, channels), dtype = reader.layout.shape, reader.layout.dtype
    toned = TonedRows(reader.tones, reader.layout) if reader.tones is not None and not restorer.takes_frames else None
    stored = channels * dtype.itemsize if toned is None else toned.bytes_per_pixel
    plan = restorer.plan(width, height, stored)
    restore = restorer.begin_rows(plan, dtype) if toned is None else toned.begin(restorer, plan)
    kind = target_format or reader.kind
    metadata, notes = fit_metadata(reader.metadata, reader.kind, kind)
    metadata = replace(metadata, exif=thumbnail.without(metadata.exif))  # it is written before the pixels are known
    with whole_file(target) as partial, partial.open("wb") as file:
        with encoding(target, kind, reader.layout.shape):
            make = streaming_writer(kind)
            assert make is not None  # open_streaming has asked
            writer = make(file, reader.layout, metadata)
        with writer:

            def write(finished: list[NDArray[Any]]) -> None:
                for rows in finished:
                    writer.write(rows)

            overlap(reader.bands(), restore, write)
    if metadata.exif != reader.metadata.exif:
        notes = (*notes, "not kept: the EXIF thumbnail, which shows it unrestored")
    if reader.tones is not None and toned is None:
        notes = (*notes, NOT_ON_THE_CURVE)
    return plan.tiles, (*reader.notes, *notes)
