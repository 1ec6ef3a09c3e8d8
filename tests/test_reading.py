"""The scenario that reads plates: texts in perspective, what counts as read, and what a figure says of a claim."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    known = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - known:
        if (BENCHMARKS / f"{name}.py").is_file():
            del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "read", "right"),
    [
        ("AB 123", "AB123", 5),
        ("AB 123", "ab·1 23", 5),
        ("AB 123", "AB 128", 4),
        ("AB 123", "B123", 4),
        ("AB 123", "AB1234", 4),
        ("AB 123", "", 0),
        ("AB 123", "WWWWWWWWWWWW", 0),
    ],
)
def test_characters_count_by_their_edit_distance(module: Any, text: str, read: str, right: int) -> None:
    assert module("reading").correct_characters(text, read) == right


def test_texts_are_where_the_picture_says_and_the_rest_is_untouched(module: Any) -> None:
    scenes = module("text_scenes")
    photo = np.full((360, 640, 3), 120, np.uint8)
    written, texts = scenes.write_on(photo, (12.0, 20.0), np.random.default_rng(1))
    again, _ = scenes.write_on(photo, (12.0, 20.0), np.random.default_rng(1))
    assert np.array_equal(written, again)
    assert len({text.text for text in texts}) == len(texts) == scenes.TEXTS_PER_PHOTO
    assert {text.kind for text in texts} == {"plate", "sign"}

    changed = np.argwhere((written != photo).any(axis=2))[:, ::-1]
    boxes = [(text.quad.min(axis=0) - 2, text.quad.max(axis=0) + 2) for text in texts]
    assert all(any((low <= point).all() and (point <= high).all() for low, high in boxes) for point in changed)
    for text in texts:
        flat = scenes.rectify(written, text.quad)
        assert flat.shape[0] == 48
        assert flat.shape[1] > 2 * 48
        border = np.concatenate([flat[2:4].reshape(-1, 3), flat[-4:-2].reshape(-1, 3)]).astype(int)
        assert flat.std() > 25  # ink on a ground
        assert (np.abs(border - 120).sum(axis=1) > 20).mean() > 0.9  # the rim of the board, not the photograph


def test_sharp_texts_are_read(module: Any) -> None:
    pytest.importorskip("rapidocr", exc_type=ImportError)
    scenes, reading = module("text_scenes"), module("reading")
    reader = reading.TextReader()
    photo = np.full((360, 640, 3), 90, np.uint8)
    written, texts = scenes.write_on(photo, (16.0, 20.0), np.random.default_rng(3))
    read = [reader.read(scenes.rectify(written, text.quad)) for text in texts]
    right = sum(reading.correct_characters(text.text, found) for text, found in zip(texts, read, strict=True))
    assert right >= 0.95 * sum(len(reading.characters(text.text)) for text in texts)
    assert reader.read(np.full((48, 160, 3), 128, np.uint8)) == ""


def test_slices_that_move_lose_and_a_still_one_does_not(module: Any) -> None:
    pytest.importorskip("pydicom")
    slices = module("ct_slices")
    config = module("reading").ShakeConfig
    far, near = (slices.blurred_slices(config(length_px=(length, length)), 1) for length in (8.0, 2.0))
    assert [one.sharp.shape for one in far] == [(128, 128), (512, 512), (512, 512)]
    for one, other in zip(far, near, strict=True):
        assert slices.slice_psnr_db(one.blurred, one) < slices.slice_psnr_db(other.blurred, other) < 60
        assert one.sharp.mean() == pytest.approx(one.blurred.mean(), rel=0.05)


@pytest.mark.parametrize(
    ("restored", "verdict"),
    [
        ((30.0, 10.0, 50.0), "met"),
        ((20.0, 10.0, 50.0), "missed"),
        ((30.0, 0.0, 50.0), "not better than doing nothing"),
        ((-5.0, -9.0, -1.0), "not better than doing nothing"),
    ],
)
def test_a_claim_is_judged_by_the_figure_and_its_interval(
    module: Any, restored: tuple[float, float, float], verdict: str
) -> None:
    reading, target = module("reading"), module("measurement")
    claim = reading.Claim("+27 % plates read", "plates", target.Target(at_least=27))
    outcome = reading._judge(claim, "%", restored, (1.0, -1.0, 3.0))
    assert outcome["verdict"] == verdict
    device = {"cpu": "Some CPU", "cores": 2}
    (row,) = reading.claim_rows({"device": device, "details": {"claims": [outcome]}})
    assert row[:3] == ["+27 % plates read", "plates: at least 27%", f"**{verdict}**"]
    assert row[4] == "Some CPU, 2 cores"


def test_whole_pictures_are_drawn_for_the_interval(module: Any) -> None:
    reading = module("reading")
    before, after = np.array([2, 0, 1, 3]), np.array([4, 0, 2, 6])
    assert reading._more(before, after) == (100.0, pytest.approx(100.0), pytest.approx(100.0))
    share, low, high = reading._share(before, np.array([4, 4, 4, 4]))
    assert low < share == 6 / 16 < high
    with pytest.raises(Exception, match="no plate is read while it is blurred"):
        reading._more(np.zeros(3), after[:3])
