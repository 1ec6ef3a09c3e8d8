"""HEIF pictures, at 8, 10 and 12 bits, by pillow-heif."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deblur_deploy.core.curves import icc_gamma
from deblur_deploy.core.errors import ArtifactError, MissingDependencyError
from deblur_deploy.infer.picture import Metadata, Picture, Tones, sound_exif
from deblur_deploy.infer.tones import gamma_tones, transfer_note, transfer_tones

try:
    import pillow_heif
except ModuleNotFoundError as err:
    raise MissingDependencyError("HEIF pictures need pillow_heif", hint="pip install 'deblur-deploy[heif]'") from err

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_CICP = ("color_primaries", "transfer_characteristics", "matrix_coefficients")
_ORIENTATION = 274


def read_heif(path: Path, content: bytes) -> Picture:
    """Decode the picture of a HEIF file, upright as its boxes say.

    Args:
        path: The file, for messages.
        content: Its bytes.

    Raises:
        ArtifactError: It holds several pictures.
    """
    file = pillow_heif.open_heif(io.BytesIO(content), convert_hdr_to_8bit=False, hdr_to_16bit=False)
    if len(file) > 1:
        raise ArtifactError(f"{path} holds {len(file)} pictures", hint="give each one a file of its own")
    image = file[0]
    samples = np.array(image)
    samples = samples[:, :, None] if samples.ndim == 2 else samples
    info: dict[str, Any] = dict(image.info)
    bits = int(info.get("bit_depth", 8))
    white, nclx = 2**bits - 1, info.get("nclx_profile") or {}
    cicp = tuple(int(nclx.get(name, 2)) for name in _CICP)
    profile = info.get("icc_profile") or None
    tones = transfer_tones(cicp[1], white) or gamma_tones(icc_gamma(profile), white)
    if tones is None and bits > 8:
        tones = Tones(0, white)
    notes = [f"not kept: its {what}" for what in _beside(info)]
    notes += [note for note in (transfer_note(cicp[1]),) if note]
    metadata = Metadata(_upright(info.get("exif")), profile, xmp=info.get("xmp") or None, cicp=cicp)  # type: ignore[arg-type]
    return Picture(samples, "HEIF", metadata, bits if bits > 8 else None, tones=tones, notes=tuple(notes))


def _beside(info: dict[str, Any]) -> list[str]:
    """What the file holds besides the picture."""
    found = {"depth_images": "depth map", "aux": "auxiliary pictures", "thumbnails": "thumbnails"}
    return [what for name, what in found.items() if info.get(name)]


def _upright(exif: bytes | None) -> bytes | None:
    """EXIF data without an orientation: decoding has turned the picture."""
    sound, _ = sound_exif(exif)
    if sound is None:
        return None
    block = Image.Exif()
    block.load(sound)
    if block.get(_ORIENTATION, 1) == 1:
        return sound
    block[_ORIENTATION] = 1
    return block.tobytes()


def encode_heif(picture: Picture, metadata: Metadata, quality: int) -> bytes:
    """A HEIF file of 4:4:4 at the picture's depth.

    Args:
        picture: With 8, 10 or 12 bits.
        metadata: What the file says about it.
        quality: 1 to 100.
    """
    samples, bits = np.ascontiguousarray(picture.samples), picture.bits or 8
    height, width, channels = samples.shape
    mode = _MODES[channels] + (f";{bits}" if bits > 8 else "")
    file = pillow_heif.from_bytes(mode, (width, height), samples.tobytes())
    written = {"exif": metadata.exif, "xmp": metadata.xmp, "icc_profile": metadata.icc_profile}
    file[0].info.update({name: value for name, value in written.items() if value})
    options: dict[str, Any] = {"quality": quality, "chroma": 444}
    if metadata.cicp is not None:
        options |= dict(zip(_CICP, metadata.cicp, strict=True))
    content = io.BytesIO()
    file.save(content, **options)
    return content.getvalue()
