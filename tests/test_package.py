"""The wheel and the sdist: built, installed into a clean environment outside of the clone, and used from there."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def call(*arguments: object, cwd: Path) -> str:
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(list(map(str, arguments)), cwd=cwd, env=own, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    return ended.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, made from the sdist as an installer makes it, and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=unpacked)
    (wheel,) = folder.glob("*.whl")
    return wheel, sdist


@pytest.mark.slow
def test_the_wheel_holds_the_program_and_its_data_and_no_tests(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
    assert {"deblur_deploy/core/artifact.py", "deblur_deploy/_data/models/srn-demo/manifest.json"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"deblur_deploy"}
    assert any(name.endswith("LICENSE") for name in names)


@pytest.mark.slow
@pytest.mark.rtx
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("which", [0, 1], ids=["wheel", "sdist"])
def test_it_works_from_a_clean_environment(built: tuple[Path, Path], which: int, tmp_path: Path) -> None:
    """The environment has the libraries of the one that runs the tests, and of the project what was built."""
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    install = ("-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", "-q")
    # The libraries come after the project, and only their folder: no .pth file in it is read.
    (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    call(python, *install, built[which], cwd=tmp_path)

    where = call(python, "-c", "import deblur_deploy; print(deblur_deploy.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(tmp_path / "clean")
    assert "prune" in call(tmp_path / "clean" / "bin" / "deblur-deploy", "--help", cwd=tmp_path)
    if which == 0:
        call(tmp_path / "clean" / "bin" / "deblur-deploy", "demo", "--quick", cwd=tmp_path)
        assert (tmp_path / "runs" / "demo-quick" / "engine-fp16" / "manifest.json").is_file()
