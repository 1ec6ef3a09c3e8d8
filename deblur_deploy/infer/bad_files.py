"""What libraries raise for files that are not what they claim to be; none of them documents a list."""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from deblur_deploy.core import formats
from deblur_deploy.core.errors import ArtifactError, DeblurDeployError
from deblur_deploy.core.images import MAX_PIXELS

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
"""Caught only around calls that hand a user's file to a library, so that one bad file does not end a run over many.

Our own errors are not among these, and pass through.
"""


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """A context that turns what libraries raise while they read a picture into our own errors.

    Raises:
        ArtifactError: The file is missing, is not an image, or is damaged.
    """
    try:
        yield
    except FileNotFoundError as err:
        raise ArtifactError(f"there is no file {path}", hint="check the path") from err
    except UnidentifiedImageError as err:
        raise not_an_image(path) from err
    except Image.DecompressionBombError as err:
        raise too_large(path, str(err)) from err
    except PermissionError as err:
        raise ArtifactError(f"{path} cannot be read: {err.strerror}", hint="check its permissions") from err
    except BAD_FILE_ERRORS as err:
        raise ArtifactError(
            f"{path} cannot be read: {err}", hint="the file is cut off or damaged; copy it again"
        ) from err


def quiet_libraries() -> AbstractContextManager[object]:
    """A context that silences the libraries' warnings of single damaged values."""
    return warnings.catch_warnings(action="ignore")


def not_an_image(path: Path) -> ArtifactError:
    """The error for a file that no reader knows; it names the format where that is a known one."""
    if path.suffix.lower() in formats.REFUSED:
        kind, hint = formats.REFUSED[path.suffix.lower()]
        return ArtifactError(f"{path} is {kind}, which is not supported", hint=hint)
    return ArtifactError(f"{path} is not an image", hint=f"give {formats.names()} files")


def too_large(path: Path, size: str) -> ArtifactError:
    """The error for a picture with more than :data:`MAX_PIXELS`."""
    limit = f"pictures may have up to {MAX_PIXELS / 1e6:.0f} megapixels; cut this one into parts"
    return ArtifactError(f"{path} has absurd dimensions: {size}", hint=limit)


def as_own_error(err: Exception, source: Path) -> DeblurDeployError:
    """Our own errors as they are; any other as one that names its file, so that it does not end a run over many.

    Args:
        err: What was raised while a file was read, restored or written.
        source: The file.
    """
    if source.is_file() and source.stat().st_size == 0:
        return ArtifactError(f"{source} is empty", hint="copy it again")
    if isinstance(err, DeblurDeployError):
        return err
    _LOG.debug("%s", source, exc_info=err)
    what = " ".join(str(err).split()) or "no more is known"
    error = ArtifactError(
        f"{source} cannot be restored: {type(err).__name__}: {what}", hint="check that other programs open the file"
    )
    error.__cause__ = err
    return error
