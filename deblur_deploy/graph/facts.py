"""Facts in an exported file's ONNX metadata, for programs that get the file without its manifest.

Every value is text under a key that starts with ``deblur_deploy.``; anything longer than a word is JSON. A file may
come from anywhere, so everything that is read is checked.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from deblur_deploy.core.artifact import Artifact, library_versions
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.core.tables import from_table

PREFIX = "deblur_deploy."
FORMAT = "1"

_MAX_CHARACTERS, _MAX_SIDE, _MAX_VERSIONS = 65_536, 65_536, 64
_PAIRINGS = (("NCHW", "float32", (0.0, 1.0)), ("NHWC", "uint8", (0.0, 255.0)))
"""Layout, type and range of files that this package writes."""


@dataclass(frozen=True)
class OnnxFacts:
    """The facts in a file.

    Args:
        source_sha256: Hash of the payload that it was made from.
        network: Name of the architecture, such as ``srn``.
        image: What the graph takes and gives.
        versions: Versions of the libraries that wrote it.
    """

    source_sha256: str
    network: str
    image: ImageSpec
    versions: dict[str, str]


def write_facts(model: onnx.ModelProto, source: Artifact, image: ImageSpec) -> None:
    """Set a model's metadata, in place; what it had is replaced.

    Args:
        model: The model.
        source: What it was made from.
        image: What the graph takes and gives.
    """
    facts = {
        "format": FORMAT,
        "source_sha256": source.sha256,
        "network": source.network.arch,
        "image": json.dumps(dataclasses.asdict(image), sort_keys=True),
        "versions": json.dumps(library_versions(), sort_keys=True),
    }
    helper.set_model_props(model, {f"{PREFIX}{key}": value for key, value in facts.items()})


def read_facts(model: onnx.ModelProto) -> OnnxFacts:
    """Read a model's metadata.

    Raises:
        ArtifactError: It is missing, or anything in it is not as :func:`write_facts` writes it.
    """
    return parse_facts((item.key, item.value) for item in model.metadata_props)


def parse_facts(properties: Iterable[tuple[str, str]]) -> OnnxFacts:
    """As :func:`read_facts`, from keys and values; keys of other programs are ignored."""
    found: dict[str, str] = {}
    for key, value in properties:
        if key.startswith(PREFIX):
            name = key.removeprefix(PREFIX)
            _require(name not in found, f"{_quoted(key)} stands in it twice")
            _require(len(value) <= _MAX_CHARACTERS, f"{_quoted(key)} has {len(value)} characters")
            found[name] = value
    for name in ("format", "source_sha256", "network", "image", "versions"):
        _require(name in found, f"it has no {PREFIX}{name}")
    _require(found["format"] == FORMAT, f"its format is {_quoted(found['format'])}, and {FORMAT} is read")
    _require(
        re.fullmatch("[0-9a-f]{64}", found["source_sha256"]) is not None,
        f"{_quoted(found['source_sha256'])} is not a hash",
    )
    _require(0 < len(found["network"]) <= 200 and found["network"].isprintable(), "it names no network")
    return OnnxFacts(found["source_sha256"], found["network"], _image(found["image"]), _versions(found["versions"]))


def _image(text: str) -> ImageSpec:
    table = _table(text, "image")
    try:
        image = from_table(ImageSpec, table, "image")
    except (ConfigError, TypeError, OverflowError) as err:
        raise _malformed(f"its image is not an ImageSpec: {_quoted(str(err))}") from err
    known = (image.layout, image.dtype, image.value_range) in _PAIRINGS and image.channels == 3
    _require(known, "its image has a layout, type and range that do not belong together")
    _require((image.height is None) == (image.width is None), "its image fixes one side and not the other")
    sides = (image.height, image.width, image.multiple_of)
    _require(all(side is None or 1 <= side <= _MAX_SIDE for side in sides), "its image has an impossible size")
    return image


def _versions(text: str) -> dict[str, str]:
    versions = _table(text, "versions")
    _require(len(versions) <= _MAX_VERSIONS, f"it has versions of {len(versions)} libraries")
    for name, version in versions.items():
        plain = isinstance(version, str) and len(name) + len(version) <= 200 and f"{name}{version}".isprintable()
        _require(plain, f"the version of {_quoted(name)} is not plain text")
    return dict(versions)


def _table(text: str, name: str) -> Mapping[str, Any]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise _malformed(f"its {name} is not JSON") from err
    _require(isinstance(table, dict), f"its {name} is not a table")
    return table  # type: ignore[no-any-return]


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise _malformed(what)


def _malformed(what: str) -> ArtifactError:
    return ArtifactError(
        f"the metadata of the ONNX file cannot be used: {what}",
        hint="export the file again: `deblur-deploy export-onnx`",
    )


def _quoted(text: str) -> str:
    """Foreign text in one short line."""
    return repr(text if len(text) <= 80 else f"{text[:80]}…")
