"""Figures with their units, and tables and foreign text in Markdown, as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence


def format_bytes(count: int) -> str:
    """Bytes in powers of 1000: ``3.54 MB``."""
    return f"{count / 1e6:.2f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def format_ms(milliseconds: float) -> str:
    """Milliseconds with as many digits as they are good for: ``79 ms``, ``7.9 ms``."""
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def one_line(text: str) -> str:
    """A text as one line that a terminal can show: whatever would move it, or cannot be printed, is escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a table.

    Args:
        headings: One for each column.
        rows: Cells as text; they are escaped.
    """
    return markup_table([escape(heading) for heading in headings], ([escape(cell) for cell in row] for row in rows))


def markup_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The same of cells that are Markdown already, with links and bold words."""
    yield f"| {' | '.join(headings)} |"
    yield "|" + "---|" * len(headings)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no table cell, link, picture, code or HTML begins in it."""
    plain = " ".join(text.split())
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", plain)
