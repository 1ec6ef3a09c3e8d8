"""How far a network looks: which pixels of a tile are wrong because the picture was cut there.

The receptive field of a scale-recurrent network spans hundreds of pixels on paper, and nearly all of it hardly counts.
So the reach is measured, on whatever runtime is used: a part of a picture is replaced, and what changes beside it is
looked at. The picture is drawn so that it has strong edges, fine grain and faint shapes, which carry furthest.

A network in INT8 has no such end: a change of a millionth makes some activations round the other way, and the result
moves by a level here and there, however far away. What counts there is what stands out from that noise, in the means of
small blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.images import with_noise
from deblur_deploy.core.process_memory import peak_during
from deblur_deploy.runtime.runner import Runner, fixed_size

Float = NDArray[np.float32]

Index = tuple[slice, slice]
Look = Callable[[Float, Float, Index], Float]
"""What a network makes of a picture (H, W, 3) with a part of it, by rows and columns, taken from another: (3, H, W)."""

TOLERANCE = 0.1 / 255
"""Change that counts as none. Seams stay below 0.5/255 with room for pictures that carry further than the drawn one."""

_NOISE_BLOCK, _NOISE_ROOM = 16, 1.2
"""Side of the blocks whose means are compared with the noise's, and how much larger than its largest they may be."""

PROBE_WIDTH, MEMORY_PROBE = 96, 256

PROBES = (384, PROBE_WIDTH), (1152, PROBE_WIDTH), (2304, 256)
"""Length and width of the pictures, each tried where the one before was too short to tell. The last is wider, too: in a
narrow one, what a deep network sees far away on a coarse scale is drowned by the edges."""

UNKNOWN_BYTES_PER_PIXEL = 4096
"""Assumed where the system does not tell how much memory a process takes; networks of this kind take about 900."""

_ROUND_MARGIN, _ROUND_BYTES = 16, 128
"""Measurements are rounded up to these, so that small differences between two runs do not change the tiles."""


@dataclass(frozen=True)
class ReceptiveField:
    """How far a network looks.

    Args:
        margin: Pixels along a cut edge of a tile in which the result is off; a multiple of 16 with one more 16 as
            reserve, or 0 where nothing is off.
        is_capped: Whether the result is off as far as was looked at: the true reach is larger, and may be the picture.
    """

    margin: int
    is_capped: bool = False


def measure_receptive_field(runner: Runner) -> ReceptiveField:
    """How far a network looks; where a picture is too short to tell, a longer one is taken.

    Args:
        runner: The network; of one that takes a single size, tiles of that size are used.
    """

    def look(picture: Float, other: Float, part: Index) -> Float:
        mixed = picture.copy()
        mixed[part] = other[part]
        restored: Float = runner.infer(as_batch(mixed))[0]
        return restored

    if size := fixed_size(runner.image):
        return _reach_in(look, [(size.height, size.width)])
    return reach_of(look)


def reach_of(look: Look, probes: Sequence[tuple[int, int]] = PROBES, axes: Sequence[int] = (0, 1)) -> ReceptiveField:
    """How far something looks that takes pictures of any size, down (0), across (1), or both."""
    for length, width in probes:
        shapes = {0: (length, width), 1: (width, length)}
        reach = _reach_in(look, [shapes[axis] for axis in axes])
        if not reach.is_capped:
            break
    return reach


def measure_margin(runner: Runner) -> int:
    """The margin alone, as :func:`measure_receptive_field` finds it."""
    return measure_receptive_field(runner).margin


def _reach_in(look: Look, shapes: Sequence[tuple[int, int]]) -> ReceptiveField:
    """The reach in pictures of some shapes, along their longer sides."""
    looks = [(shape, axis) for shape in shapes for axis in (0, 1) if shape[axis] >= max(shape)]
    reach = max(_reach_along(look, shape, axis) for shape, axis in looks)
    is_capped = reach > min(shape[axis] // 2 for shape, axis in looks) - _ROUND_MARGIN
    return ReceptiveField(rounded_margin(reach), is_capped)


def rounded_margin(reach: int) -> int:
    """The margin for a reach in pixels: the next multiple of 16, and one more as reserve."""
    return -(-reach // _ROUND_MARGIN) * _ROUND_MARGIN + _ROUND_MARGIN if reach else 0


def warm_up(runner: Runner) -> None:
    """Have a network that takes any size allocate what it allocates once, on a small picture.

    A runtime that takes memory in regions keeps the first one for ever, which is a small one then.
    """
    runner.infer(as_batch(draw_probe(64, 64)))


def measure_bytes_per_pixel(runner: Runner) -> int:
    """Peak memory of the network per pixel of its input, in bytes, rounded up; for networks that take any size."""
    picture = draw_probe(MEMORY_PROBE, MEMORY_PROBE)
    warm_up(runner)
    growth = peak_during(lambda: runner.infer(as_batch(picture)))
    if growth is None:
        return UNKNOWN_BYTES_PER_PIXEL
    return max(1, -(-growth // MEMORY_PROBE**2 // _ROUND_BYTES)) * _ROUND_BYTES


def _reach_along(look: Look, shape: tuple[int, int], axis: int) -> int:
    """The furthest pixel from a cut across one axis that feels it, on either side of the cut."""
    picture = draw_probe(*shape)
    cut = shape[axis] // 2
    nothing = slice(0), slice(0)
    before = look(picture, picture, nothing)
    noise = np.abs(look(noisy(picture), picture, nothing) - before)
    is_noisy = noise.max() > TOLERANCE
    tolerance = _NOISE_ROOM * float(block_means(noise).max()) if is_noisy else TOLERANCE
    furthest = 0
    for changed, flipped in ((slice(cut, None), True), (slice(None, cut), False)):
        for content in (1 - picture, np.zeros_like(picture)):
            index = (changed, slice(None)) if axis == 0 else (slice(None), changed)
            difference = np.abs(look(picture, content, index) - before)
            if is_noisy:
                along = block_means(difference).max(axis=1 - axis).repeat(min(_NOISE_BLOCK, shape[axis]))
            else:
                along = difference.max(axis=(0, 2 - axis))
            beside = along[:cut][::-1] if flipped else along[cut:]
            furthest = max(furthest, int(np.max(np.nonzero(beside > tolerance)[0], initial=-1)) + 1)
    return furthest


def noisy(picture: Float) -> Float:
    """A picture with noise that no network shows but one that rounds its activations; the same in every run."""
    return with_noise(picture, np.random.default_rng(2))


def block_means(difference: Float) -> Float:
    """Means of a (3, H, W) difference over blocks of 16x16, or fewer in a smaller picture; the rest is in none."""
    tall, wide = (min(_NOISE_BLOCK, length) for length in difference.shape[1:])
    height, width = difference.shape[1] // tall, difference.shape[2] // wide
    whole = difference[:, : height * tall, : width * wide]
    means: Float = whole.reshape(-1, height, tall, width, wide).mean(axis=(0, 2, 4))
    return means


def draw_probe(height: int, width: int) -> Float:
    """The picture that networks are measured on: (height, width, 3) float32 in [0, 1], the same in every run."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    picture = np.stack([0.3 + 0.4 * x / width, 0.4 + 0.2 * y / height, 0.5 - 0.2 * x / width], axis=-1)
    for side, strength in ((64, 0.15), (16, 0.25), (4, 0.1), (1, 0.02)):
        coarse = rng.uniform(-1, 1, (height // side + 1, width // side + 1, 3))
        picture += strength * coarse.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]
    probe: Float = np.clip(picture, 0, 1).astype(np.float32)
    return probe


def as_batch(picture: Float) -> Float:
    """(H, W, 3) to (1, 3, H, W)."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None])
