"""Pictures for people: photographs before and after side by side, as PNG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import save_rgb
from deblur_deploy.report.photographs import Photograph

_CAPTION_HEIGHT = 28


def save_sheet(folder: Path, photograph: Photograph) -> Path:
    """Write all versions of a photograph as one PNG, two in a row: blurred and sharp above, the restored ones below.

    Args:
        folder: Where to write; made if it is not there.
        photograph: What to show; the sheet has its name.

    Returns:
        The path of the sheet.

    Raises:
        ArtifactError: The folder cannot be written.
    """
    make_folder(folder)
    blurred, *restored, sharp = photograph.views
    panels = [
        _captioned(view.image, view.label if view.psnr_db is None else f"{view.label}, {view.psnr_db:.2f} dB")
        for view in (blurred, sharp, *restored)
    ]
    if len(panels) % 2:
        panels.append(np.full_like(panels[0], 255))
    rows = [np.concatenate(panels[start : start + 2], axis=1) for start in range(0, len(panels), 2)]
    # Frames of several sequences have the same names, below folders of their own.
    path = folder / Path(photograph.name).with_suffix(".png").as_posix().replace("/", "-")
    save_rgb(path, np.concatenate(rows, axis=0))
    return path


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
    make_folder(folder)
    panels = [_captioned(blurred, f"{name}, blurred"), _captioned(restored, "restored")]
    save_rgb(folder / f"{name}.png", np.concatenate(panels, axis=1))


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there.

    Raises:
        ArtifactError: It cannot be made.
    """
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
