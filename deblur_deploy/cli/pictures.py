"""Pictures for people: one sheet for each photograph, before and after side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from deblur_deploy.artifact import Artifact
from deblur_deploy.data.pairs import Pair
from deblur_deploy.errors import ArtifactError
from deblur_deploy.images import from_batch, save_rgb, to_batch
from deblur_deploy.metrics import psnr_db
from deblur_deploy.runtime.runner import open_runner

_CAPTION_HEIGHT = 28


def save_sheets(pairs: Sequence[Pair], original: Artifact, compressed: Artifact, folder: Path) -> None:
    """Restore photographs by two artifacts and write what they look like.

    Each PNG has four panels: blurred and sharp above, restored by the original and by the compressed network below.

    Args:
        pairs: Photographs of the size that both artifacts take.
        original: The network before compression.
        compressed: The network after it.
        folder: Where to write; each sheet has the photograph's name.

    Raises:
        ArtifactError: The folder cannot be written.
        DeblurDeployError: An artifact cannot be run here.
    """
    _make_folder(folder)
    with open_runner(original) as before, open_runner(compressed) as after:
        for pair in pairs:
            batch = to_batch(pair.blurred)
            restored = [from_batch(runner.infer(batch)) for runner in (before, after)]
            scores = [psnr_db(image, pair.sharp) for image in (pair.blurred, *restored)]
            panels = [
                _captioned(pair.blurred, f"blurred, {scores[0]:.2f} dB"),
                _captioned(pair.sharp, "sharp"),
                _captioned(restored[0], f"restored by the original, {scores[1]:.2f} dB"),
                _captioned(restored[1], f"restored by the compressed network, {scores[2]:.2f} dB"),
            ]
            rows = [np.concatenate(panels[start : start + 2], axis=1) for start in (0, 2)]
            # Frames of several sequences have the same names, below folders of their own.
            name = Path(pair.name).with_suffix(".png").as_posix().replace("/", "-")
            save_rgb(folder / name, np.concatenate(rows, axis=0))


def save_before_after(folder: Path, name: str, blurred: NDArray[np.uint8], restored: NDArray[np.uint8]) -> None:
    """Write a blurred photograph with the restored one to its right, as a PNG.

    Args:
        folder: Where to write; made if it is not there.
        name: File name of the photograph, to which ``.png`` is added: two may differ in their suffix alone.
        blurred: (H, W, 3) uint8.
        restored: Same shape.

    Raises:
        ArtifactError: The folder cannot be written.
    """
    _make_folder(folder)
    panels = [_captioned(blurred, f"{name}, blurred"), _captioned(restored, "restored")]
    save_rgb(folder / f"{name}.png", np.concatenate(panels, axis=1))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ArtifactError(f"{folder} cannot be written: {err}", hint="check permissions and free space") from err


def _captioned(image: NDArray[np.uint8], caption: str) -> NDArray[np.uint8]:
    """The image with a line of text below it."""
    height, width = image.shape[:2]
    sheet = Image.new("RGB", (width, height + _CAPTION_HEIGHT), "white")
    sheet.paste(Image.fromarray(image))
    ImageDraw.Draw(sheet).text((8, height + 4), caption, fill="black", font=ImageFont.load_default(size=16))
    return np.asarray(sheet)
