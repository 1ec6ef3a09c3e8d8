"""``infer`` as a user types it: folders, one bad file among good ones, pipes, a drop folder, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from deblur_deploy import deblur, load_artifact, open_runner
from deblur_deploy.core.images import load_rgb, save_rgb

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def network(chain, made):
    """The artifact of a tiny network, as a checkpoint."""
    return made["import"]


@pytest.fixture
def photos(tmp_path, photo):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    save_rgb(folder / "a.png", photo[:48, :64])
    save_rgb(folder / "sub" / "b.png", photo[10:58, :64])
    return folder


def expected(network, path):
    with open_runner(load_artifact(network)) as runner:
        return deblur(runner, load_rgb(path))


def test_a_folder_is_restored_into_another(run, network, photos, tmp_path):
    outcome = run("infer", network, photos, "--out", tmp_path / "out", "--json").done()

    answer = outcome.json
    assert (answer["done"], answer["skipped"], answer["failed"], answer["frames"]) == (2, 0, 0, 2)
    assert answer["runtime"] == "torch"
    assert [Path(file["output"]).relative_to(tmp_path / "out").as_posix() for file in answer["files"]] == [
        "a.png",
        "sub/b.png",
    ]
    for name in ("a.png", "sub/b.png"):
        assert np.array_equal(load_rgb(tmp_path / "out" / name), expected(network, photos / name))

    again = run("infer", network, photos, "--out", tmp_path / "out", "--resume", "--json").done().json
    assert (again["done"], again["skipped"]) == (0, 2)


def test_a_fixed_size_graph_restores_what_is_larger_in_tiles(run, made, photos, tmp_path):
    save_rgb(photos / "large.png", np.tile(load_rgb(photos / "a.png"), (3, 3, 1)))
    outcome = run("infer", made["export-onnx"], photos, "--out", tmp_path / "out", "--pattern", "l*", "--json").done()

    assert outcome.json["files"][0]["tiles"] > 1
    assert "seams may show" in outcome.err  # the graph takes 64x48, which is less than the network reaches
    assert load_rgb(tmp_path / "out" / "large.png").shape == (144, 192, 3)


def test_one_bad_file_fails_the_run_by_name_and_the_others_are_done(run, network, photos, tmp_path):
    (photos / "broken.jpg").write_text("no picture")
    outcome = run("infer", network, photos, "--out", tmp_path / "out", "--format", "webp", "--json")

    error = outcome.refusal(1)
    assert "1 of 3 files failed: broken.jpg" in error
    assert f"failed    {photos / 'broken.jpg'} is not an image" in error
    assert outcome.json["failed"] == 1
    with Image.open(tmp_path / "out" / "sub" / "b.webp") as image:
        assert image.format == "WEBP"
    assert not (tmp_path / "out" / "broken.webp").exists()


def test_what_cannot_be_done_is_refused_before_anything_is_written(refuse, network, photos, tmp_path):
    out = tmp_path / "out"
    assert "there is no" in refuse(1, "infer", network, photos / "missing.png", "--out", out)
    assert "is not an artifact" in refuse(1, "infer", photos, photos, "--out", out)
    assert "--out is the input folder" in refuse(2, "infer", network, photos, "--out", photos)
    assert "name a folder with --out" in refuse(2, "infer", network, photos)
    assert "either files and folders or --watch" in refuse(2, "infer", network, "--out", out)
    assert "either files" in refuse(2, "infer", network, photos, "--watch", photos, "--out", out)
    assert "there is no format 'gif'" in refuse(2, "infer", network, photos, "--out", out, "--format", "gif")
    assert "quality is 101" in refuse(2, "infer", network, photos, "--out", out, "--quality", 101)
    assert "crf is -1" in refuse(2, "infer", network, photos, "--out", out, "--crf", -1)
    assert "'much' is not an amount of memory" in refuse(
        2, "infer", network, photos, "--out", out, "--max-memory", "much"
    )
    assert "the network alone takes" in refuse(2, "infer", network, photos, "--out", out, "--max-memory", "20MB")
    assert "is not a resolution" in refuse(2, "infer", network, photos, "--out", out, "--tile", "64")
    assert "write `infer SOURCE - --out - --raw" in refuse(2, "infer", network, "-", "--out", out)
    assert "both need stdout" in refuse(2, "infer", network, "-", "--out", "-", "--raw", "8x8")
    assert "there is no engine 'spark'" in refuse(2, "infer", network, photos, "--out", out, "--engine", "spark")
    assert "--workers is for a cluster" in refuse(2, "infer", network, photos, "--out", out, "--workers", 2)
    assert "poll is 0" in refuse(2, "infer", network, "--watch", photos, "--out", out, "--poll", 0)


def test_a_cluster_without_ray_is_a_missing_extra(refuse, network, photos, tmp_path):
    with mock.patch.dict(sys.modules, {"ray": None}):
        sys.modules.pop("deblur_deploy.infer.cluster", None)
        refusal = refuse(1, "infer", network, photos, "--out", tmp_path / "out", "--engine", "ray")
    assert "pip install 'deblur-deploy[ray]'" in refusal


def test_triton_gets_a_repository_from_a_graph(run, refuse, made, network, tmp_path):
    outcome = run("export-triton", made["export-onnx"], "--out", tmp_path / "served", "--name", "sharpen").done()
    assert "takes     blurred, TYPE_FP32 of 1x3x48x64" in outcome.out
    assert (tmp_path / "served" / "models" / "sharpen" / "1" / "model.onnx").is_file()
    assert "this stage cannot start from" in refuse(1, "export-triton", network, "--out", tmp_path / "other")
    assert "device is 'tpu'" in refuse(2, "export-triton", network, "--out", tmp_path / "other", "--device", "tpu")
    assert not (tmp_path / "other").exists()


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def test_raw_frames_go_through_a_pipe(network, photo):
    frames = [np.ascontiguousarray(np.roll(photo, index, 0)[:21, :35]) for index in range(3)]
    arguments = ["infer", str(network), "-", "--out", "-", "--raw", "35x21"]
    child = subprocess.run(
        [sys.executable, "-m", "deblur_deploy.cli", *arguments],
        input=b"".join(frame.tobytes() for frame in frames),
        capture_output=True,
        env=environment(),
        timeout=120,
    )
    assert child.returncode == 0, child.stderr.decode()
    with open_runner(load_artifact(network)) as runner:
        assert child.stdout == b"".join(deblur(runner, frame).tobytes() for frame in frames)
    assert b"restored  3 frames of 35x21" in child.stderr


def test_a_drop_folder_is_served_until_ctrl_c(network, photos, tmp_path):
    """A real process: a file that is there, one that comes later, Ctrl-C, exit code 0."""
    arguments = ["infer", str(network), "--watch", str(photos), "--out", str(tmp_path / "out"), "--poll", "0.1"]
    child = subprocess.Popen(
        [sys.executable, "-m", "deblur_deploy.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    try:
        wait_for(tmp_path / "out" / "a.png", child)
        (photos / "late.png").write_bytes((photos / "a.png").read_bytes())
        wait_for(tmp_path / "out" / "late.png", child)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, err
    assert "wrote     3 files" in out
    assert (tmp_path / "out" / "late.png").read_bytes() == (tmp_path / "out" / "a.png").read_bytes()


def test_two_processes_never_write_one_folder(run, network, photos, tmp_path):
    out = tmp_path / "out"
    arguments = [network, "--watch", photos, "--out", out, "--poll", "0.05"]
    child = subprocess.Popen(
        [sys.executable, "-m", "deblur_deploy.cli", "infer", *map(str, arguments)], env=environment(), text=True
    )
    try:
        wait_for(out / "a.png", child)
        partial = out / ".late.abcd_123.partial.png"
        partial.write_bytes(b"half of what the first process writes")
        refusal = run("infer", network, photos, "--out", out).refusal(1)
        assert f"out is in use by process {child.pid} (" in refusal.replace("\n", " ")
        assert partial.exists()
    finally:
        child.kill()
        child.wait()
    run("infer", network, photos, "--out", out).done()
    assert not partial.exists()
    assert not (out / ".lock").exists()


def wait_for(path: Path, child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.05)


@pytest.fixture
def example(network, photos, tmp_path):
    """The Python block of the README, with a tiny network and a small picture in the place of the user's."""
    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]
    (program,) = [block.split("```")[0] for block in blocks if "open_runner" in block]
    program = program.replace("runs/import-001", str(network)).replace("blurred.jpg", str(photos / "a.png"))
    path = tmp_path / "example.py"
    path.write_text(program.replace("sharp.png", str(tmp_path / "sharp.png")))
    return path


def test_the_example_of_the_readme_runs(example, network, photos):
    subprocess.run([sys.executable, example], env=environment(), check=True, timeout=120)
    assert np.array_equal(load_rgb(example.parent / "sharp.png"), expected(network, photos / "a.png"))


def test_the_example_of_the_readme_type_checks(example):
    pytest.importorskip("mypy", reason="mypy comes with the extra `dev`")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", ROOT / ".mypy_cache", example],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_numbered_frames_are_restored_as_a_film(run, temporal_artifact, film_frames, tmp_path):
    (tmp_path / "film").mkdir()
    for index, frame in enumerate(film_frames[:2]):
        save_rgb(tmp_path / "film" / f"{index}.png", frame)
    film = ("infer", temporal_artifact.directory, tmp_path / "film", "--out")

    answer = run(*film, tmp_path / "together", "--temporal", "--json").done().json
    run(*film, tmp_path / "alone").done()

    assert (answer["done"], answer["failed"]) == (2, 0)
    first, second = ([load_rgb(tmp_path / way / f"{index}.png") for way in ("together", "alone")] for index in (0, 1))
    assert np.array_equal(*first)
    assert not np.array_equal(*second)


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        (["--preview"], (2, "--temporal is for whole films")),
        (["--engine", "ray"], (2, "frames of a film need the frame before them")),
        (["--tile", "32x32"], (1, "2 of 2 files failed")),
    ],
)
def test_what_does_not_go_with_films_is_refused(run, temporal_artifact, photos, more, refused):
    out, (code, message) = photos.with_name("out"), refused
    outcome = run("infer", temporal_artifact.directory, photos, "--out", out, "--temporal", *more)

    assert message in outcome.refusal(code)


def test_a_network_that_takes_no_frame_before_is_refused(run, network, photos, tmp_path):
    outcome = run("infer", network, photos, "--out", tmp_path / "out", "--temporal")

    assert "is not a temporal network" in outcome.refusal(2)
