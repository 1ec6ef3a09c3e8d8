"""Random and mutated input for everything that reads files or text from outside: no exception but our own comes out.

A hundred inputs each in every run of the tests; a hundred thousand each with ``-m slow``.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("hypothesis", reason="needs hypothesis: pip install 'deblur-deploy[dev]'")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deblur_deploy.artifact import Draft, NetworkSpec, Step, load_artifact, write_artifact
from deblur_deploy.cli.recipe import load_recipe
from deblur_deploy.engine.targets import resolve_target
from deblur_deploy.errors import DeblurDeployError
from deblur_deploy.external_data import refuse_external_data
from deblur_deploy.images import ImageSpec, load_rgb, parse_resolution
from deblur_deploy.infer.memory import parse_memory

COUNTS = [pytest.param(100, id="quick"), pytest.param(100_000, id="whole", marks=[pytest.mark.slow])]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def feed(count: int, strategy: st.SearchStrategy[Any], read: Callable[[Any], object]) -> None:
    """Give so many inputs to a reader, of which our own errors may come out and nothing else."""

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=count <= 100,  # the quick run is the same every time
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def one(value: Any) -> None:
        check(read, value)

    one()


def check(read: Callable[[Any], object], value: Any) -> None:
    """Read one input; an error of ours has a hint and a length that can be read."""
    try:
        read(value)
    except DeblurDeployError as err:
        error = err
    else:
        return
    assert error.hint
    assert len(str(error)) < 100_000


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: these tests write very many small files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def mutated(original: bytes) -> st.SearchStrategy[bytes]:
    """The original with a few bytes changed, and perhaps cut off or with something appended."""
    changes = st.lists(st.tuples(st.integers(0, len(original) - 1), st.integers(0, 255)), max_size=8)

    def change(made: tuple[list[tuple[int, int]], int, bytes]) -> bytes:
        content = bytearray(original)
        for at, value in made[0]:
            content[at] = value
        return bytes(content[: made[1]]) + made[2]

    return st.tuples(changes, st.integers(0, len(original)) | st.just(len(original)), st.binary(max_size=8)).map(change)


def fields(plain: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A table with some of its values, at any depth, replaced by others."""
    paths = list(places(plain))

    def change(made: list[tuple[tuple[Any, ...], Any]]) -> dict[str, Any]:
        copy = json.loads(json.dumps(plain))
        for path, value in made:
            table = copy
            for key in path[:-1]:
                try:
                    table = table[key]
                except (KeyError, IndexError, TypeError):
                    break
            else:
                if isinstance(table, dict) or (isinstance(table, list) and path[-1] < len(table)):
                    table[path[-1]] = value
        return dict(copy)

    return st.lists(st.tuples(st.sampled_from(paths), JSON), min_size=1, max_size=4).map(change)


def places(plain: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a table are, and one more of each table."""
    if path:
        yield path
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))
    if isinstance(plain, dict):
        yield (*path, "other")


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", COUNTS)
def test_sizes_targets_and_amounts(count: int) -> None:
    near = st.from_regex(r"-?[0-9]{1,12}[xX*][0-9.]{1,12}") | st.text("0123456789xXsm. _gGBi", max_size=12)

    def read(text: str) -> None:
        for parse in (parse_resolution, resolve_target, parse_memory):
            check(parse, text)

    feed(count, st.text(max_size=20) | near, read)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", COUNTS)
def test_manifests(count: int, folder: Path, sign: Callable[[dict[str, Any]], bytes]) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"payload")

    step = Step("import", {"average": None}, {"torch": "2"}, None, "2026-01-01", {"psnr_db": 30.0, "params": 7})
    config = {"level_channels": [8, 16], "recurrent_channels": 16}
    image = ImageSpec(height=48, width=64)
    write_artifact(folder / "a", Draft("onnx", "w.bin", write, NetworkSpec("srn", config), image, step))
    manifest = folder / "a" / "manifest.json"
    whole = manifest.read_bytes()

    def read(content: bytes) -> None:
        manifest.write_bytes(content)
        load_artifact(folder / "a")

    feed(count, mutated(whole) | st.binary(max_size=64) | fields(json.loads(whole)).map(sign), read)


RECIPE = """source = "a"
photos = "b"
[prune]
keep = 0.7
importance = "l2"
tuning.fit = { steps = 1, batch = 1, crop = 32, lr = 1e-3 }
tuning.shake = { }
[qat]
exempt = ["head"]
max_drop = 0.2
[export]
width = 64
height = 48
[fp16]
keep_fp32 = ["/head/*"]
[engine]
target = "sm75"
[bench]
duration_ms = 1.0
[budget]
max_drop_db = 1
"""


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", COUNTS)
def test_recipes(count: int, folder: Path) -> None:
    recipe = folder / "recipe.toml"
    lines = RECIPE.splitlines()
    values = JSON.map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"))
    keys = st.sampled_from([line.partition(" = ")[0] for line in lines])
    replaced = st.lists(st.tuples(st.integers(0, len(lines) - 1), keys, values), max_size=3).map(
        lambda made: b"\n".join(
            next((key.encode() + b" = " + value for at, key, value in made if at == number), line.encode())
            for number, line in enumerate(lines)
        )
    )

    def read(content: bytes) -> None:
        recipe.write_bytes(content)
        load_recipe(recipe)

    feed(count, mutated(RECIPE.encode()) | st.binary(max_size=64) | replaced, read)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", COUNTS)
def test_images(count: int, folder: Path) -> None:
    picture = Image.fromarray((np.arange(7 * 9 * 3) % 251).astype(np.uint8).reshape(7, 9, 3))
    encoded = []
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP"):
        for mode in ("RGB", "L"):
            file = io.BytesIO()
            picture.convert(mode).save(file, kind)
            encoded.append(file.getvalue())
    path = folder / "picture"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        load_rgb(path)

    feed(count, st.one_of([mutated(content) for content in encoded]) | st.binary(max_size=64), read)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", COUNTS)
def test_onnx_files(count: int, folder: Path) -> None:
    path = folder / "model.onnx"
    original = (
        b"\x08\x08\x12\x04test:\x30\n\x04node\x12\x01gB\x20\x08\x01\x10\x01B\x01wj\x17\n\x08location\x12\x07weights"
    )

    def read(content: bytes) -> None:
        path.write_bytes(content)
        refuse_external_data(path)

    feed(count, mutated(original) | st.binary(max_size=256), read)
