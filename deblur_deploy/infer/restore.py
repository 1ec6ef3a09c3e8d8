"""A picture through a network: any size, any depth, gray or colour, with or without transparency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import ConfigError, VerificationError
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.process_memory import resident_bytes
from deblur_deploy.infer.planner import IN_FLIGHT_SHARE, Planner
from deblur_deploy.infer.receptive_field import warm_up
from deblur_deploy.infer.scale_plan import ScalePlan
from deblur_deploy.infer.scale_rows import ScaledRows
from deblur_deploy.infer.tiles import TILE_BYTES_PER_PIXEL, TilePlan, TileRows
from deblur_deploy.runtime.abilities import FollowsFilm, KeepsMemory, RunsScales
from deblur_deploy.runtime.runner import Batch, Runner, fixed_size

Float = NDArray[np.float32]
Samples = TypeVar("Samples", NDArray[np.uint8], NDArray[np.uint16], NDArray[np.float32])

DEFAULT_MAX_MEMORY = 2_000_000_000

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
        strength: How much of what the network changes is taken, from 0 for the picture as it was to 1 for all of it.
    """

    max_memory: int = DEFAULT_MAX_MEMORY
    tile: Resolution | None = None
    count_process: bool = True
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.max_memory <= 0:
            raise ConfigError(f"max_memory is {self.max_memory}", hint="give bytes, such as 2000000000")
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"strength is {self.strength:g}", hint="give 0 (as it was) to 1 (as restored)")


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
        self._planner = Planner(runner, config.tile, self.known)
        self._plans: dict[tuple[int, int, int, int], TilePlan | ScalePlan] = {}
        base = 0
        if config.count_process:
            if fixed_size(runner.image) is None:
                warm_up(runner)
            base = -(-(resident_bytes() or _UNKNOWN_BASE_BYTES) // _ROUND_BASE) * _ROUND_BASE
        self._base, self._available = base, config.max_memory - base
        if self._available <= 0:
            raise ConfigError(
                f"the network alone takes {base / 1e6:.0f} MB, and {config.max_memory / 1e6:.0f} MB are allowed",
                hint="give more with --max-memory",
            )
        self._planner.measure_memory()

        self.begin_film()  # what was measured was none

    def begin_film(self) -> None:
        """The next picture follows none, where the network keeps the frame before."""
        if isinstance(self._runner, FollowsFilm):
            self._runner.begin_film()

    @property
    def cuts(self) -> int:
        """How often a film was found to be cut, where the network keeps the frame before."""
        return self._runner.cuts if isinstance(self._runner, FollowsFilm) else 0

    def cut_notes(self, before: int) -> tuple[str, ...]:
        """What is to be said of the cuts that were found since there were ``before`` of them, if any."""
        count = self.cuts - before
        times = "once" if count == 1 else f"{count} times"
        return (f"the film is cut {times}, and the network began anew there",) if count else ()

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
                f"{name} takes {count / 1e6:.0f} MB to decode, and "
                f"{self._available / 1e6:.0f} MB are left beside the network",
                hint=f"give more than {self._enough_for(count) / 1e6:.0f}MB with --max-memory, or save it as PNG or "
                "TIFF, which are restored in parts",
            )

    def _enough_for(self, count: int) -> int:
        """Memory with which a picture that takes so much to decode goes through the network in the smallest tiles."""
        tile = self._planner.smallest_tile_pixels * (self.known.get("bytes_per_pixel", 0) + TILE_BYTES_PER_PIXEL)
        # The next process may be a step larger, and a row of tiles of the picture takes less than decoding it.
        return self._base + _ROUND_BASE + 2 * count + tile

    def make_room(self, held_bytes: int) -> None:
        """Have the network give back what it keeps between inferences, for a picture of more than the usual share.

        Args:
            held_bytes: What the picture will take.
        """
        if held_bytes > self.in_flight_bytes and isinstance(self._runner, KeepsMemory):
            self._runner.give_back_memory()

    @property
    def available_bytes(self) -> int:
        """What pictures and the network's work on them may take together."""
        return self._available

    @property
    def in_flight_bytes(self) -> int:
        """What pictures that wait to be restored or written may take together."""
        return self._available // IN_FLIGHT_SHARE

    @property
    def takes_frames(self) -> bool:
        """Whether the network takes camera frames of 8 bits and nothing deeper."""
        return self._runner.image.dtype == "uint8"

    @property
    def shows_seams(self) -> bool:
        """Whether pictures went through tiles that do not give what the whole picture gives (see :attr:`seams`)."""
        return bool(self.seams)

    @property
    def seams(self) -> str:
        """Why tiles that pictures went through show, with what to do about it; empty where they do not."""
        return self._planner.seams

    def plan(self, width: int, height: int, stored_bytes: int = 3, held_bytes: int = 0) -> TilePlan | ScalePlan:
        """The tiles for a picture.

        Args:
            width: Width of the picture in pixels.
            height: Height of the picture.
            stored_bytes: Bytes of a pixel as it is stored, such as 6 for RGB with 16 bits.
            held_bytes: What else is in memory for the picture while the network works on it, and when it is written.

        Raises:
            ConfigError: The memory does not suffice, or the tiles that were asked for are too small.
        """
        key = width, height, stored_bytes, max(held_bytes, self.in_flight_bytes)  # what takes more is in the gate alone
        if key not in self._plans:
            self._plans[key] = self._new_plan(*key)
        return self._plans[key]

    def _new_plan(self, width: int, height: int, stored_bytes: int, held_bytes: int) -> TilePlan | ScalePlan:
        def enough_for(work: int) -> int:
            # More memory also lets more pictures wait, and they take their share of it.
            return self._base + max(work + held_bytes, work * IN_FLIGHT_SHARE // (IN_FLIGHT_SHARE - 1))

        return self._planner.plan(width, height, stored_bytes, self._available - held_bytes, enough_for)

    def restore(self, samples: Samples) -> Samples:
        """Restore a picture.

        Args:
            samples: (H, W, C) uint8, uint16, or float32 in [0, 1]; C is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA).

        Returns:
            A picture of the same shape and dtype. Alpha is what it was.

        Raises:
            ConfigError: The array is no picture, is deeper than the network's frames, or the memory does not suffice.
            DeblurDeployError: The network failed.
        """
        restored = samples.copy()
        self.restore_in_place(restored)
        return restored

    def restore_in_place(self, samples: NDArray[Any], held_bytes: int = 0) -> int:
        """As :meth:`restore`, written over the picture; returns the number of tiles.

        Args:
            samples: The picture.
            held_bytes: What is in memory for the picture at most, with the steps before and after this one, where that
                is more than a pair of it.
        """
        _check(samples)
        height, width = samples.shape[:2]
        plan = self.plan(width, height, samples.shape[2] * samples.itemsize, max(held_bytes, 2 * samples.nbytes))
        restore, top = self.begin_rows(plan, samples.dtype), 0
        for start in range(0, height, plan.tile_height):
            for rows in restore(samples[start : start + plan.tile_height]):
                samples[top : top + len(rows)] = rows
                top += len(rows)
        return plan.tiles

    def begin_rows(
        self, plan: TilePlan | ScalePlan, dtype: np.dtype[Any]
    ) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
        """A picture that is given row by row.

        Args:
            plan: Its tiles.
            dtype: Of its samples.

        Returns:
            A function to be given the next rows, (n, W, C), which returns those that are finished, (m, W, C), in order
            and each once; many calls return none.

        Raises:
            ConfigError: The picture is deeper than the network's frames.
        """
        if self._runner.image.dtype == "uint8" and dtype != np.uint8:
            raise ConfigError(
                f"the network takes 8-bit frames, and a picture of {dtype} would lose its depth",
                hint="use the checkpoint, or export it with --io float",
            )
        white = np.float32(_CODES[dtype])
        tiles = self._tiles(plan, white)

        def restore(rows: NDArray[Any]) -> list[NDArray[Any]]:
            finished = []
            for blended, given in tiles.feed(rows):
                restored = given.copy()
                if _is_gray(given):
                    blended = blended.mean(axis=2, keepdims=True)
                restored[:, :, : blended.shape[2]] = _quantize(blended, dtype)
                finished.append(restored)
            return finished

        return restore

    def _tiles(self, plan: TilePlan | ScalePlan, white: np.float32) -> TileRows | ScaledRows:
        if isinstance(plan, ScalePlan):
            assert isinstance(self._runner, RunsScales)
            return ScaledRows(plan, self._runner, lambda tile: _as_batch(tile, white), self._result)
        return TileRows(plan, lambda tile, place: self._restore_tile(tile, white))

    def _restore_tile(self, tile: NDArray[Any], white: np.float32) -> Float:
        """(h, w, C) as stored to (h, w, 3) in [0, 1]."""
        batch = _as_batch(tile, white)
        return self._result(batch, self._runner.infer(batch))

    def _result(self, batch: Batch, output: Batch) -> Float:
        """What is taken of the network's output: (h, w, 3)."""
        restored: Float = output[0].transpose(1, 2, 0)
        if not np.isfinite(restored).all():
            raise VerificationError(
                f"the network gives NaN or infinite values on {self._runner.name}, and no picture can be written",
                hint="`deblur-deploy verify CHECKPOINT ARTIFACT` says how to find the layer; where types are to blame, "
                "build again with export-trt --keep-fp32, --bf16 or --fp32",
            )
        if self._config.strength != 1:
            given = batch[0].transpose(1, 2, 0)
            restored = given + np.float32(self._config.strength) * (restored - given)
        return restored


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
        DeblurDeployError: The network failed.
    """
    deep = image[:, :, None] if image.ndim == 2 else image
    known = _MEASURED.setdefault(runner, {})
    restored = Restorer(runner, RestoreConfig(max_memory, count_process=False), known).restore(deep)
    return cast(Samples, restored.reshape(image.shape))


def _is_gray(samples: NDArray[Any]) -> bool:
    return bool(samples.shape[2] < 3)


def _as_batch(tile: NDArray[Any], white: np.float32) -> Batch:
    """(h, w, C) as stored to (1, 3, h, w) in [0, 1]; gray three times, without what is not colour."""
    colors = 1 if _is_gray(tile) else 3
    batch = np.empty((1, 3, *tile.shape[:2]), np.float32)
    np.divide(tile[:, :, :colors].transpose(2, 0, 1), white, out=batch[0], dtype=np.float32)
    return batch


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
