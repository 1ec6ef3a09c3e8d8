"""The guide in docs/: every command runs on small networks, every quoted message exists, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from deblur_deploy.core.images import save_rgb

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md") if path.name != "plugin.md")  # tests/kernels runs plugin.md
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "deblur_deploy").rglob("*.py")))
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])

HURRY = {
    "prune": {"--steps": "2"},
    "qat": {"--steps": "2"},
    "bench": {"--seconds": "0.05", "--res": "64x48", "--runtime": "onnxruntime"},
}
"""Options that keep a command short, where it says nothing else itself."""

BEFORE: dict[str, list[str]] = {
    "keep-ratio.md": ["import generator.pth"],
    "benchmarking.md": [
        "import generator.pth",
        "export-onnx --res 64x48",
        "export-onnx --res 64x48 --out runs/elsewhere",
    ],
    "temporal.md": ["import generator.pth --out runs/generator"],
    "unpaired.md": ["import generator.pth --out runs/generator"],
    "report.md": ["import generator.pth --runs runs/my-run", "export-onnx --res 64x48 --runs runs/my-run"],
}
"""What a user has done before the commands of a page."""

UNET = """
import torch


def small_unet():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.ReLU(),
        torch.nn.Conv2d(16, 3, 3, padding=1),
    )
"""


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """Words of every `deblur-deploy` line of a page, without the program's name and what stands before it."""
    lines = [shlex.split(line, comments=True) for block in blocks(page, "sh") for line in block.splitlines()]
    return [line[line.index("deblur-deploy") + 1 :] for line in lines]


PAGES_WITH_COMMANDS = [page for page in PAGES if commands(page)]


@pytest.fixture
def project(photo, tiny_weights, tmp_path, monkeypatch):
    """A user's folder, with everything that the pages name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(tiny_weights, "generator.pth")
    Path("my_networks").mkdir()
    Path("my_networks/unet.py").write_text(UNET)
    made: dict[str, torch.nn.Module] = {}
    exec(f"{UNET}\nmade['net'] = small_unet()", {"made": made})
    torch.save(made["net"].state_dict(), "unet.pth")
    large = np.tile(photo, (4, 5, 1))[:400, :680]
    Path("my-photos").mkdir()
    for index, view in enumerate((large, large[::-1], large[:, ::-1])):
        save_rgb(Path(f"my-photos/{index}.png"), np.ascontiguousarray(view))
    Path("my-footage").mkdir()
    save_rgb(Path("my-footage/0.png"), np.ascontiguousarray(large[::-1, ::-1]))
    recipes = ("your-own-checkpoint.md", "training.md", "temporal.md", "unpaired.md")
    for block in (block for page in recipes for block in blocks(page, "toml")):
        name = block.splitlines()[0].removeprefix("# ")
        # Two steps on a network of random weights keep nothing of a gain that it does not have.
        Path(name).write_text(re.sub(r"min_gain_kept = .*\n", "", re.sub(r"steps = \d+", "steps = 2", block)))
    return tmp_path


def prepare(page, run):
    for line in BEFORE.get(page, []):
        run(*line.split()).done()
    if Path("runs/elsewhere").exists():
        Path("runs/elsewhere").rename("elsewhere")
        Path("elsewhere/model.onnx").rename("external.onnx")


def run_short(run, words):
    options = {} if {"--scan", "--dry-run"} & set(words) else HURRY.get(words[0], {})
    missing = [word for option, value in options.items() if option not in words for word in (option, value)]
    run(*words, *(["--no-floor"] if words[0] == "bench" else []), *missing).done()


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS)
def test_every_command_works(page, project, run):
    prepare(page, run)
    for words in commands(page):
        if "--sweep" not in words:
            run_short(run, words)


@pytest.mark.slow
@pytest.mark.usefixtures("project")
def test_the_sweep_works(run):
    prepare("benchmarking.md", run)
    (sweep,) = [words for words in commands("benchmarking.md") if "--sweep" in words]

    run_short(run, sweep)


@pytest.mark.parametrize("page", PAGES)
def test_other_lines_are_of_a_known_kind(page):
    """What is no `deblur-deploy` command: pip lines, whose extras exist, and commands for machines with a GPU."""
    text = (DOCS / page).read_text(encoding="utf-8")
    assert set(re.findall(r"^```([a-z]*)$", text, re.MULTILINE)) <= {"", "sh", "text", "toml", "python"}
    for line in (line for block in blocks(page, "text") for line in block.splitlines()):
        if match := re.fullmatch(r"pip install 'deblur-deploy\[([a-z,]+)\]'", line):
            assert set(match[1].split(",")) <= EXTRAS
        else:
            only_on_gpu = line.startswith("deblur-deploy export-trt ") and line.endswith("--target current")
            # Searches that time networks: test_prune_command.py and test_bench_command.py run them.
            timed = re.match(r"deblur-deploy (prune .*--(max-ms|min-fps|curve)|bench .*--latency-table)\b", line)
            assert only_on_gpu or timed or line == "deblur-deploy demo", "test_pipeline.py runs the demo"


def test_the_table_of_extras_names_extras():
    named = re.findall(r"^\| `([a-z]+)` \|", (DOCS / "install.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert named
    assert set(named) <= EXTRAS


def quoted_messages() -> list[str]:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    heads = re.findall(r"^\*\*(`.*?)\*\*", text, re.MULTILINE)
    return [message for head in heads for message in re.findall(r"`(.*?)`", head)]


@pytest.mark.parametrize("message", quoted_messages())
def test_every_quoted_message_exists(message):
    pieces = [piece.strip() for piece in message.split("…") if piece.strip()]
    assert max(map(len, pieces)) > 6, "too little to recognise"

    for piece in pieces:
        assert piece in SOURCE


@pytest.mark.parametrize("page", [*PAGES, "plugin.md"])
def test_links_lead_somewhere(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        assert (DOCS / target).exists(), target


def test_the_index_lists_every_page():
    index = (DOCS / "README.md").read_text(encoding="utf-8")

    assert set(re.findall(r"\]\(([a-z-]+\.md)\)", index)) == {page.name for page in DOCS.glob("*.md")} - {"README.md"}
