"""``report`` on a tiny chain: what it writes, what it prints, and what it refuses."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from deblur_deploy.cli.console import Output
from deblur_deploy.pipeline.findings import write_page


def test_a_page_of_the_newest_run_with_restored_photographs(run, runs, chain, tmp_path):
    outcome = run("report", "--runs", runs, "--out", tmp_path / "r.html", "--json").done()

    answer = outcome.json
    assert answer.keys() == {"report", "format", "files", "summary", "charts", "photographs", "absent"}
    assert (answer["format"], answer["files"]) == ("html", [str(tmp_path / "r.html")])
    assert sorted(answer["photographs"]) == ["1.png", "3.png"]  # those first that gained most
    assert answer["charts"][:2] == ["size", "precision"]  # and layers, once another test has built an engine here
    assert answer["absent"].keys() - {"precision-section"} == {"cost", "speed", "sensitivity"}
    assert f"run       {runs} (it has the newest artifact" in outcome.err
    page = (tmp_path / "r.html").read_text()
    for label in ("blurred", "original", "int8", "sharp"):
        assert f'data-label="{label}"' in page


def test_photographs_of_the_user_s_own_as_markdown_and_as_plots(run, runs, chain, small_set, tmp_path):
    folder = small_set / "photos" / "images"
    run("report", runs, "--images", folder, "--out", tmp_path / "r.md").done()
    assert "| 0.png |" in (tmp_path / "r.md").read_text()

    answer = run("report", runs, "--out", tmp_path / "plots", "--json").done().json
    assert answer["format"] == "png"
    made = {str(path.relative_to(tmp_path / "plots")) for path in (tmp_path / "plots").rglob("*.png")}
    assert made - {"layers.png"} == {"size.png", "precision.png", "photographs/1.png", "photographs/3.png"}


def test_what_cannot_be_reported_is_refused(refuse, chain, runs, tmp_path):
    assert "there is no artifact under" in refuse(1, "report")
    assert "there is no directory" in refuse(1, "report", tmp_path / "nowhere")
    assert "holds no artifact" in refuse(1, "report", tmp_path)
    assert "there is no report format 'pdf'" in refuse(2, "report", runs, "--format", "pdf")
    assert "does not say which report" in refuse(2, "report", runs, "--out", tmp_path / "r.pdf")


def test_a_folder_that_was_named_has_to_be_shown(refuse, chain, runs, tmp_path):
    (tmp_path / "empty").mkdir()
    message = refuse(1, "report", runs, "--images", tmp_path / "empty", "--out", tmp_path / "r.html")
    assert str(tmp_path / "empty") in message.replace("\n", "")


@pytest.mark.parametrize("name", ["r.html", "r.md"])
def test_a_report_beside_a_file_is_refused_before_the_work(refuse, chain, runs, tmp_path, name):
    (tmp_path / "file").touch()
    assert "cannot be written" in refuse(1, "report", runs, "--out", tmp_path / "file" / name)


def test_a_run_without_matplotlib_ends_without_its_page(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for module in ("content", "canvas"):
        monkeypatch.delitem(sys.modules, f"deblur_deploy.report.{module}", raising=False)
    nothing: Any = None
    assert write_page(nothing, nothing, None, tmp_path, Output()) is None
    assert "pip install 'deblur-deploy[report]'" in capsys.readouterr().out
