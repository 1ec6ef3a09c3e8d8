"""What the libraries that read and write files raise when a file is not what it says: they promise nothing."""

from __future__ import annotations

import logging
import struct
import zlib
from pathlib import Path

from deblur_deploy.core.errors import ArtifactError, DeblurDeployError

_LOG = logging.getLogger(__name__)

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


def as_own_error(err: Exception, source: Path) -> DeblurDeployError:
    """Our own errors as they are; any other as the line of its file, so that it never ends a run over many.

    Args:
        err: What was raised while a file was read, restored or written.
        source: The file.
    """
    if isinstance(err, DeblurDeployError):
        return err
    _LOG.debug("%s", source, exc_info=err)
    what = " ".join(str(err).split()) or "no more is known"
    error = ArtifactError(
        f"{source} cannot be restored: {type(err).__name__}: {what}", hint="check that other programs open the file"
    )
    error.__cause__ = err
    return error
