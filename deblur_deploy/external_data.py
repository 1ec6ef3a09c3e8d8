"""ONNX files that keep weights in other files: no part of an artifact, whose payload is one file with one hash."""

from __future__ import annotations

from pathlib import Path

from deblur_deploy.errors import ArtifactError

_LOCATION = b"\n\x08location\x12"
"""The entry of ``TensorProto.external_data`` that names the file, as protobuf encodes it (onnx.proto)."""


def refuse_external_data(path: Path) -> None:
    """Refuse an ONNX file that would make its reader open other files. Nothing is parsed, no library is needed.

    Raises:
        ArtifactError: It names another file for its weights, or cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as err:
        raise ArtifactError(f"{path} cannot be read: {err}", hint="check its permissions") from err
    start = data.find(_LOCATION)
    if start >= 0:
        length, rest = data[start + len(_LOCATION) :][:1], data[start + len(_LOCATION) + 1 :]
        name = rest[: int.from_bytes(length)].decode(errors="replace")  # to 127 bytes; the length of more has two
        raise ArtifactError(
            f"{path} keeps weights in another file, {name!r}, which no hash covers",
            hint="save the network as one file: onnx.save(onnx.load(path), path, save_as_external_data=False)",
        )
