"""One file from source to target: a picture, a video or a DICOM file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from deblur_deploy.core.artifact import hash_file
from deblur_deploy.infer.encode import write_picture
from deblur_deploy.infer.jobs import Job
from deblur_deploy.infer.read import decoding_bytes, read_picture
from deblur_deploy.infer.restore import Restorer
from deblur_deploy.infer.settings import InferConfig
from deblur_deploy.infer.streaming import is_large, open_streaming, restore_streaming
from deblur_deploy.infer.tones import restore_picture


@dataclass(frozen=True)
class Restored:
    """What was done for one file.

    Args:
        input_hash: sha256 of the file as it was read.
        frames: Pictures restored.
        tiles: Tiles of one picture; 0 where there are several.
        notes: What of the file could not be kept, or was changed, one sentence each.
        ended_early: How the file ended before its declared end, such as "ends early: ...", or None.
    """

    input_hash: str
    frames: int = 1
    tiles: int = 0
    notes: tuple[str, ...] = ()
    ended_early: str | None = None


def restore_file(
    job: Job, restorer: Restorer, config: InferConfig, tick: Callable[[int, int | None], None] = lambda count, of: None
) -> Restored:
    """Restore one file; its result appears whole or not at all.

    Args:
        job: The file.
        restorer: The network.
        config: How.
        tick: Called after every frame of a video with the number restored, and the total where the file declares it.

    Raises:
        DeblurDeployError: The file is bad, or the memory does not suffice.
    """
    restored = _restore(job, restorer, config, tick)
    keep_dates(job)
    return restored


def keep_dates(job: Job) -> None:
    """Give a result the dates of its source, by which albums sort; file systems that refuse them are ignored."""
    with contextlib.suppress(OSError):
        status = job.source.stat()
        os.utime(job.target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _restore(job: Job, restorer: Restorer, config: InferConfig, tick: Callable[[int, int | None], None]) -> Restored:
    input_hash = hash_file(job.source)
    if job.kind == "video":
        from deblur_deploy.infer.video import restore_video

        film = restore_video(job.source, job.target, restorer, config.video, tick)
        return Restored(input_hash, film.frames, notes=film.notes, ended_early=film.ended_early)
    if job.kind == "dicom":
        from deblur_deploy.infer.dicom import restore_dicom

        frames, notes = restore_dicom(job.source, job.target, restorer, config.dicom)
        return Restored(input_hash, frames, notes=notes)
    needed = decoding_bytes(job.source, config.encode.format)
    if is_large(needed, restorer) and (reader := open_streaming(job.source, config.encode.format)):
        return Restored(input_hash, 1, *restore_streaming(reader, job.target, config.encode.format, restorer))
    restorer.require(needed, str(job.source))
    restorer.make_room(needed)
    picture = read_picture(job.source, cut_off=config.keep_going)
    tiles, notes = restore_picture(restorer, picture, needed)
    return Restored(input_hash, 1, tiles, (*picture.notes, *notes, *write_picture(job.target, picture, config.encode)))
