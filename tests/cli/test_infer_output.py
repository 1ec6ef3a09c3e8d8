"""What ``infer`` prints: a line per file, names of strangers as they are, and an end that groups what was said."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from deblur_deploy.cli.console import Output
from deblur_deploy.cli.infer_output import conclude, restore_jobs
from deblur_deploy.cli.infer_preview import write_previews
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import ImageSpec, load_rgb, save_rgb
from deblur_deploy.core.units import one_line
from deblur_deploy.infer.jobs import Job, find_jobs
from deblur_deploy.infer.run import FileResult, InferReport, Progress
from deblur_deploy.infer.settings import InferConfig


class Files:
    """What restores files here: it only says what became of them."""

    shows_seams, deaths = False, 0

    def __init__(self, *results: FileResult, stop_after: int | None = None) -> None:
        self.report = InferReport("artifact", "torch")
        self._results, self._stop_after = results, stop_after

    def run(self, jobs, notify):
        for index, (job, result) in enumerate(zip(jobs, self._results, strict=True)):
            if index == self._stop_after:
                raise KeyboardInterrupt
            notify(Progress(job, 0, 1))
            self.report.files.append(result)
            notify(Progress(job, 1, 1, result))


def jobs_of(*results: FileResult) -> list[Job]:
    return [Job(Path(result.input), Path(result.output), result.input) for result in results]


def result_of(name: str, status="done", error=None, notes=()) -> FileResult:
    return FileResult(name, f"out/{name}", status, int(status == "done"), 1, error, notes)


def output_to(terminal: bool) -> tuple[Output, io.StringIO]:
    output, text = Output(), io.StringIO()
    output.console = Console(
        file=text, force_terminal=terminal, width=200, highlight=False, emoji=False, soft_wrap=True, color_system=None
    )
    return output, text


STRANGE = ["[/bold].png", "a\nwrote     9 files.png", "tab\there.png", "\udce4.png", "[red]x[/red].png"]


@pytest.mark.parametrize("terminal", [False, True])
def test_names_of_strangers_are_printed_as_they_are_on_one_line(terminal):
    results = [result_of(name, *(("failed", f"{name} is bad; mend it") if "bold" in name else ())) for name in STRANGE]
    output, text = output_to(terminal)
    files = Files(*results)
    restore_jobs(output, files, jobs_of(*results), lines=True)
    with pytest.raises(ArtifactError) as caught:
        conclude(output, files.report, Path("out"))
    lines = [re.sub(r"\x1b\[[0-9?;]*[A-Za-z]", "", line).strip() for line in re.split(r"[\r\n]", text.getvalue())]
    for name in STRANGE[1:]:
        assert f"done      {one_line(name)}" in lines
    assert "failed    [/bold].png is bad; mend it" in lines
    assert not [line for line in lines if line.startswith("wrote     9")]
    assert "\n" not in caught.value.message
    assert one_line("a\nb\t\x1b[31m") == r"a\nb\t\x1b[31m"


def test_a_pipe_gets_a_line_as_each_file_is_done_and_a_terminal_the_failures():
    results = [
        result_of("a.png", notes=("a palette",)),
        result_of("b.png", "skipped"),
        result_of("c.png", "failed", "no"),
    ]
    output, text = output_to(terminal=False)
    restore_jobs(output, Files(*results), jobs_of(*results))
    assert text.getvalue().splitlines() == ["done      a.png (a palette)", "skipped   b.png", "failed    no"]
    output, text = output_to(terminal=True)
    restore_jobs(output, Files(*results), jobs_of(*results))
    assert "failed    no" in text.getvalue()
    assert "done      a.png" not in text.getvalue()


def test_ctrl_c_says_how_many_are_done_and_how_to_go_on():
    results = [result_of(f"{index}.png") for index in range(5)]
    output, text = output_to(terminal=False)
    with pytest.raises(KeyboardInterrupt):
        restore_jobs(output, Files(*results, stop_after=3), jobs_of(*results))
    assert "stopped   3 of 5 files are done; the same command with --resume goes on" in text.getvalue()


def test_the_end_groups_failures_and_notes_and_counts_what_was_passed_over():
    bad = [result_of(f"in/{n}.jpg", "failed", f"in/{n}.jpg cannot be read: cut off; copy it again") for n in range(12)]
    other = result_of("in/x.tif", "failed", "in/x.tif is camera RAW, which is not supported; develop it first")
    noted = [result_of(f"in/{n}.png", notes=("its palette is written as colours",)) for n in range(2)]
    files = Files(*noted, *bad, other)
    files.report.files += [*noted, *bad, other]
    files.report.passed_over = Counter({".nef": 3, ".txt": 1})
    output, text = output_to(terminal=False)
    with pytest.raises(ArtifactError, match=r"13 of 15 files failed: 0\.jpg, .* and 3 more"):
        conclude(output, files.report, Path("out"))
    lines = text.getvalue().splitlines()
    assert "passed    over 4 files of the folders: 3 .nef (camera RAW), 1 .txt" in lines
    assert "note      2 files (0.png, 1.png): its palette is written as colours" in lines
    named = ", ".join(f"{n}.jpg" for n in range(10))
    assert f"failed    12 files ({named} and 2 more): cannot be read: cut off; copy it again" in lines
    assert "failed    in/x.tif: is camera RAW, which is not supported; develop it first" in lines
    assert files.report.as_json()["passed_over"] == {".nef": 3, ".txt": 1}


class Darker:
    """A network that takes a tenth of white away."""

    name, image = "darker", ImageSpec()

    def infer(self, batch):
        return batch - np.float32(0.1)


def test_a_preview_shows_the_middle_of_a_few_pictures(tmp_path, photo):
    for index in range(9):
        save_rgb(tmp_path / "in" / f"{index}.png", np.tile(photo, (4, 4, 1))) if index else (tmp_path / "in").mkdir()
    jobs = find_jobs([tmp_path / "in"], tmp_path / "out")
    sheets = write_previews(Darker(), jobs, tmp_path / "out", InferConfig())
    assert [sheet.name for sheet in sheets] == ["1.png.png", "3.png.png", "6.png.png", "8.png.png"]
    sheet = load_rgb(sheets[0])
    assert sheet.shape[1] == 1024
    before, after = sheet[:512, :512].astype(int), sheet[:512, 512:].astype(int)
    assert np.array_equal(before, np.tile(photo, (4, 4, 1))[64:576, 160:672])
    assert np.abs(after - (before - 25.5).clip(0)).max() <= 0.51
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"preview"}
    with pytest.raises(ConfigError, match="no picture or film to preview"):
        write_previews(Darker(), [Job(Path("a.dcm"), Path("b.dcm"), "a.dcm")], tmp_path, InferConfig())
