"""DICOM: 16-bit gray pictures, whose results are marked as derived from them (DICOM PS3.3, section C.7.6)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy import __version__
from deblur_deploy.core.errors import ArtifactError, MissingDependencyError
from deblur_deploy.core.files import whole_file
from deblur_deploy.core.images import MAX_PIXELS
from deblur_deploy.infer.bad_files import BAD_FILE_ERRORS
from deblur_deploy.infer.picture import Tones
from deblur_deploy.infer.restore import Restorer
from deblur_deploy.infer.settings import DicomConfig
from deblur_deploy.infer.tones import measured_tones, restore_toned

try:
    import pydicom
    import pydicom.errors
    from pydicom.uid import generate_uid
except ModuleNotFoundError as err:
    raise MissingDependencyError("DICOM files need pydicom", hint="pip install 'deblur-deploy[medical]'") from err

_INVERTED = "MONOCHROME1"
_GRAY = (_INVERTED, "MONOCHROME2")

_DEFAULTS = DicomConfig()

_WORD = 16
_BYTES_PER_PIXEL = 8
"""What pixels take at most: as read, as an array, restored, and as written."""

_DESCRIBED = 1024
"""Characters of a derivation description (value representation ST)."""


def restore_dicom(
    source: Path, target: Path, restorer: Restorer, config: DicomConfig = _DEFAULTS
) -> tuple[int, tuple[str, ...]]:
    """Restore the pictures of a DICOM file.

    The stored values from the lowest to the highest are what the network sees as black to white, so that nothing is
    clipped; padding values do not count for that, stay as they are, and are hidden from the network. Bits above the
    stored ones, such as overlays, stay. Rescale slope and intercept, window and every other element are written as they
    were read, except for those that identify the picture: it is derived, and has a UID of its own.

    Args:
        source: Gray, one or more frames of 16 bits, signed or not. Compressed ones need a plugin of pydicom.
        target: The result, uncompressed; it appears whole or not at all.
        restorer: The network.
        config: Whether it keeps the UID.

    Returns:
        Number of frames, and notes for the user.

    Raises:
        ArtifactError: It is not such a file, or is damaged.
        MissingDependencyError: It is compressed, and no plugin for that is installed.
    """
    try:
        dataset = pydicom.dcmread(source)
        _check(dataset, source)
        held = _BYTES_PER_PIXEL * dataset.Rows * dataset.Columns * int(dataset.get("NumberOfFrames") or 1)
        restorer.require(held, str(source))
        restorer.make_room(held)
        notes = _decompress(dataset, source)
        words = _words(dataset)
        values = _Values(dataset, words)
        tones = values.tones
    except (pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException, *BAD_FILE_ERRORS) as err:
        raise ArtifactError(f"{source} cannot be read as DICOM: {err}", hint="check the file") from err
    for number in range(len(words)):
        frame = values.frame(number)
        restore_toned(restorer, frame[:, :, None], tones, held)
        values.put(number, frame)
    dataset.PixelData = words.astype(words.dtype.newbyteorder("<" if dataset.original_encoding[1] else ">")).tobytes()
    _derive(dataset, config)
    with whole_file(target) as partial:
        _write(dataset, partial, source)
    return len(words), notes


class _Values:
    """The stored values inside 16-bit words, of which other bits may hold overlays.

    Args:
        dataset: Says where they are.
        words: (frames, H, W) uint16; results are put into it.
    """

    def __init__(self, dataset: Any, words: NDArray[np.uint16]) -> None:
        self._words, self._bits = words, int(dataset.BitsStored)
        self._shift = int(dataset.HighBit) + 1 - self._bits
        self._signed = dataset.PixelRepresentation == 1
        self._inverted = dataset.PhotometricInterpretation == _INVERTED
        self._mask = np.uint16(2**self._bits - 1)
        if not (1 <= self._bits <= _WORD and 0 <= self._shift <= _WORD - self._bits):
            raise ValueError(f"{self._bits} bits up to bit {dataset.HighBit} do not lie in {_WORD}")
        padding = dataset.get("PixelPaddingValue")
        limit = dataset.get("PixelPaddingRangeLimit", padding)
        ends = [self._signed_word(int(end)) for end in (padding, limit) if end is not None]
        self._padding = (float(min(ends)), float(max(ends))) if ends else None
        # Whether the bits above repeat the sign, as they do where there is no overlay in them.
        self._extends_sign = self._shift == 0 and all(
            np.array_equal(self.frame(number).view(np.uint16), words[number]) for number in range(len(words))
        )

    def _signed_word(self, value: int) -> int:
        """A value that may have been written as signed where samples are unsigned, or the other way round."""
        value &= 0xFFFF
        return value - 0x10000 if self._signed and value >= 0x8000 else value

    @property
    def tones(self) -> Tones:
        """What is black and white: the lowest and the highest value that is not padding."""
        found = [measured_tones(self.frame(number)[:, :, None], self._padding) for number in range(len(self._words))]
        low, high = min(tones.low for tones in found), max(tones.high for tones in found)
        return Tones(high, low, None, self._padding) if self._inverted else Tones(low, high, None, self._padding)

    def frame(self, number: int) -> NDArray[Any]:
        """The values of a frame: (H, W) int16 or uint16, a copy."""
        values: NDArray[Any] = (self._words[number] >> np.uint16(self._shift)) & self._mask
        if self._signed:
            up = _WORD - self._bits
            values = (values << np.uint16(up)).view(np.int16) >> np.int16(up)
        return values

    def put(self, number: int, values: NDArray[Any]) -> None:
        """Put the values of a frame back among the other bits."""
        words = values.view(np.uint16)
        if not self._extends_sign:
            kept = self._words[number] & ~(self._mask << np.uint16(self._shift))
            words = kept | ((words & self._mask) << np.uint16(self._shift))
        self._words[number] = words


def _check(dataset: Any, source: Path) -> None:
    """Refuse anything but a 16-bit gray picture."""
    if "PixelData" not in dataset:
        kind = dataset.get("Modality") or "unknown"
        raise ArtifactError(f"{source} holds no pixels (modality {kind})", hint="leave it out")
    gray = dataset.PhotometricInterpretation in _GRAY and dataset.SamplesPerPixel == 1
    if not gray or dataset.BitsAllocated != _WORD:
        raise ArtifactError(
            f"{source} is {dataset.PhotometricInterpretation} with {dataset.BitsAllocated} bits",
            hint="only gray pictures of 16 bits are supported",
        )
    if dataset.Rows * dataset.Columns > MAX_PIXELS:
        size = f"{dataset.Columns}x{dataset.Rows}"
        raise ArtifactError(f"{source} has absurd dimensions: {size}", hint="cut it into parts")


def _decompress(dataset: Any, source: Path) -> tuple[str, ...]:
    """Decompress pixels that are compressed; returns a note about it."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return ()
    from pydicom.pixels import get_decoder

    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        raise ArtifactError(f"{source} is compressed as {syntax.name}", hint="decompress it first") from None
    if not available:
        raise MissingDependencyError(
            f"{source} is compressed as {syntax.name}, which needs a plugin of pydicom",
            hint="pip install 'deblur-deploy[medical-codecs]'",
        )
    dataset.decompress(generate_instance_uid=False)
    return (f"it was compressed as {syntax.name} and is written uncompressed",)


def _words(dataset: Any) -> NDArray[np.uint16]:
    """The pixels as they are stored, with the bits that pydicom takes out: (frames, H, W) uint16, writable."""
    shape = int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns)
    count = shape[0] * shape[1] * shape[2]
    order = "<" if dataset.original_encoding[1] else ">"
    if not count or len(dataset.PixelData) < 2 * count:
        raise ValueError(f"its pixels have {len(dataset.PixelData)} bytes of {2 * count}")
    return np.frombuffer(dataset.PixelData, f"{order}u2", count).astype(np.uint16).reshape(shape)


def _derive(dataset: Any, config: DicomConfig) -> None:
    """Say that this is a picture derived from another (DICOM PS3.3, sections C.7.6.1.1.2, C.12.4.1.3)."""
    kind = list(dataset.get("ImageType") or [])
    dataset.ImageType = ["DERIVED", *(kind[1:] or ["SECONDARY"])]
    said = f"Deblurred by deblur-deploy {__version__}"
    before = str(dataset.get("DerivationDescription") or "")
    dataset.DerivationDescription = (f"{before}; {said}" if before else said)[-_DESCRIBED:]
    if config.keep_uid or "SOPInstanceUID" not in dataset:
        return
    old = str(dataset.SOPInstanceUID)
    if "SOPClassUID" in dataset:
        reference = pydicom.Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = dataset.SOPClassUID, old
        dataset.SourceImageSequence = [reference]
    # From what it holds, so that a second run gives the same.
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[old, hashlib.sha256(dataset.PixelData).hexdigest()])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


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
