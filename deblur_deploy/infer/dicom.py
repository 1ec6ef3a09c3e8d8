"""DICOM: gray pictures of 16 bits, in which nothing but the pixel data changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import ArtifactError, MissingDependencyError
from deblur_deploy.core.files import whole_file
from deblur_deploy.core.images import MAX_PIXELS
from deblur_deploy.infer.bad_files import BAD_FILE_ERRORS
from deblur_deploy.infer.restore import Restorer

try:
    import pydicom
    import pydicom.errors
except ModuleNotFoundError as err:
    raise MissingDependencyError("DICOM files need pydicom", hint="pip install 'deblur-deploy[medical]'") from err

_GRAY = ("MONOCHROME1", "MONOCHROME2")

_COPIES = 4
"""How often the pixels are in memory at most: as read, as an array, restored, and as written."""


def restore_dicom(source: Path, target: Path, restorer: Restorer) -> int:
    """Restore the pictures of a DICOM file.

    The stored values from the lowest to the highest are what the network sees as black to white, so that nothing is
    clipped; rescale slope and intercept, window and every other element are written as they were read.

    Args:
        source: Uncompressed, gray, one or more frames of 16 bits, signed or not (DICOM PS3.3, section C.7.6.3).
        target: The result; it appears whole or not at all.
        restorer: The network.

    Returns:
        Number of frames.

    Raises:
        ArtifactError: It is no such file, or is damaged.
    """
    try:
        held = source.stat().st_size * _COPIES
        restorer.require(held, str(source))
        restorer.make_room(held)
        dataset = pydicom.dcmread(source)
        frames = _stored_values(dataset, source)
        low, high = int(frames.min()), int(frames.max())
    except (pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException, *BAD_FILE_ERRORS) as err:
        raise ArtifactError(f"{source} cannot be read as DICOM: {err}", hint="check the file") from err
    for frame in frames:
        if high > low:
            unit = ((frame.astype(np.float32) - low) / np.float32(high - low))[:, :, None]
            restorer.restore_in_place(unit, held)
            frame[...] = np.rint(unit[:, :, 0] * np.float64(high - low) + low).astype(frames.dtype)
    dataset.PixelData = frames.astype(frames.dtype.newbyteorder("<" if dataset.original_encoding[1] else ">")).tobytes()
    with whole_file(target) as partial:
        _write(dataset, partial, source)
    return len(frames)


def _write(dataset: Any, partial: Path, source: Path) -> None:
    """Write the elements as they were read; those that break the standard are found only now."""
    try:
        pydicom.dcmwrite(partial, dataset)
    except OSError:
        raise  # the disk, not the file
    except BAD_FILE_ERRORS as err:
        raise ArtifactError(
            f"{source} has elements that cannot be written back: {err}", hint="mend it with a DICOM validator"
        ) from err


def _stored_values(dataset: Any, source: Path) -> NDArray[Any]:
    """The pixels as they are stored, before slope and intercept: (frames, H, W) int16 or uint16."""
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        raise ArtifactError(f"{source} is compressed", hint="decompress it first, for instance with gdcmconv --raw")
    gray = dataset.PhotometricInterpretation in _GRAY and dataset.SamplesPerPixel == 1
    if not gray or dataset.BitsAllocated != 16:
        raise ArtifactError(
            f"{source} is {dataset.PhotometricInterpretation} with {dataset.BitsAllocated} bits",
            hint="only gray pictures of 16 bits are supported",
        )
    if dataset.Rows * dataset.Columns > MAX_PIXELS:
        size = f"{dataset.Columns}x{dataset.Rows}"
        raise ArtifactError(f"{source} has absurd dimensions: {size}", hint="cut it into parts")
    pixels = np.array(dataset.pixel_array)
    return pixels[None] if pixels.ndim == 2 else pixels
