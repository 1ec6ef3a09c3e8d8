"""A picture through a network: any size, any depth, gray or colour, with or without transparency."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.errors import ConfigError
from deblur_deploy.images import Resolution
from deblur_deploy.infer.reach import measure_bytes_per_pixel, measure_margin
from deblur_deploy.infer.tiles import TileNeeds, TilePlan, largest_margin, plan_tiles, restore_rows, whole_bytes
from deblur_deploy.process_memory import resident_bytes
from deblur_deploy.runtime.runner import Runner, fixed_size

Float = NDArray[np.float32]
Samples = TypeVar("Samples", NDArray[np.uint8], NDArray[np.uint16], NDArray[np.float32])

DEFAULT_MAX_MEMORY = 2_000_000_000
_MOST_CHANNELS = 4
_IN_FLIGHT_SHARE = 4
"""The part of the memory, as a divisor, for pictures that wait to be restored or written."""

_UNKNOWN_BASE_BYTES, _ROUND_BASE = 600_000_000, 128_000_000
"""Size of the process before its first picture, where the system does not say, and what it is rounded up to."""

_CODES: dict[np.dtype[Any], int] = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.float32): 1}
"""White in every kind of sample."""


@dataclass(frozen=True)
class RestoreConfig:
    """How pictures go through a network.

    Args:
        max_memory: What the process may take, in bytes.
        tile: Size of tiles, instead of what the memory allows.
        count_process: Whether the memory is that of the whole process, or what comes on top of its present size.
    """

    max_memory: int = DEFAULT_MAX_MEMORY
    tile: Resolution | None = None
    count_process: bool = True

    def __post_init__(self) -> None:
        if self.max_memory <= 0:
            raise ConfigError(f"max_memory is {self.max_memory}", hint="give bytes, such as 2000000000")


_MEASURED: WeakKeyDictionary[Runner, dict[str, int]] = WeakKeyDictionary()
"""What :func:`deblur` has measured, for as long as the network is open."""


class Restorer:
    """A network with what is known about running it on pictures of any size.

    Its memory is measured here and not at the first picture, while other threads decode and would be measured with it.

    Args:
        runner: The network.
        config: Memory and tiles.
        known: Measurements that were made before: ``margin`` and ``bytes_per_pixel``. New ones are added to it.
    """

    def __init__(
        self, runner: Runner, config: RestoreConfig = RestoreConfig(), known: dict[str, int] | None = None
    ) -> None:
        self._runner = runner
        self._config = config
        self.known: dict[str, int] = {} if known is None else known
        self._plans: dict[tuple[int, int, int], TilePlan] = {}
        base = 0
        if config.count_process:
            base = -(-(resident_bytes() or _UNKNOWN_BASE_BYTES) // _ROUND_BASE) * _ROUND_BASE
        self._available = config.max_memory - base
        if self._available <= 0:
            raise ConfigError(
                f"the network alone takes {base / 1e6:.0f} MB, and {config.max_memory / 1e6:.0f} MB are allowed",
                hint="give more with --max-memory",
            )
        if fixed_size(runner.image) is None and config.tile is None:
            self._measured("bytes_per_pixel", measure_bytes_per_pixel)

    def require(self, count: int, name: str) -> None:
        """Refuse a file that takes more memory than there is before a single pixel went through the network.

        Args:
            count: What decoding it takes at its peak, in bytes.
            name: The file.

        Raises:
            ConfigError: There is less.
        """
        if count > self._available:
            raise ConfigError(
                f"{name} takes {count / 1e6:.0f} MB to decode, and {self._available / 1e6:.0f} MB are left beside the "
                "network",
                hint="give more with --max-memory, or cut it into parts",
            )

    @property
    def available_bytes(self) -> int:
        """What pictures and the network's work on them may take together."""
        return self._available

    @property
    def in_flight_bytes(self) -> int:
        """What pictures that wait to be restored or written may take together."""
        return self._available // _IN_FLIGHT_SHARE

    @property
    def shows_seams(self) -> bool:
        """Whether pictures went through tiles of a fixed size that is too small for the network's reach."""
        size = fixed_size(self._runner.image)
        return size is not None and self.known.get("margin", 0) > self._margin_that_fits(size)

    def plan(self, width: int, height: int, sample_bytes: int = 1) -> TilePlan:
        """The tiles for a picture.

        Args:
            width: Width of the picture in pixels.
            height: Height of the picture.
            sample_bytes: Bytes of one sample, such as 2 for 16 bits.

        Raises:
            ConfigError: The memory does not suffice, or the tiles that were asked for are too small.
        """
        key = width, height, sample_bytes
        if key not in self._plans:
            self._plans[key] = self._new_plan(*key)
        return self._plans[key]

    def _new_plan(self, width: int, height: int, sample_bytes: int) -> TilePlan:
        multiple, size = self._runner.image.multiple_of, fixed_size(self._runner.image)
        tile = size or self._config.tile
        if tile is not None:
            fits = width <= tile.width and height <= tile.height
            margin = 0 if fits else self._measured("margin", measure_margin)
            if size is not None:
                margin = min(margin, self._margin_that_fits(size))
            return TilePlan(width, height, tile.width, tile.height, margin, multiple, fixed=size is not None)
        per_pixel = self.known["bytes_per_pixel"]
        held = width * height * _MOST_CHANNELS * sample_bytes
        budget = self._available - max(self.in_flight_bytes, held)  # a larger one is in the gate alone
        if whole_bytes(width, height, per_pixel) <= budget:
            return TilePlan(width, height, width, height, 0, multiple)
        needs = TileNeeds(self._measured("margin", measure_margin), multiple, per_pixel)
        return plan_tiles(width, height, needs, budget)

    def _margin_that_fits(self, size: Resolution) -> int:
        return largest_margin(min(size.width, size.height), self._runner.image.multiple_of)

    def restore(self, samples: Samples) -> Samples:
        """Restore a picture.

        Args:
            samples: (H, W, C) uint8, uint16, or float32 in [0, 1]; C is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA).

        Returns:
            A picture of the same shape and dtype. Alpha is what it was.

        Raises:
            ConfigError: The array is no picture, is deeper than the network's frames, or the memory does not suffice.
            DeblurDeployError: The network gave up.
        """
        restored = samples.copy()
        self.restore_in_place(restored)
        return restored

    def restore_in_place(self, samples: NDArray[Any]) -> int:
        """As :meth:`restore`, written over the picture; returns the number of tiles."""
        _check(samples)
        if self._runner.image.dtype == "uint8" and samples.dtype != np.uint8:
            raise ConfigError(
                f"the network takes 8-bit frames, and a picture of {samples.dtype} would lose its depth",
                hint="use the checkpoint, or export it with --io float",
            )
        height, width = samples.shape[:2]
        plan = self.plan(width, height, samples.itemsize)
        for top, rows in self._finished_rows(samples, plan):
            colors = slice(0, rows.shape[2])
            samples[top : top + len(rows), :, colors] = _quantize(rows, samples.dtype)
            del rows  # before the next ones are made
        return plan.tiles

    def _finished_rows(self, samples: NDArray[Any], plan: TilePlan) -> Iterator[tuple[int, Float]]:
        colors = 1 if samples.shape[2] < 3 else 3
        white = np.float32(_CODES[samples.dtype])

        def read(start: int, stop: int) -> Float:
            return cast(Float, np.divide(samples[start:stop, :, :colors], white, dtype=np.float32))

        return restore_rows(read, self._restore_tile, plan)

    def _restore_tile(self, tile: Float) -> Float:
        """(h, w, 1 or 3) in [0, 1] to the same shape."""
        gray = tile.shape[2] == 1
        colors = np.broadcast_to(tile, (*tile.shape[:2], 3))
        batch = np.array(colors.transpose(2, 0, 1)[None], order="C")  # a copy: torch takes no read-only array
        restored = self._runner.infer(batch)[0].transpose(1, 2, 0)
        return cast(Float, restored.mean(axis=2, keepdims=True)) if gray else restored

    def _measured(self, name: str, measure: Callable[[Runner], int]) -> int:
        if name not in self.known:
            self.known[name] = measure(self._runner)
        return self.known[name]


def deblur(runner: Runner, image: Samples, max_memory: int = DEFAULT_MAX_MEMORY) -> Samples:
    """Deblur one picture.

    Args:
        runner: An open network (see :func:`deblur_deploy.open_runner`).
        image: (H, W) or (H, W, C), C from 1 to 4; uint8, uint16, or float32 in [0, 1]; sRGB. Any size.
        max_memory: What this may take on top of the process's present size, in bytes; larger pictures go through the
            network in tiles.

    Returns:
        A picture of the same shape and dtype. A fourth or second channel, which is alpha, is what it was.

    Raises:
        ConfigError: The array is no picture, or the memory does not suffice.
        DeblurDeployError: The network gave up.
    """
    deep = image[:, :, None] if image.ndim == 2 else image
    known = _MEASURED.setdefault(runner, {})
    restored = Restorer(runner, RestoreConfig(max_memory, count_process=False), known).restore(deep)
    return cast(Samples, restored.reshape(image.shape))


def _check(samples: NDArray[Any]) -> None:
    if samples.ndim != 3 or not 1 <= samples.shape[2] <= 4 or 0 in samples.shape or samples.dtype not in _CODES:
        raise ConfigError(
            f"an array of shape {samples.shape} and dtype {samples.dtype} is no picture",
            hint="give (H, W) or (H, W, C) with 1 to 4 channels, uint8, uint16, or float32 in [0, 1]",
        )


def _quantize(rows: Float, dtype: np.dtype[Any]) -> Float:
    """Values of a depth from [0, 1], in place: clipped, and rounded where they are whole numbers."""
    np.clip(rows, 0, 1, out=rows)
    if dtype != np.float32:
        rows *= np.float32(_CODES[dtype])
        np.rint(rows, out=rows)
    return rows
