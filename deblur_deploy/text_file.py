"""Text files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from deblur_deploy.errors import ArtifactError


def write_text(path: Path, text: str) -> None:
    """Write a file and the folders above it; what is no regular file, such as a pipe, is written to as it is.

    Raises:
        ArtifactError: It cannot be written; an older file stays.
    """
    staging: Path | None = None
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        target = path.resolve()  # a link stays one
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:80]}.", dir=target.parent)
        staging = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        staging.chmod(0o644)
        staging.replace(target)
        staging = None
    except OSError as err:
        raise ArtifactError(f"{path} cannot be written: {err}", hint="check permissions and free space") from err
    finally:
        if staging is not None:
            staging.unlink(missing_ok=True)
