"""Figures with their units, as people read them."""

from __future__ import annotations


def format_bytes(count: int) -> str:
    """Bytes in powers of 1000: ``3.54 MB``."""
    return f"{count / 1e6:.2f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def format_ms(milliseconds: float) -> str:
    """Milliseconds with as many digits as they are good for: ``79 ms``, ``7.9 ms``."""
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def one_line(text: str) -> str:
    """A text as one line that a terminal can show: whatever would move it, or cannot be printed, is escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
