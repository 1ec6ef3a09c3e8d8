"""What the libraries that read and write files raise when a file is not what it says: they promise nothing."""

from __future__ import annotations

import struct
import zlib

BAD_FILE_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""Caught only around calls that hand a user's file to a library, so that one bad file never ends a run over many.

Our own errors are none of these, and pass.
"""
