"""CT slices, blurred and restored: the way of ``deblur-deploy infer`` with DICOM files, in dB."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.config import CameraConfig, ShakeConfig
from deblur_deploy.core.errors import MissingDependencyError
from deblur_deploy.data.shake import shake_path
from deblur_deploy.infer.restore import Restorer

_FILES = ("CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm")
"""The slices of more than 16 x 16 values that come with pydicom: a head, a vertebra and a skull base."""


_FRAMES = 30
"""Places of a slice along a camera's path."""


@dataclass(frozen=True)
class Slice:
    """A slice, whole and blurred.

    Args:
        name: Its file.
        dataset: Its DICOM elements, uncompressed.
        sharp: (H, W) float64, as stored.
        blurred: The same after the blur, rounded as a file stores it.
    """

    name: str
    dataset: Any
    sharp: NDArray[np.float64]
    blurred: NDArray[np.float64]

    @property
    def range(self) -> float:
        """From the lowest to the highest value of the sharp slice: the peak of its PSNR."""
        return float(self.sharp.max() - self.sharp.min())


def blurred_slices(blur: ShakeConfig | CameraConfig, repeats: int) -> list[Slice]:
    """Every slice with several motions.

    Args:
        blur: How far and how something moved; only the path counts.
        repeats: Motions for each slice.

    Raises:
        MissingDependencyError: pydicom is not installed.
    """
    try:
        import pydicom
        from pydicom.data import get_testdata_file
    except ModuleNotFoundError as err:
        raise MissingDependencyError(
            "CT slices come with pydicom", hint="pip install 'deblur-deploy[medical]'"
        ) from err
    found = []
    for index, name in enumerate(_FILES):
        dataset = pydicom.dcmread(str(get_testdata_file(name, download=False)))
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            dataset.decompress()
        sharp = dataset.pixel_array.astype(np.float64)
        for repeat in range(repeats):
            path = _path(blur, np.random.default_rng([index, repeat]))
            found.append(Slice(f"{name} {repeat}", dataset, sharp, np.rint(_moved(sharp, path))))
    return found


def restore_slice(blurred: Slice, restorer: Restorer, folder: Path) -> NDArray[np.float64]:
    """The stored values of a blurred slice that went through a network as a DICOM file: (H, W) float64.

    Args:
        blurred: The slice.
        restorer: The network.
        folder: For the files.
    """
    import pydicom

    from deblur_deploy.infer.dicom import restore_dicom

    dataset = copy.deepcopy(blurred.dataset)
    dataset.PixelData = blurred.blurred.astype(dataset.pixel_array.dtype).tobytes()
    source, target = folder / "blurred.dcm", folder / "restored.dcm"
    dataset.save_as(source)
    restore_dicom(source, target, restorer)
    restored: NDArray[np.float64] = pydicom.dcmread(target).pixel_array.astype(np.float64)
    return restored


def slice_psnr_db(values: NDArray[np.float64], sharp: Slice) -> float:
    """PSNR in dB of stored values, whose peak is the range of the sharp slice."""
    return float(10 * np.log10(sharp.range**2 / np.mean((values - sharp.sharp) ** 2)))


def _path(blur: ShakeConfig | CameraConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """A path of a blur: (frames, 3), dx and dy in pixels first."""
    if isinstance(blur, ShakeConfig):
        return shake_path(blur, rng)
    from deblur_deploy.data.camera import camera_path

    return camera_path(float(rng.uniform(*blur.length_px)), _FRAMES, blur, rng)


def _moved(sharp: NDArray[np.float64], path: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of a slice over the places of a path, between the values bilinearly, with repeated borders."""
    from scipy.ndimage import shift

    return np.mean([shift(sharp, (-dy, -dx), order=1, mode="nearest") for dx, dy, _ in path], axis=0)
