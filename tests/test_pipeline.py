"""The whole way, from a checkpoint to an engine and a table: on a tiny network in detail, on the shipped one once."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.bench.measure import BenchConfig
from deblur_deploy.cli import demo_command, main
from deblur_deploy.cli.options import with_tuning
from deblur_deploy.config import ExportConfig, PruneConfig, QatConfig
from deblur_deploy.core.artifact import Artifact, load_artifact, new_step
from deblur_deploy.core.images import Resolution, load_rgb, save_rgb
from deblur_deploy.core.sources import find_artifacts
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.pipeline.findings import FACT_HEADINGS
from deblur_deploy.quality.gain import SMALL_GAIN_DB
from deblur_deploy.report.content import gather
from deblur_deploy.report.write import write_report

PARENTS = {
    "prune": "source",
    "qat": "prune",
    "onnx-original": "source",
    "onnx-pruned": "prune",
    "onnx-int8": "qat",
    "onnx-fp16": "onnx-int8",
    "engine-fp16": "onnx-fp16",
}
"""Every directory that the demo makes, and the one that it is made from."""

STAGES = ["original", "pruned", "int8", "fp16 engine"]
SIZE = Resolution(160, 96)
REWRITTEN = "summary.md"
"""The only file that is written in every run."""

pytestmark = pytest.mark.rtx


@dataclass(frozen=True)
class Visit:
    """One run of the demo: what it printed, as JSON and for people, and how long it took."""

    answer: dict[str, Any]
    text: str
    seconds: float

    def stages(self, word: str) -> set[str]:
        """Names of the stages that were ``done`` already, or are ``running``."""
        lines = [line.split() for line in self.text.splitlines() if line.startswith(f"{word} ")]
        return {Path(words[1]).name for words in lines}


@dataclass(frozen=True)
class Demo:
    """A directory for what the demo makes of a folder with one photograph and of a source."""

    root: Path
    photos: Path
    source: Artifact

    @property
    def folder(self) -> Path:
        """Where the demo's artifacts are."""
        return self.root / "runs" / "demo-quick"

    def visit(self, qat_steps: int = 1) -> Visit:
        """Run ``deblur-deploy demo --quick`` with few steps and a small frame."""
        bench = BenchConfig(duration_ms=0, warmup_ms=0, min_iterations=1, windows=1, max_windows=1)
        recipe = dataclasses.replace(
            demo_command.demo_recipe("RTX 2080 Ti", str(self.photos), quick=True),
            prune=with_tuning(PruneConfig(importance="l2"), None, 1),
            qat=with_tuning(QatConfig(), None, qat_steps),
            export=ExportConfig(SIZE.width, SIZE.height),
            bench=bench,
        )
        options = ("--quick", "--images", self.photos, "--runs", self.root / "runs", "--json")
        out, err, on_terminate = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
        started = time.perf_counter()
        with (
            mock.patch.object(sys, "argv", ["deblur-deploy", "demo", str(self.source.directory), *map(str, options)]),
            mock.patch.object(demo_command, "demo_recipe", return_value=recipe),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ending,
        ):
            main()
        signal.signal(signal.SIGTERM, on_terminate)
        assert ending.value.code == 0, err.getvalue()
        return Visit(json.loads(out.getvalue()), err.getvalue(), time.perf_counter() - started)

    def times(self) -> dict[str, int]:
        """When each file was last written."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and path.name != REWRITTEN)
        return {str(path.relative_to(self.folder)): path.stat().st_mtime_ns for path in files}

    def artifacts(self) -> dict[str, Artifact]:
        """Every artifact, by name of its directory."""
        return {"source": self.source} | {name: load_artifact(self.folder / name) for name in PARENTS}


@pytest.fixture(scope="module")
def demo(_drawn_photo: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A tiny generator and one photograph of 320x200."""
    root = tmp_path_factory.mktemp("demo")
    (root / "photos").mkdir()
    save_rgb(root / "photos" / "drawn.png", np.tile(_drawn_photo, (2, 2, 1))[:200, :320])
    torch.manual_seed(11)
    net = SRN(SRNConfig.from_base(8, (1, 1, 1)))
    torch.nn.init.normal_(net.head.weight, std=0.02)
    torch.nn.init.normal_(net.deform.deform.conv_offset.weight, std=0.02)
    step = new_step("import", {}, None, measure_cost(net))
    return Demo(root, root / "photos", save_network(root / "source", net, spec_of(net), step))


@pytest.fixture(scope="module")
def first(demo: Demo) -> Visit:
    """The first run of the demo. Tests may run it again, so they hold for a finished demo, not for its first run."""
    return demo.visit()


def test_the_first_run_runs_every_stage(first):
    assert first.stages("running") == set(PARENTS)
    assert first.stages("done") == set()


def test_every_artifact_is_there_and_names_its_parent(demo, first):
    artifacts = demo.artifacts()

    for name, parent in PARENTS.items():
        *earlier, last = artifacts[name].history
        assert last.parent == artifacts[parent].sha256
        assert [step.created for step in earlier] == [step.created for step in artifacts[parent].history]
    assert {artifact.directory.name for artifact in find_artifacts(demo.folder)} == set(PARENTS)


def test_the_engine_is_for_the_default_card(demo, first):
    engine = load_artifact(demo.folder / "engine-fp16")

    assert engine.path == demo.folder / "engine-fp16" / "model.engine"
    assert engine.path.stat().st_size > 100_000
    assert (engine.figures["capability"], engine.kind) == ("7.5", "engine")
    assert engine.figures["precision"]["fp16"] >= 0.9
    assert (engine.image.width, engine.image.height) == (SIZE.width, SIZE.height)


def test_the_table_has_every_stage(demo, first):
    rows = first.answer["rows"]

    assert [row["stage"] for row in rows] == STAGES
    runtimes = {row["runtime"] for row in first.answer["bench"]["results"] if row["latency_ms"]}
    assert {"torch", "onnxruntime", "openvino"} <= runtimes
    for row in rows:
        assert tuple(row)[: len(FACT_HEADINGS)] == FACT_HEADINGS
        assert set(row) - set(FACT_HEADINGS) == {f"{runtime} ms" for runtime in runtimes}
    quality, artifacts = first.answer["quality"], demo.artifacts()
    for row, name in zip(rows, ("onnx-original", "onnx-pruned", "onnx-int8", "engine-fp16"), strict=True):
        assert row["file"] == artifacts[name].path.name
        assert int(row["parameters"].replace(",", "")) == artifacts[name].figures["params"]
        assert float(row["PSNR dB"]) == pytest.approx(quality["psnr_db"][row["stage"]], abs=0.006)
        lost = quality["psnr_db"]["original"] - quality["psnr_db"][row["stage"]]
        assert float(row["dB lost"]) == pytest.approx(lost, abs=0.006)
        gains = [quality["psnr_db"][stage] - quality["blurred_db"] for stage in (row["stage"], "original")]
        assert row["gain kept"] == (f"{gains[0] / gains[1]:.0%}" if gains[1] >= SMALL_GAIN_DB else "too small to tell")
    for row in rows[:3]:
        assert float(row["onnxruntime ms"]) >= 0
        assert float(row["openvino ms"]) >= 0
    assert rows[0]["torch ms"] != rows[3]["torch ms"]
    assert (quality["images"], rows[3]["onnxruntime ms"], rows[3]["openvino ms"]) == (1, "–", "–")
    for word in (*rows[0], *STAGES, "blurred input"):
        assert word in first.text


def test_the_table_is_written_as_markdown(demo, first):
    heading, rule, *rows = (demo.folder / "summary.md").read_text().splitlines()

    columns = list(first.answer["rows"][0])
    assert heading == "| " + " | ".join(columns) + " |"
    assert rule == "|" + "---|" * len(columns)
    assert [row.split(" | ")[0] for row in rows[:4]] == [f"| {stage}" for stage in STAGES]
    assert rows[-1].endswith("mean of 1 photographs.")


def test_the_report_shows_before_and_after(demo, first, tmp_path):
    page = demo.folder / "report.html"
    assert first.answer["report"] == str(page)
    assert f"report    {page}" in first.text
    assert "drawn.png, blurred" in page.read_text()

    content = gather(demo.folder)
    assert [row[0] for row in content.charts[0].rows] == ["blurred input", *STAGES]
    assert content.absent.keys() == {"sensitivity"}
    (path,) = [path for path in write_report(content, tmp_path, "png") if path.parent.name == "photographs"]
    sheet = load_rgb(path)

    photo = load_rgb(demo.photos / "drawn.png")
    top, left = (200 - SIZE.height) // 2, (320 - SIZE.width) // 2
    height = sheet.shape[0] // 2
    assert path.name == "drawn.png"
    assert sheet.shape == (2 * height, 2 * SIZE.width, 3)
    assert SIZE.height < height <= SIZE.height + 40
    panels = [sheet[y : y + SIZE.height, x : x + SIZE.width] for y in (0, height) for x in (0, SIZE.width)]
    sharp = photo[top : top + SIZE.height, left : left + SIZE.width]
    assert np.array_equal(panels[1], sharp)
    for panel in (panels[0], *panels[2:]):
        assert 10 < -10 * np.log10(np.mean((panel / 255.0 - sharp / 255.0) ** 2)) < 60
    assert len({panel.tobytes() for panel in panels}) == 4


def test_a_second_run_does_nothing(demo, first):
    before = demo.times()

    second = demo.visit()

    assert demo.times() == before
    assert second.stages("done") == set(PARENTS)
    assert second.stages("running") == second.stages("measuring") == set()
    assert second.answer == demo.visit().answer
    assert second.seconds < 5


@pytest.mark.parametrize("name", ["onnx-pruned", "onnx-int8"])
def test_a_stage_that_was_removed_runs_again_alone(demo, first, name):
    """The same bytes come out, so that what was made from them still fits."""
    before = demo.times()
    shutil.rmtree(demo.folder / name)

    again = demo.visit()

    assert again.stages("running") == {name}
    assert again.stages("done") == set(PARENTS) - {name}
    changed = {path for path, when in demo.times().items() if when != before[path]}
    assert changed == {f"{name}/manifest.json", f"{name}/model.onnx", "run.json"}


def test_what_depends_on_a_changed_stage_runs_again(demo, first, tmp_path):
    copy = dataclasses.replace(demo, root=tmp_path)
    shutil.copytree(demo.folder, copy.folder)
    before, kept = copy.times(), {"prune", "onnx-original", "onnx-pruned"}

    again = copy.visit(qat_steps=2)

    assert again.stages("done") == kept
    assert again.stages("running") == set(PARENTS) - kept
    same = {path for path, when in copy.times().items() if when == before[path]}
    assert {Path(path).parts[0] for path in same} == kept
    test_every_artifact_is_there_and_names_its_parent(copy, again)


@pytest.mark.timeout(1200)
def test_demo_quick_on_the_shipped_generator(tmp_path):
    command = [sys.executable, "-c", "from deblur_deploy.cli import main; main()"]
    arguments = ["demo", "--quick", "--json", "--runs", str(tmp_path / "runs")]

    ended = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=1100)

    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    quality = answer["quality"]
    assert [row["stage"] for row in answer["rows"]] == STAGES
    assert list(quality["psnr_db"]) == STAGES
    assert all(psnr_db > quality["blurred_db"] - 0.5 for psnr_db in quality["psnr_db"].values()), quality
    assert quality["psnr_db"]["original"] > quality["blurred_db"]
    table = [line for line in ended.stderr.splitlines() if line.startswith(("stage ", *(f"{s} " for s in STAGES)))]
    assert [line.split("  ")[0] for line in table] == ["stage", *STAGES]
    assert (tmp_path / "runs" / "demo-quick" / "engine-fp16" / "model.engine").stat().st_size > 1_000_000
