"""Reading TensorFlow's checkpoints (format V2: an index file and data files that share a prefix)."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from deblur_deploy.core.errors import ArtifactError, MissingDependencyError, first_line

_PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
"""Ends of the files that belong to one checkpoint."""

_NEEDED = {"index": "index", "data": "data-00000-of-*"}
"""The files that hold the weights, by their names in messages, and their suffixes."""


def is_tensorflow_checkpoint(path: Path) -> bool:
    """Whether a path is the prefix of a checkpoint of TensorFlow, complete or not, or one of its files."""
    return any(_files(path, end) for end in _NEEDED.values())


def read_tensorflow_checkpoint(path: Path) -> dict[str, NDArray[Any]]:
    """All variables of a checkpoint.

    Args:
        path: The checkpoint's prefix, such as ``deblur.model-523000``, or any file of it.

    Returns:
        Names to arrays as they were saved, the optimizer's slots among them.

    Raises:
        ArtifactError: A file of the checkpoint is missing or damaged.
        MissingDependencyError: TensorFlow is not installed.
    """
    prefix = _prefix(path)
    if not _files(path, "*"):
        raise ArtifactError(
            f"there is no TensorFlow checkpoint {prefix}", hint="give its prefix, such as deblur.model-523000"
        )
    for kind, end in _NEEDED.items():
        if not _files(path, end):
            raise ArtifactError(
                f"the TensorFlow checkpoint {prefix} lacks its {kind} file",
                hint=f"put {prefix.name}.index and {prefix.name}.data-00000-of-00001 into one folder",
            )
    tensorflow = _tensorflow()
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tensorflow.errors.OpError, ValueError, RuntimeError) as err:
        raise ArtifactError(
            f"the TensorFlow checkpoint {prefix} cannot be read: {first_line(err)}",
            hint="one of its files is cut off or damaged; copy it again",
        ) from err


def _prefix(path: Path) -> Path:
    """The common prefix of the names of a checkpoint's files."""
    return path.with_name(_PART.sub("", path.name))


def _files(path: Path, end: str) -> list[Path]:
    """Files of the checkpoint that a path names whose names end so."""
    if not _PART.sub("", path.name):
        return []  # the current folder, the root, or nothing but an end
    prefix = _prefix(path)
    return list(prefix.parent.glob(f"{glob.escape(prefix.name)}.{end}"))


def _tensorflow() -> ModuleType:
    try:
        import tensorflow
    except ImportError as err:
        raise MissingDependencyError(
            f"reading a TensorFlow checkpoint needs TensorFlow: {err}", hint="pip install 'deblur-deploy[tf]'"
        ) from err
    return tensorflow  # type: ignore[no-any-return]
