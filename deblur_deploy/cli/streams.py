"""Printing to terminals and logs whose encoding lacks characters that tables and file names have."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

_ERRORS = "deblur-deploy-plain"

_PLAIN = {"–": "-", "−": "-", "─": "-", "…": "...", "→": "->", "∞": "inf", "│": "|"} | dict.fromkeys("┬├┴┐┤└", "+")
"""What stands for characters of our own where the encoding lacks them."""


def print_what_cannot_be_encoded() -> None:
    """Write a plain stand-in for a character that the encoding of stdout or stderr lacks, where Python would raise.

    The bytes of a file name that is not text in the system's encoding are written as they are.
    """
    codecs.register_error(_ERRORS, _plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _plainly(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_stand_in, error.object[error.start : error.end])), error.end


def _stand_in(character: str) -> bytes:
    if "\udc80" <= character <= "\udcff":  # a byte that Python could not decode
        return bytes([ord(character) - 0xDC00])
    plain = _PLAIN.get(character) or unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return (plain or "?").encode("ascii")
