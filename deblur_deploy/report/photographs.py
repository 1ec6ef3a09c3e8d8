"""Photographs before and after: restored by the original and the compressed network, for a page or as PNG sheets."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from deblur_deploy.core.errors import ArtifactError, DeblurDeployError, VerificationError
from deblur_deploy.core.images import Resolution, from_batch, save_rgb, to_batch
from deblur_deploy.data.pairs import Pair, PairsOnDisk, crop_pair
from deblur_deploy.quality.metrics import psnr_db
from deblur_deploy.report.stages import ORIGINAL, ReportStage
from deblur_deploy.runtime.runner import default_runtime, fixed_size, open_runner, reason_unavailable

MOST = 12
"""How many photographs of a larger set are shown."""
PICTURE_BYTES = 3_300_000
"""Most that all pictures of a page may take, before base64 adds a third: the page stays below 5 MB."""

_LARGEST = Resolution(960, 540)
_QUALITIES = (92, 88, 84, 78, 70)
_THUMBNAIL = (144, 81)

_CAPTION_HEIGHT = 28


@dataclass(frozen=True)
class View:
    """One version of a photograph.

    Args:
        label: ``blurred``, ``sharp``, or the stage that restored it.
        image: (H, W, 3) uint8.
        psnr_db: Against the sharp one; None for the sharp one itself.
    """

    label: str
    image: NDArray[np.uint8]
    psnr_db: float | None


@dataclass(frozen=True)
class Photograph:
    """A photograph in all its versions: blurred, restored by each stage shown, sharp.

    Args:
        name: File name.
        views: In that order.
    """

    name: str
    views: tuple[View, ...]

    @property
    def gain_db(self) -> float:
        """What the first restored version gained over the blurred one; 0 where nothing was restored."""
        blurred, *restored = [view.psnr_db for view in self.views if view.psnr_db is not None]
        return restored[0] - blurred if restored else 0.0


@dataclass(frozen=True)
class Encoded:
    """A photograph for a page.

    Args:
        name: File name.
        views: Label, PSNR in dB or None, and JPEG as a data URI.
        size: Width and height in pixels.
        thumbnail: A small JPEG as a data URI.
    """

    name: str
    views: tuple[tuple[str, float | None, str], ...]
    size: tuple[int, int]
    thumbnail: str


def shown_stages(stages: Sequence[ReportStage]) -> list[ReportStage]:
    """The original and the smallest other stage among those that this machine can run.

    Raises:
        VerificationError: It can run none; the reasons are named.
    """
    reasons = [_unavailable(stage) for stage in stages]
    able = [stage for stage, reason in zip(stages, reasons, strict=True) if reason is None]
    if not able:
        why = "; ".join(sorted({str(reason) for reason in reasons}))
        raise VerificationError(f"no stage can be run here: {why}", hint="pip install 'deblur-deploy[cpu]'")
    originals = [stage for stage in able if stage.label == ORIGINAL][:1]
    sizes = {fixed_size(stage.artifact.image) for stage in originals} | {None}
    others = [
        stage
        for stage in able
        if stage.label != ORIGINAL and (sizes == {None} or fixed_size(stage.artifact.image) in sizes)
    ]
    return [*originals, *sorted(others, key=lambda stage: stage.bytes)[:1]]


def photographs_folder(stages: Sequence[ReportStage]) -> Path | None:
    """The folder that the stages were evaluated on; None is the shipped photographs."""
    for stage in reversed(stages):
        for step in reversed(stage.artifact.history):
            if "evaluation" in step.config:
                return Path(step.config["evaluation"]) if step.config["evaluation"] else None
    return None


def restore_photographs(folder: Path | None, stages: Sequence[ReportStage]) -> Iterator[Photograph]:
    """Restore the first photographs of a folder.

    Args:
        folder: As for :class:`~deblur_deploy.data.pairs.PairsOnDisk`.
        stages: What restores them (see :func:`shown_stages`).

    Raises:
        DeblurDeployError: The folder has no photographs of the stages' size, or a stage cannot be run.
    """
    sizes = [size for stage in stages if (size := fixed_size(stage.artifact.image))]
    with ExitStack() as stack:
        runners = [(stage.label, stack.enter_context(open_runner(stage.artifact))) for stage in stages]
        for pair in itertools.islice(PairsOnDisk(folder), MOST):
            cropped = _cropped(pair, sizes)
            batch = to_batch(cropped.blurred)
            restored = [(label, from_batch(runner.infer(batch))) for label, runner in runners]
            views = [
                View(label, image, psnr_db(image, cropped.sharp))
                for label, image in (("blurred", cropped.blurred), *restored)
            ]
            yield Photograph(pair.name, (*views, View("sharp", cropped.sharp, None)))


def encode_photographs(photographs: Sequence[Photograph], budget: int = PICTURE_BYTES) -> list[Encoded]:
    """Encode photographs in the best JPEG quality that fits; where even the lowest does not, the last are left out.

    Args:
        photographs: What to show.
        budget: Bytes of all JPEG files together.
    """
    kept = list(photographs)
    while kept:
        for quality in _QUALITIES:
            files = [[_jpeg(view.image, quality) for view in photograph.views] for photograph in kept]
            if sum(len(data) for group in files for data in group) <= budget:
                return [_encoded(photograph, group) for photograph, group in zip(kept, files, strict=True)]
        kept.pop()
    return []


def _unavailable(stage: ReportStage) -> str | None:
    try:
        return reason_unavailable(stage.artifact, default_runtime(stage.artifact))
    except DeblurDeployError as err:
        return err.message


def _cropped(pair: Pair, sizes: Sequence[Resolution]) -> Pair:
    """The centre of a pair, at the size that the networks take; where they take any, no larger than a page needs."""
    height, width = pair.sharp.shape[:2]
    smaller = Resolution(min(width, _LARGEST.width), min(height, _LARGEST.height))
    return crop_pair(pair, sizes[0] if sizes else smaller)


def _encoded(photograph: Photograph, files: Sequence[bytes]) -> Encoded:
    sharp = photograph.views[-1].image
    small = Image.fromarray(sharp)
    small.thumbnail(_THUMBNAIL)
    views = tuple(
        (view.label, view.psnr_db, _data_uri(data)) for view, data in zip(photograph.views, files, strict=True)
    )
    return Encoded(
        photograph.name, views, (sharp.shape[1], sharp.shape[0]), _data_uri(_jpeg(np.asarray(small), _QUALITIES[-1]))
    )


def _jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=quality, optimize=True)
    return data.getvalue()


def _data_uri(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


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
    # Frames of several sequences have the same names, each in its sequence's folder.
    path = folder / Path(photograph.name).with_suffix(".png").as_posix().replace("/", "-")
    save_rgb(path, np.concatenate(rows, axis=0))
    return path


def save_before_after(folder: Path, name: str, blurred: NDArray[np.uint8], restored: NDArray[np.uint8]) -> None:
    """Write a blurred photograph with the restored one to its right, as a PNG.

    Args:
        folder: Where to write; made if it is not there.
        name: File name of the photograph, to which ``.png`` is added: two may differ only in their suffix.
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
