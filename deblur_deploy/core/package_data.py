"""Where the files are that the project ships: the generators and the photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from deblur_deploy.core.errors import ArtifactError


def shipped(folder: Literal["models", "calibration"]) -> Path:
    """A data folder that the project ships: in the checkout, else inside the installed package.

    Raises:
        ArtifactError: Neither is there.
    """
    package = Path(__file__).parents[1]
    # Beside an installed package, a folder of that name would be somebody else's.
    checkout = package.parent if (package.parent / "pyproject.toml").is_file() else package
    for root in (checkout, package / "_data"):
        if (root / folder).is_dir():
            return root / folder
    raise ArtifactError(f"the shipped folder {folder!r} is missing", hint="install deblur-deploy again")
