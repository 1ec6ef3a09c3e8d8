"""The guide in docs/: every command is run on tiny networks, every quoted message exists, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from deblur_deploy.images import save_rgb

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md") if path.name != "plugin.md")  # tests/kernels runs plugin.md
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "deblur_deploy").rglob("*.py")))
MINUTES_LONG = {"prune", "qat"}
"""Stages that fine-tune for minutes; here each gets two steps, unless the command says how many."""

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
    lines = [shlex.split(line) for block in blocks(page, "sh") for line in block.splitlines()]
    return [line[line.index("deblur-deploy") + 1 :] for line in lines]


@pytest.fixture
def project(photo, tiny_weights, tmp_path, monkeypatch):
    """A user's folder, with everything that the pages name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(tiny_weights, "generator.pth")
    Path("my_networks").mkdir()
    Path("my_networks/unet.py").write_text(UNET)
    factory: dict[str, object] = {}
    exec(UNET, factory)  # noqa: S102
    torch.save(factory["small_unet"]().state_dict(), "unet.pth")  # type: ignore[operator]
    large = np.tile(photo, (4, 5, 1))[:400, :680]
    Path("my-photos").mkdir()
    for index, view in enumerate((large, large[::-1], large[:, ::-1])):
        save_rgb(Path(f"my-photos/{index}.png"), np.ascontiguousarray(view))
    for block in blocks("your-own-checkpoint.md", "toml"):
        name = block.splitlines()[0].removeprefix("# ")
        Path(name).write_text(re.sub(r"steps = \d+", "steps = 2", block))
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_every_command_works(page, project, run):
    if page != "your-own-checkpoint.md" and any("runs/import-001" in words for words in commands(page)):
        run("import", "generator.pth").done()
    for words in commands(page):
        short = ("--steps", "2") if words[0] in MINUTES_LONG and not {"--steps", "--scan", "--dry-run"} & set(words) else ()
        run(*words, *short).done()


@pytest.mark.parametrize("page", PAGES)
def test_other_lines_are_of_a_known_kind(page):
    """What is no `deblur-deploy` command: pip lines, whose extras exist, and commands for machines with a GPU."""
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])
    for line in (line for block in blocks(page, "text") for line in block.splitlines()):
        if match := re.fullmatch(r"pip install 'deblur-deploy\[([a-z,]+)\]'", line):
            assert set(match[1].split(",")) <= extras
        else:
            assert line == "deblur-deploy demo" or line.startswith("deblur-deploy export-trt ")
            assert line == "deblur-deploy demo" or line.endswith("--target current"), "only a GPU excuses it"


def test_the_table_of_extras_names_extras():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r"^\| `([a-z]+)` \|", (DOCS / "install.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert named
    assert set(named) <= set(declared)


def quoted_messages() -> list[str]:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    heads = re.findall(r"^\*\*(`.*?)\*\*", text, re.MULTILINE)
    return [message for head in heads for message in re.findall(r"`(.*?)`", head)]


@pytest.mark.parametrize("message", quoted_messages())
def test_every_quoted_message_exists(message):
    pieces = [piece.strip() for piece in message.split("…") if piece.strip()]
    assert max(map(len, pieces)) > 8, "too little to recognise"

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
