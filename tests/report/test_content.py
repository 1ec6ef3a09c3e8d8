"""What a report says: in words, as a page, as Markdown, and where something is missing."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import save_rgb
from deblur_deploy.report import content as content_module
from deblur_deploy.report.content import gather
from deblur_deploy.report.photographs import encode_photographs
from deblur_deploy.report.write import format_of, render_markdown, render_page, write_report
from tests.report.conftest import COST, DEVICE, Photographs, Run, quality, write

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def test_the_summary_has_the_figures_of_the_run(whole_run: Run) -> None:
    content = gather(whole_run.folder)
    text = " ".join(content.sentences)
    assert "is 25.50 dB with the original and 25.26 dB with fp16 engine, the mean of 3 photographs" in text
    assert content.sentences[0] == (
        "Of the 1.50 dB that the original gains over the blurred pictures, fp16 engine keeps 1.26 dB: 84%."
    )
    assert "compression costs 0.24 dB" in text
    assert "1/8.1 of the original's 8.0 kB: within the mark of 1/5" in text
    assert "int8 takes 75 ms for a 640x360 frame in openvino, where the original takes 300 ms in its fastest" in text
    assert "runtime, openvino: it is 4.0 times as fast. The original in PyTorch" in text
    assert "90% in fp16, 10% unproven" in text
    assert [figure.value for figure in content.key_figures] == ["84%", "−0.24 dB", "1/8.1", "4.0×", "90% fp16"]


@pytest.mark.parametrize(
    ("original", "pruned", "sentence"),
    [
        (24.1, 24.05, "The original gains too little to say what compression keeps of it: +0.10 dB against"),
        (23.5, 23.6, "The original does harm: −0.50 dB against the blurred pictures."),
        (25.0, 23.7, "gains over the blurred pictures, pruned keeps nothing: its pictures are 0.30 dB worse than"),
        (None, None, "Of the 76.00 dB that the original gains over the blurred pictures, pruned keeps 76.00 dB: 100%."),
    ],
)
def test_the_first_sentence_tells_what_is_kept_of_the_gain(
    tmp_path: Path, original: float | None, pruned: float | None, sentence: str
) -> None:
    def figures(psnr_db: float | None) -> dict[str, float | None]:
        return COST | {"psnr_db": psnr_db, "psnr_blurred_db": 24.0}

    source = write(tmp_path / "run" / "source", None, "train", figures(original))
    write(tmp_path / "run" / "prune", source, "prune", figures(pruned))
    assert sentence in gather(tmp_path / "run").sentences[0]


def test_the_chain_names_every_hash(whole_run: Run) -> None:
    chain = gather(whole_run.folder).chain
    made = whole_run.artifacts
    names = ("source", "prune", "qat", "onnx-int8", "onnx-fp16", "engine-fp16")
    assert [link.sha256 for link in chain] == [made[name].sha256 for name in names]
    assert [link.parent for link in chain] == [None, *(made[name].sha256 for name in names[:-1])]


def test_the_recipe_has_every_setting(whole_run: Run) -> None:
    recipe = gather(whole_run.folder).recipe
    assert recipe
    assert f"sha256 {whole_run.artifacts['source'].sha256}" in recipe
    assert tomllib.loads(recipe) == {
        "source": "generator",
        "prune": {"keep": 0.7},
        "qat": {"exempt": ['he"ad'], "tuning": {"fit": {"lr": 1e-06}}},
        "export": {"width": 640, "height": 360},
        "fp16": {},
        "engine": {"precision": "fp16", "target": "RTX 2080 Ti"},
        "bench": {},
    }
    write(whole_run.folder / "twice", whole_run.artifacts["prune"], "prune", {}, size=500)
    for name in ("engine-fp16", "onnx-fp16", "onnx-int8", "onnx-pruned", "qat"):
        shutil.rmtree(whole_run.folder / name)
    assert gather(whole_run.folder).recipe is None  # no recipe prunes twice
    shutil.rmtree(whole_run.folder / "twice")
    assert gather(whole_run.folder).recipe
    write(whole_run.folder / "prune", whole_run.artifacts["source"], "prune", {"params": 1}, config={"max_ms": 5.0})
    assert gather(whole_run.folder).recipe is None  # a frame time is one machine's


def test_missing_pieces_are_named_with_what_brings_them(whole_run: Run) -> None:
    shutil.rmtree(whole_run.folder / "engine-fp16")
    (whole_run.folder / "bench.jsonl").unlink()
    content = gather(whole_run.folder)
    assert content.absent.keys() == {"speed", "precision-section", "photographs"}
    assert "deblur-deploy bench" in content.absent["speed"]
    assert "This run has no engine" in content.absent["precision-section"]
    page, markdown = render_page(content), (write_report(content, whole_run.folder / "r.md", "md")[0]).read_text()
    for text in (page, markdown):
        assert "No latency was measured in this run" in text
        assert "has no engine" in text


def test_a_run_without_evaluations_says_so(tmp_path: Path) -> None:
    source = write(tmp_path / "run" / "source", None, "train", COST)
    write(tmp_path / "run" / "prune", source, "prune", {})
    content = gather(tmp_path / "run")
    assert content.absent.keys() == {"cost", "speed", "precision-section", "sensitivity", "photographs"}
    assert "was not measured" in content.absent["cost"]


def test_two_machines_have_a_section_each_and_no_chart_together(whole_run: Run) -> None:
    whole_run.time("onnx-int8", "openvino", 10.0, device=DEVICE | {"cpu": "Other CPU"})
    content = gather(whole_run.folder)
    speed = {section.title: section for section in content.sections if section.slug.startswith("speed")}
    assert list(speed) == ["Speed on Test CPU, 2 cores, 640x360", "Speed on Other CPU, 2 cores, 640x360"]
    first, second = speed.values()
    assert not {row for chart in first.charts for row in chart.rows} & {
        row for chart in second.charts for row in chart.rows
    }
    assert all("Other CPU" not in sentence or "Test CPU" not in sentence for sentence in content.sentences)


def test_scans_beside_the_run_are_charted_and_damaged_ones_named(whole_run: Run) -> None:
    scan = {"rows": [{"layers": ["a", "b"], "share": 0.5, "drop_db": 1.5}]}
    (whole_run.folder / "scan").mkdir()
    (whole_run.folder / "scan" / "scan.json").write_text(json.dumps(scan))
    charts = {chart.slug: chart for chart in gather(whole_run.folder).charts}
    assert charts["pruning"].rows == (("a, b", "50%", "1.50"),)
    assert charts["quantization"].rows == (("head", "0.1000"), ("body", "-0.0100"))
    (whole_run.folder / "scan" / "scan.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"scan\.json is not a complete scan"):
        gather(whole_run.folder)


def test_compared_frame_times_are_charted_and_damaged_ones_named(whole_run: Run) -> None:
    impossible = {"budget_ms": 1, "reason": "1 ms cannot be met"}
    met = {"budget_ms": 20, "predicted_ms": 19.5, "predicted_drop_db": 0.5, "kept": 64}
    timed_as = {"runtime": "openvino", "precision": "fp32", "res": "640x360", "whole_ms": 40.0}
    (whole_run.folder / "scan").mkdir()
    file = whole_run.folder / "scan" / "frame-times.json"
    file.write_text(json.dumps({**timed_as, "points": [impossible, met]}))
    charts = {chart.slug: chart for chart in gather(whole_run.folder).charts}
    assert charts["frame-times"].rows == (("19.5", "0.50", "64"), ("40.0", "0.00", "all"))
    file.write_text(json.dumps({**timed_as, "points": [impossible]}))
    assert "frame-times" not in {chart.slug for chart in gather(whole_run.folder).charts}
    for damaged in ({"points": [met]}, {**timed_as, "points": [{"budget_ms": 20}]}):
        file.write_text(json.dumps(damaged))
        with pytest.raises(ArtifactError, match=r"frame-times\.json in .* is not a complete comparison"):
            gather(whole_run.folder)


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_photograph_that_gained_most_comes_first(
    whole_run: Run, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    little, most, harmed = photographs("little", "most", "harmed")
    made = [
        dataclasses.replace(photograph, views=(blurred, dataclasses.replace(first, psnr_db=20 + gain), *rest))
        for photograph, gain in ((little, 1.0), (most, 3.0), (harmed, -1.0))
        for blurred, first, *rest in [photograph.views]
    ]
    monkeypatch.setattr(content_module, "restore_photographs", lambda folder, stages: iter(made))
    monkeypatch.setattr(content_module, "shown_stages", lambda stages: stages)
    content = gather(whole_run.folder)
    assert [photograph.name for photograph in content.photographs] == ["most", "little", "harmed"]


def test_hostile_names_are_text_everywhere(whole_run: Run, photographs: Photographs) -> None:
    """The browser would run what is not escaped: the page has one script, no handler, and no other source."""
    hostile = {"precision": {"fp32": 1.0}} | quality(25.1)
    odd = HOSTILE.replace("/", "_")
    write(whole_run.folder / odd, whole_run.artifacts["prune"], "export-onnx", hostile, kind="onnx", size=3000)
    figures = {"target": HOSTILE, "flavour": HOSTILE, "flavour_version": HOSTILE, "precision": {HOSTILE: 1.0}}
    engine = figures | {"compute_layers": {HOSTILE: HOSTILE, "$x": "fp16"}}
    write(whole_run.folder / "engine-fp16", whole_run.artifacts["onnx-fp16"], "export-trt", engine, kind="engine")
    whole_run.time("onnx-int8", HOSTILE, 5.0, device=DEVICE | {"cpu": HOSTILE}, artifact=HOSTILE, sha256=HOSTILE)
    whole_run.time("onnx-int8", HOSTILE, None, skipped=HOSTILE)
    content = dataclasses.replace(gather(whole_run.folder), photographs=photographs(HOSTILE), title=HOSTILE)

    page = render_page(content)
    tags = Tags(page).found
    assert [tag for tag, _ in tags].count("script") == 1
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    sources = [value or "" for _, attributes in tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "alert(1)" in page

    markdown = write_report(content, whole_run.folder / "r.md", "md")[0].read_text()
    outside = re.sub(r"(`{3,})toml\n.*?\n\1", "", markdown, flags=re.DOTALL)
    assert set(re.findall(r"<(\w+)", outside)) == {"details", "summary"}
    rows = [line for line in outside.splitlines() if line.startswith("| ")]
    assert all(line.endswith(" |") for line in rows)
    assert {path.name for path in write_report(content, whole_run.folder / "plots", "png")} >= {"quality.png"}


def test_the_page_is_small_and_its_policy_lets_nothing_in(whole_run: Run, photographs: Photographs) -> None:
    content = dataclasses.replace(gather(whole_run.folder), photographs=photographs("a.png", "b.png"))
    page = render_page(content)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert len(page.encode()) < 5_000_000
    assert render_page(content) == page


def test_pictures_fit_the_budget_with_lower_quality_and_then_fewer(photographs: Photographs) -> None:
    four = photographs("a", "b", "c", "d")
    fine = encode_photographs(four)
    size = sum(len(uri) * 3 // 4 for item in fine for _, _, uri in item.views)
    assert [len(encode_photographs(four, budget=int(size * share))) for share in (0.7, 0.25)] == [4, 2]
    assert encode_photographs(four, budget=10) == []


@pytest.mark.parametrize(
    ("out", "wanted", "kind"),
    [
        (None, None, "html"),
        ("a.html", None, "html"),
        ("a.md", None, "md"),
        ("plots", None, "png"),
        ("a.html", "md", "md"),
    ],
)
def test_the_format_is_what_the_name_says(tmp_path: Path, out: str | None, wanted: str | None, kind: str) -> None:
    assert format_of(tmp_path / out if out else None, wanted) == kind


def test_a_format_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no report format 'pdf'"):
        format_of(None, "pdf")
    with pytest.raises(ConfigError, match="does not say which report"):
        format_of(tmp_path / "a.pdf", None)
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_report(None, tmp_path / "file" / "plots", "png")  # type: ignore[arg-type]


def test_a_report_replaces_an_older_one_whole(whole_run: Run, tmp_path: Path) -> None:
    content = gather(whole_run.folder)
    path = tmp_path / "new" / "r.html"
    write_report(content, path, "html")
    write_report(content, path, "html")
    assert [file.name for file in path.parent.iterdir()] == ["r.html"]
    assert path.read_text().startswith("<!doctype html>")


def test_a_run_with_a_temporal_network_shows_films(temporal_artifact, tmp_path, photo):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        save_rgb(tmp_path / "photos" / name, photo)
    shutil.copytree(temporal_artifact.directory, tmp_path / "run" / "network")

    content = gather(tmp_path / "run", tmp_path / "photos")

    assert [film.name for film in content.films] == ["film of a.png, last 3 frames", "film of b.png, last 3 frames"]
    film = content.films[0]
    assert [view.label for view in film.views] == ["blurred", "frame by frame", "temporal", "sharp"]
    assert all(view.image.shape == (128, 384, 3) for view in film.views)
    assert not np.array_equal(film.views[1].image, film.views[2].image)
    assert "## Films" in render_markdown(content)
    assert 'data-label="temporal"' in render_page(content)
