"""Where the weights of an engine are that was built without them: the ONNX file that it was built from."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from deblur_deploy.core.artifact import Artifact, hash_file
from deblur_deploy.core.errors import ArtifactError

FIGURE = "weights_from"
"""Figure of a stripped engine: the places of its ONNX file, in the order in which they are looked at."""


def places_of(onnx_file: Path, engine_directory: Path) -> list[str]:
    """What the manifest says of an ONNX file: its place seen from the engine, which copies keep, and its own."""
    absolute = onnx_file.absolute()
    return [os.path.relpath(absolute, engine_directory.absolute()), str(absolute)]


def find_weights(engine: Artifact) -> Path:
    """The ONNX file that an engine was built from.

    Args:
        engine: An engine that was built without its weights.

    Raises:
        ArtifactError: The file is not where the manifest says, or has been changed.
    """
    told = engine.figures.get(FIGURE)
    places = [engine.directory / str(place) for place in told] if isinstance(told, list) else []
    found = [path for path in places if os.path.isfile(path)]  # noqa: PTH113 - is_file raises where one may not look
    expected = engine.history[-1].parent
    for path in found:
        with suppress(ArtifactError):  # one that cannot be read does not hide the next
            if hash_file(path) == expected:
                return path
    if found:
        raise ArtifactError(
            f"{engine.path} was built without its weights, and {found[0]} is not the file that it was built from",
            hint=f"put that file back there (sha256 {str(expected)[:12]}…), or build the engine again from this one: "
            f"`deblur-deploy export-trt {found[0].parent} --strip-weights`",
        )
    where = str(places[-1]) if places else "the ONNX file, whose place its manifest does not say,"
    raise ArtifactError(
        f"{engine.path} was built without its weights, and {where} with the weights is not there",
        hint="put the ONNX file that it was built from back there, or build it again without --strip-weights",
    )
