"""A corpus of bad input, made by code: each file ends in one error that says what is wrong with it, and in no other."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from deblur_deploy.core.artifact import Draft, NetworkSpec, Step, load_artifact, write_artifact
from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.core.images import ImageSpec, load_rgb
from deblur_deploy.data.layouts import find_pairs
from deblur_deploy.data.pairs import load_pairs
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.network.weights_file import read_weights
from deblur_deploy.pipeline.recipe import load_recipe

Sign = Callable[[dict[str, Any]], bytes]
Make = Callable[[Path], object]
"""Makes a bad input at a path; or the facts of a manifest that is forged there."""


# Photographs


def png(width: int, height: int, data: bytes = b"", color: int = 2) -> bytes:
    """A PNG whose header claims a size, with whatever data (PNG specification, 5)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def encoded(kind: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.fromarray((np.arange(48 * 64 * 3) % 251).astype(np.uint8).reshape(48, 64, 3)).convert(mode).save(file, kind)
    return file.getvalue()


def holding(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


PHOTOGRAPHS: dict[str, tuple[Make, str]] = {
    "empty": (holding(b""), "is not an image"),
    "zeros": (holding(bytes(4096)), "is not an image"),
    "text": (holding(b"Dear reader,"), "is not an image"),
    "html": (holding(b"<!DOCTYPE html><title>404</title>"), "is not an image"),
    "svg": (holding(b'<svg xmlns="http://www.w3.org/2000/svg"/>'), "is not an image"),
    "zip": (holding(b"PK\x05\x06" + bytes(18)), "is not an image"),
    "script": (holding(b"#!/bin/sh\nrm -rf /\n"), "is not an image"),
    "png signature alone": (holding(b"\x89PNG\r\n\x1a\n"), "cannot be read|is not an image"),
    "png without data": (holding(png(64, 48)), "cannot be read"),
    "png cut off": (holding(encoded("PNG")[:200]), "cannot be read"),
    "png with a wrong checksum": (
        holding(encoded("PNG")[:30] + b"\xff" + encoded("PNG")[31:]),
        "cannot be read|is not an image",
    ),
    "png of no width": (holding(png(0, 48)), "cannot be read|is not an image"),
    "png of 2^31 x 2^31": (holding(png(2**31 - 1, 2**31 - 1)), "has absurd dimensions"),
    "png of 100000 x 100000": (holding(png(100_000, 100_000, bytes(10**6))), "has absurd dimensions"),
    "png just above the bound": (holding(png(20_000, 10_000)), "has absurd dimensions"),
    "jpeg cut off": (holding(encoded("JPEG")[:300]), "cannot be read"),
    "jpeg header alone": (holding(encoded("JPEG")[:20]), "cannot be read|is not an image"),
    "jpeg of CMYK": (holding(encoded("JPEG", "CMYK")), "is CMYK"),
    "tiff cut off": (holding(encoded("TIFF")[:100]), "cannot be read|is not an image"),
    "tiff of a directory at itself": (
        holding(b"II*\0\x08\0\0\0\x01\0" + bytes(12) + b"\x08\0\0\0"),
        "cannot be read|is not",
    ),
    "tiff of 32 bits": (lambda path: Image.new("I", (8, 8)).save(path, "TIFF"), "has signed or floating-point samples"),
    "tiff of floats": (lambda path: Image.new("F", (8, 8)).save(path, "TIFF"), "has signed or floating-point samples"),
    "webp cut off": (holding(encoded("WEBP")[:60]), "cannot be read|is not an image"),
    "bmp of a huge size": (
        holding(encoded("BMP")[:18] + struct.pack("<ii", 2**30, 2**30) + encoded("BMP")[26:]),
        "has absurd dimensions|cannot be read",
    ),
    "a folder": (lambda path: path.mkdir(), "not a regular file"),
    "a pipe": (lambda path: os.mkfifo(path), "not a regular file"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "there is no file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
}


# Artifacts


def artifact(path: Path, payload: bytes = b"payload", kind: Any = "checkpoint") -> dict[str, Any]:
    step = Step("import", {}, {}, None, "2026-01-01", {})
    write = holding(payload)
    write_artifact(
        path, Draft(kind, "w.bin", lambda file: write(file) and None, NetworkSpec("srn", {}), ImageSpec(), step)
    )
    manifest = json.loads((path / "manifest.json").read_text())
    assert isinstance(manifest, dict)
    return manifest


def forged(**changes: Any) -> Make:
    """A manifest with other facts, to be signed."""
    return lambda path: artifact(path) | changes


def spoiled(content: bytes) -> Make:
    def make(path: Path) -> None:
        artifact(path)
        (path / "manifest.json").write_bytes(content)

    return make


def linked(name: str) -> Make:
    """A file of the artifact as a link to one outside."""

    def make(path: Path) -> None:
        artifact(path)
        (path / name).rename(path.with_name("outside"))
        (path / name).symlink_to(path.with_name("outside"))

    return make


def flipped(name: str, at: int) -> Make:
    def make(path: Path) -> None:
        artifact(path)
        content = bytearray((path / name).read_bytes())
        content[at] ^= 1
        (path / name).write_bytes(content)

    return make


def with_external_data(path: Path) -> None:
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0])
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [weight]))
    del weight.float_data[:]
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    artifact(path, model.SerializeToString(), "onnx")


ARTIFACTS: dict[str, tuple[Make, str]] = {
    "not there": (lambda path: None, "there is no"),
    "empty folder": (lambda path: path.mkdir(), "is not an artifact"),
    "manifest empty": (spoiled(b""), "manifest.json cannot be read"),
    "manifest cut off": (spoiled(b'{"format_version": 1, "kind"'), "manifest.json cannot be read"),
    "manifest binary": (spoiled(b"\xff\xfe\0\x01"), "manifest.json cannot be read"),
    "manifest a list": (spoiled(b"[]"), "is not a manifest of format 1"),
    "manifest a number": (spoiled(b"7"), "is not a manifest of format 1"),
    "manifest nested": (spoiled(b"[" * 200_000), "manifest.json cannot be read"),
    "manifest of a huge number": (spoiled(b'{"format_version": ' + b"9" * 5000 + b"}"), "manifest.json cannot be read"),
    "manifest of 17 MB": (spoiled(b" " * 17_000_000), "more than 16000000 bytes"),
    "manifest edited": (spoiled(b'{"format_version": 1, "manifest_sha256": "0"}'), "was changed after it was written"),
    "manifest a pipe": (
        lambda path: (artifact(path), (path / "manifest.json").unlink(), os.mkfifo(path / "manifest.json")),
        "not a regular file",
    ),
    "path up": (forged(file="../w.bin"), "names the file"),
    "path absolute": (forged(file="/etc/passwd"), "names the file"),
    "path empty": (forged(file=""), "names the file"),
    "path the folder": (forged(file="."), "names the file"),
    "path no text": (forged(file=["w.bin"]), "names the file"),
    "path with zero": (forged(file="w\0.bin"), "is missing"),
    "path of a lone surrogate": (forged(file="\ud800"), "is missing"),
    "path too long": (forged(file="w" * 5000), "names the file"),
    "kind unknown": (forged(kind="pickle"), "is malformed: .*kind"),
    "history empty": (forged(history=[]), "is malformed"),
    "history no list": (forged(history={"a": 1}), "is malformed"),
    "history of numbers": (forged(history=[1, 2]), "is malformed"),
    "network a text": (forged(network="srn"), "is malformed"),
    "network unknown field": (
        forged(network={"arch": "srn", "config": {}, "code": "import os"}),
        "has no field 'code'",
    ),
    "image of floats beyond range": (forged(image={"value_range": [0, 10**400]}), "is malformed"),
    "image of text": (forged(image={"width": "640"}), "is malformed"),
    "payload of another hash": (forged(sha256="0" * 64), "is not the file its manifest describes"),
    "payload a byte changed": (flipped("w.bin", 3), "is not the file its manifest describes"),
    "payload gone": (lambda path: (artifact(path), (path / "w.bin").unlink()), "is missing"),
    "payload a link outside": (linked("w.bin"), "is a symbolic link to .*outside of the artifact"),
    "manifest a link outside": (linked("manifest.json"), "is a symbolic link to .*outside of the artifact"),
    "onnx with external data": (with_external_data, r"keeps weights in another file, '\.\./\.\./etc/passwd'"),
}


# Recipes


def deep(levels: int) -> bytes:
    return b"a = " + b"[" * levels + b"]" * levels


RECIPES: dict[str, tuple[Make, str]] = {
    "not there": (lambda path: None, "cannot be read as a recipe"),
    "a folder": (lambda path: path.mkdir(), "cannot be read as a recipe"),
    "a pipe": (lambda path: os.mkfifo(path), "cannot be read as a recipe"),
    "binary": (holding(b"\xff\xfe\0"), "cannot be read as a recipe"),
    "json": (holding(b'{"prune": {}}'), "cannot be read as a recipe"),
    "cut off": (holding(b"[prune"), "cannot be read as a recipe"),
    "a key twice": (holding(b"[prune]\n[prune]\n"), "cannot be read as a recipe"),
    "nested": (holding(deep(100_000)), "cannot be read as a recipe"),
    "unknown": (holding(b"[prun]"), "did you mean 'prune'"),
    "no table": (holding(b"prune = 1"), "give a table"),
    "text for a number": (holding(b'[prune]\nkeep = "0.7"'), "keep is '0.7'"),
    "no number": (holding(b"[prune]\nkeep = nan"), "keep is nan"),
    "infinite": (holding(b"[prune]\nkeep = inf"), "keep is inf"),
    "beyond float": (holding(b"[prune]\nkeep = 1" + b"0" * 400), "keep is 1"),
    "negative steps": (holding(b"[prune]\ntuning.fit.steps = -1"), "steps is -1"),
    "no size": (holding(b"[export]\nwidth = 0"), "size is 0x"),
    "source a number": (holding(b"source = 5"), "source is 5"),
}


# Sets of photographs


def photo_set(toml: str) -> Make:
    def make(path: Path) -> None:
        path.mkdir()
        (path / "a.png").write_bytes(encoded("PNG"))
        (path.parent / "secret.png").write_bytes(encoded("PNG"))
        (path / "set.toml").write_text(toml)

    return make


def entry(file: str, sha256: str = "0" * 64) -> str:
    return f'[[image]]\nfile = "{file}"\nsha256 = "{sha256}"\nsplit = "evaluation"\n'


def realblur(line: str) -> Make:
    def make(path: Path) -> None:
        path.mkdir()
        (path / "RealBlur_J_test_list.txt").write_text(line)

    return make


SETS: dict[str, tuple[Make, str]] = {
    "path up": (photo_set(entry("../secret.png")), "set.toml names"),
    "path absolute": (photo_set(entry("/etc/passwd")), "set.toml names"),
    "another photograph": (photo_set(entry("a.png")), "its sha256 differs"),
    "a photograph missing": (photo_set(entry("b.png")), "is missing"),
    "no entries": (photo_set(""), "cannot be read"),
    "entries of numbers": (photo_set("image = [1, 2]"), "cannot be read"),
    "nested": (photo_set(deep(100_000).decode()), "cannot be read"),
    "no text": (photo_set("[[image]]\nfile = 1\nsha256 = 2\nsplit = 3\n"), "is malformed"),
    "a list that leads out": (realblur("../../etc/passwd ../../etc/passwd"), "leads out of its folder"),
    "a list of absolute paths": (realblur("/etc/passwd /etc/passwd"), "leads out of its folder"),
    "a list of one column": (realblur("only"), "each line names a sharp and a blurred file"),
}


# Weights


class Runs:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path.with_name("ran"),))


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(20_000_000))


def saved(value: Any) -> Make:
    return lambda path: torch.save(value, path)


def damaged(path: Path) -> None:
    torch.save({"a": torch.ones(100)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b""
    path.write_bytes(content)


WEIGHTS: dict[str, tuple[Make, str]] = {
    "not there": (lambda path: None, "there is no file"),
    "empty": (holding(b""), "is not a PyTorch checkpoint"),
    "html": (holding(b"\n<!DOCTYPE html>\n<html>Log in</html>"), "is an HTML page, not a checkpoint"),
    "html without a doctype": (holding(b"<HTML><body>quota exceeded</body>"), "is an HTML page, not a checkpoint"),
    "cut off": (damaged, "is not a PyTorch checkpoint"),
    "a zip bomb": (bomb, "zip bomb"),
    "code": (lambda path: torch.save({"a": Runs(path)}, path), "unpickling it could run code"),
    "code in a bare pickle": (lambda path: path.write_bytes(pickle.dumps(Runs(path))), "unpickling it could run code"),
    "a list": (saved([torch.ones(1)]), "not a state_dict"),
    "a state within itself": (saved({"state_dict": {"state_dict": {}}}), "not a state_dict"),
    "no numbers": (saved({"a": torch.full((2,), float("nan"))}), "NaN or infinite weights"),
    "nothing in it": (saved({"a": torch.zeros(0, 3)}), "is empty"),
    "10^12 numbers over one": (saved({"a": torch.zeros(1).expand(10**6, 10**6)}), "over only 4 bytes"),
    "no values": (saved({"a": torch.zeros(4, device="meta")}), "without its values|could run code"),
    "sparse": (saved({"a": torch.eye(3).to_sparse()}), "is not a plain array"),
    "complex": (saved({"a": torch.zeros(3, dtype=torch.complex64)}), "not real numbers"),
}
SAFETENSORS: dict[str, tuple[Make, str]] = {
    "empty": (holding(b""), "is not a safetensors file"),
    "a header of 2^62 bytes": (holding(struct.pack("<Q", 2**62)), "is not a safetensors file"),
    "a header that is no JSON": (holding(struct.pack("<Q", 4) + b"{{{{"), "is not a safetensors file"),
    "offsets beyond the file": (
        holding(struct.pack("<Q", 56) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}} '),
        "is not a safetensors file",
    ),
}

READERS: dict[str, tuple[Callable[[Path], object], str, dict[str, tuple[Make, str]]]] = {
    "photograph": (load_rgb, "photo.png", PHOTOGRAPHS),
    "artifact": (load_artifact, "artifact", ARTIFACTS),
    "recipe": (load_recipe, "recipe.toml", RECIPES),
    "set": (lambda path: (find_pairs(path, "evaluation"), load_pairs(path)), "set", SETS),
    "weights": (read_weights, "net.pth", WEIGHTS),
    "safetensors": (read_weights, "net.safetensors", SAFETENSORS),
}
CASES = [(kind, name) for kind, (_, _, corpus) in READERS.items() for name in corpus]


def test_the_corpus_is_large() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind}: {name}" for kind, name in CASES])
def test_bad_input_ends_in_one_clear_error(kind: str, name: str, tmp_path: Path, sign: Sign) -> None:
    read, file_name, corpus = READERS[kind]
    make, message = corpus[name]
    made = make(tmp_path / file_name)
    if isinstance(made, dict):
        (tmp_path / file_name / "manifest.json").write_bytes(sign(made))

    with pytest.raises(DeblurDeployError, match=message) as error:
        read(tmp_path / file_name)

    assert error.value.hint
    assert not (tmp_path / "ran").exists()


def test_absurd_widths_are_refused_before_memory_is_taken(tmp_path: Path, tiny_config: Any, sign: Sign) -> None:
    from deblur_deploy.core.artifact import new_step
    from deblur_deploy.network.checkpoint import save_network, spec_of
    from deblur_deploy.network.srn import SRN

    net = SRN(tiny_config)
    save_network(tmp_path / "a", net, spec_of(net), new_step("import", {}, None, {}))
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    manifest["network"]["config"]["recurrent_channels"] = 10**6
    (tmp_path / "a" / "manifest.json").write_bytes(sign(manifest))
    with pytest.raises(DeblurDeployError, match="misshapen"):
        load_network(load_artifact(tmp_path / "a"))
