"""Tables, and text from elsewhere, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence


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
