"""The wheel and the sdist: built, installed into a clean environment outside of the clone, and used from there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def project_name(requirement: str) -> str:
    """The name of a requirement, as PyPI normalises it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def imported_packages(source: str) -> set[str]:
    """Top-level names of everything that a file imports, except from Python and from this package."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"deblur_deploy"}


def test_what_is_imported_is_declared() -> None:
    """Packages that are not installed where the tests run are left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    declared = {project_name(entry) for entries in (project["dependencies"], *extras) for entry in entries}
    providers = packages_distributions()
    files = (ROOT / "deblur_deploy").rglob("*.py")
    imported = set().union(*(imported_packages(path.read_text(encoding="utf-8")) for path in files))
    known = {name: {project_name(provider) for provider in providers[name]} for name in imported if name in providers}
    assert {"numpy", "torch", "onnx", "PIL"} <= known.keys()
    assert {name for name, projects in known.items() if not projects & declared} == set()


def test_an_import_is_found_wherever_it_is() -> None:
    source = "import os\nfrom onnx.helper import make_node\ndef f():\n    import ml_dtypes.finfo, deblur_deploy.cli"
    assert imported_packages(source) == {"onnx", "ml_dtypes"}
    assert project_name("ML_Dtypes[x]>=0.5") == "ml-dtypes"


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
