"""ONNX files that keep weights in other files: no part of an artifact, whose payload is one file with one hash."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from deblur_deploy.core.errors import ArtifactError

_Fields = Mapping[int, str]

_MESSAGES: Mapping[str, _Fields] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}
"""By message, the numbers of the fields that lead to tensors, and to what names a tensor's file (onnx.proto)."""

_DATA_LOCATION, _EXTERNAL = 14, 1
_KEY, _VALUE = 1, 2
_FIXED_BYTES = {1: 8, 5: 4}


def refuse_external_data(path: Path) -> None:
    """Refuse an ONNX file that would make its reader open other files.

    The file is walked as protobuf lays it out, with no library, whatever the order of its fields. One that is no
    protobuf passes: no reader of ONNX takes it.

    Raises:
        ArtifactError: It names another file for its weights, or cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as err:
        raise ArtifactError(f"{path} cannot be read: {err}", hint="check its permissions") from err
    if (name := _external_file(memoryview(data))) is not None:
        raise ArtifactError(
            f"{path} keeps weights in another file, {name!r}, which no hash covers",
            hint="save the network as one file: onnx.save(onnx.load(path), path, save_as_external_data=False)",
        )


def _external_file(model: memoryview) -> str | None:
    """The file that a tensor names for its weights, ``""`` where it says only that there is one; None without."""
    found: str | None = None
    waiting = [("Model", model)]
    try:
        while waiting:
            kind, message = waiting.pop()
            for number, value in _fields(message):
                if isinstance(value, int):
                    # An enum has 32 bits: readers drop the bits above.
                    if (kind, number, value & 0xFFFFFFFF) == ("Tensor", _DATA_LOCATION, _EXTERNAL):
                        found = found or ""
                elif _MESSAGES[kind].get(number) == "Entry":
                    found = _location(value) or found or ""
                elif inner := _MESSAGES[kind].get(number):
                    waiting.append((inner, value))
    except ValueError:
        return None
    return found


def _location(entry: memoryview) -> str | None:
    """The value of an entry whose key is ``location``; of a field that is there twice, the last counts."""
    texts = {number: bytes(value) for number, value in _fields(entry) if isinstance(value, memoryview)}
    return texts.get(_VALUE, b"").decode(errors="replace") if texts.get(_KEY) == b"location" else None


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values of a message's fields: varints as numbers, what has a length as its bytes.

    Group tags, which ONNX does not use, are skipped, so that their contents count as fields of the message.

    Raises:
        ValueError: It is not a message.

    Source: protobuf.dev, *Encoding*.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = (tag & 0xFFFFFFFF) >> 3, tag & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
        elif wire == 2:
            length, position = _varint(message, position)
            if length > len(message) - position:
                raise ValueError("a field is longer than its message")
            yield number, message[position : position + length]
            position += length
        elif wire in _FIXED_BYTES:
            position += _FIXED_BYTES[wire]
        elif wire not in (3, 4):
            raise ValueError(f"there is no wire type {wire}")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the position behind it."""
    value = 0
    for index, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise ValueError("a number does not end")
