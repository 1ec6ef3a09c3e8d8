"""Amounts of memory as users write them, and a gate that keeps the pictures in progress within a budget."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from deblur_deploy.core.errors import ConfigError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_memory(text: str) -> int:
    """Read an amount of memory, such as ``2GB``, ``800 MB`` or ``1.5GiB``, in bytes.

    Raises:
        ConfigError: The text has another form, or is zero.
    """
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([KMG]?I?B|)", text.strip().upper())
    if match is None or match[2] == "IB" or not float(match[1]):
        raise ConfigError(
            f"{text!r} is not an amount of memory", hint="write a number with a unit, such as 2GB or 800MB"
        )
    return int(float(match[1]) * _UNITS[match[2] if match[2] != "B" else ""])


class MemoryGate:
    """Admits pictures as long as they fit into memory together; one that fits with no other is admitted alone.

    Args:
        capacity_bytes: What the pictures inside may take together.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._used = 0
        self._changed = threading.Condition()

    def enter(self, count: int, give_up: Callable[[], bool]) -> bool:
        """Wait until ``count`` bytes fit.

        Args:
            count: Size of the picture in bytes.
            give_up: Polled while waiting.

        Returns:
            Whether the picture was let in; False after ``give_up`` said so.
        """
        with self._changed:
            while self._used and self._used + count > self._capacity:
                if give_up():
                    return False
                self._changed.wait(0.1)
            self._used += count
            return True

    def leave(self, count: int) -> None:
        """Give back what :meth:`enter` took."""
        with self._changed:
            self._used -= count
            self._changed.notify_all()
