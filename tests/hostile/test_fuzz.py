"""Random and mutated input for everything that reads files or text from outside: no exception but our own comes out.

A hundred inputs each in every run of the tests; a hundred thousand each with ``-m slow``, which prints how many
different outcomes there were (with ``-s``). Hypothesis makes the inputs; of each one, cheap variants are read too.
"""

from __future__ import annotations

import dataclasses
import io
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

pytest.importorskip("hypothesis", reason="needs hypothesis: pip install 'deblur-deploy[dev]'")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deblur_deploy.core.artifact import Draft, NetworkSpec, Step, load_artifact, write_artifact
from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.core.external_data import refuse_external_data
from deblur_deploy.core.images import ImageSpec, load_rgb, parse_resolution
from deblur_deploy.engine.targets import resolve_target
from deblur_deploy.graph.facts import FORMAT, PREFIX, read_facts
from deblur_deploy.infer.memory import parse_memory
from deblur_deploy.infer.read import read_picture
from deblur_deploy.infer.streaming import open_streaming
from deblur_deploy.pipeline.recipe import load_recipe

COUNTS = [pytest.param(100, id="quick"), pytest.param(100_000, id="whole", marks=[pytest.mark.slow])]
VARIANTS = {100: 1, 100_000: 49}
"""How many variants are read of each input that Hypothesis makes, by how many inputs are wanted."""

TOKENS = (
    *(b"0", b"-1", b"1e999", b"NaN", b"9" * 25, b"0.5", b"null", b"true", b'""', b"[]", b"{}", b"[[[["),
    *(b"../", b"/", b"\x00", b"\n", b'"', b"=", b",", b"\\ud800", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x80"),
)
"""What variants get put into them."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def feed(count: int, strategy: st.SearchStrategy[bytes], read: Callable[[bytes], object]) -> None:
    """Give so many inputs to a reader, of which our own errors may come out and nothing else."""
    outcomes: Counter[tuple[object, ...]] = Counter()
    began = time.process_time()

    @settings(
        max_examples=count // (1 + VARIANTS[count]),
        deadline=None,
        database=None,
        derandomize=count <= 100,  # the quick run is the same every time
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy, st.integers(0, 2**32 - 1))
    def one(content: bytes, seed: int) -> None:
        chance = random.Random(seed)
        outcomes[check(read, content)] += 1
        for _ in range(VARIANTS[count]):
            outcomes[check(read, varied(content, chance))] += 1

    one()
    seconds = time.process_time() - began
    print(f"{outcomes.total()} inputs, {len(outcomes)} distinct outcomes, {outcomes[()]} accepted, {seconds:.0f} s")
    assert outcomes.total() >= count


def check(read: Callable[[Any], object], value: Any) -> tuple[object, ...]:
    """Read one input; an error of ours has a hint and a length that can be read.

    Returns:
        The lines that the error came through; empty where there was none.
    """
    try:
        read(value)
    except DeblurDeployError as err:
        error = err
    else:
        return ()
    assert error.hint
    assert len(str(error)) < 100_000
    return tuple(lines(error.__traceback__))


def lines(traceback: TracebackType | None) -> Iterator[tuple[str, int]]:
    """Where an exception passed, from outside in."""
    while traceback is not None:
        yield traceback.tb_frame.f_code.co_name, traceback.tb_lineno
        traceback = traceback.tb_next


def varied(content: bytes, chance: random.Random) -> bytes:
    """The content with one to four places changed: a bit, random bytes, a token, something left out or repeated."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(changed) + 1)
        stop = start + chance.choice((0, 1, 1, 2, 4, 8, 32))
        kind = chance.randrange(5)
        if kind == 0 and start < len(changed):
            changed[start] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[start:stop] = chance.randbytes(chance.randrange(1, 5))
        elif kind == 2:
            changed[start:stop] = chance.choice(TOKENS)
        elif kind == 3:
            del changed[start:stop]
        else:
            changed[start:start] = changed[start:stop]
    return bytes(changed)


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
                key = path[-1]
                named = isinstance(table, dict) and isinstance(key, str)
                if named or (isinstance(table, list) and key in range(len(table))):
                    table[key] = value
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
@pytest.mark.parametrize("parse", [parse_resolution, resolve_target, parse_memory])
def test_sizes_targets_and_amounts(parse: Callable[[str], object], count: int) -> None:
    near = st.from_regex(r"-?[0-9]{1,12}[xX*][0-9.]{1,12}") | st.text("0123456789xXsm. _gGBi", max_size=12)
    content = (st.text(max_size=20) | near).map(lambda text: text.encode(errors="surrogatepass"))
    feed(count, content, lambda content: parse(content.decode(errors="surrogateescape")))


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
        try:
            table = json.loads(content)
        except (ValueError, RecursionError):
            table = None
        # Where it still is a table it gets its hash, without which nothing else of it would be looked at.
        manifest.write_bytes(sign(table) if isinstance(table, dict) else content)
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


def read_rows(path: Path) -> None:
    """As ``infer`` reads large pictures, where it can."""
    reader = open_streaming(path, None)
    if reader is not None:
        height = sum(len(rows) for rows in reader.bands())
        assert height == reader.layout.shape[0]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("load", [load_rgb, read_picture, read_rows])
def test_images(load: Callable[[Path], object], count: int, folder: Path) -> None:
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
        load(path)

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


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", COUNTS)
def test_metadata_of_onnx_files(count: int) -> None:
    plain = {
        "format": FORMAT,
        "source_sha256": "0123456789abcdef" * 4,
        "network": "srn",
        "image": dataclasses.asdict(ImageSpec(height=48, width=64)),
        "versions": {"torch": "2.0", "onnx": "1"},
    }

    def written(table: dict[str, Any]) -> bytes:
        """Keys and values in turn, between zeros."""
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in table.items()}
        return "\0".join(f"{PREFIX}{key}\0{text}" for key, text in texts.items()).encode(errors="replace")

    def read(content: bytes) -> None:
        parts = content.decode(errors="replace").split("\0")
        model = onnx.ModelProto()
        for key, value in zip(parts[::2], parts[1::2], strict=False):
            model.metadata_props.add(key=key, value=value)
        read_facts(model)

    feed(count, mutated(written(plain)) | st.binary(max_size=64) | fields(plain).map(written), read)
