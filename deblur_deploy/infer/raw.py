"""Raw frames from one stream to another, for pipelines: packed 8-bit RGB, row by row, nothing between frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import Resolution
from deblur_deploy.infer.overlap import overlap
from deblur_deploy.infer.restore import Restorer

_CHANNELS = 3


def restore_raw(
    source: BinaryIO, sink: BinaryIO, size: Resolution, restorer: Restorer, tick: Callable[[int], None]
) -> int:
    """Restore frames until the source ends.

    Args:
        source: Gives frames of height x width x 3 bytes (FFmpeg's ``rgb24``).
        sink: Takes the restored frames, in the same form.
        size: Size of the frames.
        restorer: The network.
        tick: Called after every frame with the number restored.

    Returns:
        Number of frames.

    Raises:
        ArtifactError: The source ends within a frame, or the sink does not take any more.
        DeblurDeployError: The network failed.
    """
    count = 0
    restorer.begin_film()

    def restore(frame: NDArray[np.uint8]) -> bytes:
        nonlocal count
        restorer.restore_in_place(frame)
        count += 1
        tick(count)
        return frame.tobytes()

    def write(frame: bytes) -> None:
        try:
            sink.write(frame)
            sink.flush()
        except OSError as err:
            raise ArtifactError(f"the output was closed: {err}", hint="check the program that reads it") from err

    overlap(_read_frames(source, size), restore, write)
    return count


def _read_frames(source: BinaryIO, size: Resolution) -> Iterator[NDArray[np.uint8]]:
    length, index = size.width * size.height * _CHANNELS, 0
    while data := _read_exactly(source, length):
        if len(data) < length:
            raise ArtifactError(
                f"the input ends within frame {index}, after {len(data)} of {length} bytes",
                hint=f"check that frames are rgb24 of {size}",
            )
        yield np.frombuffer(data, np.uint8).reshape(size.height, size.width, _CHANNELS).copy()
        index += 1


def _read_exactly(source: BinaryIO, length: int) -> bytes:
    """Up to ``length`` bytes, fewer only at the end: pipes give what they have."""
    data = bytearray()
    while len(data) < length and (part := source.read(length - len(data))):
        data += part
    return bytes(data)
