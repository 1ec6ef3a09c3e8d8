"""Imports run downward only, names stand once, and the command line starts without the heavy libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import deblur_deploy

PACKAGE = "deblur_deploy"
ROOT = Path(deblur_deploy.__file__).parent

FLOORS = (
    ("cli",),
    ("pipeline",),
    ("report", "bench", "infer"),
    ("training", "compress", "export", "engine"),
    ("quality",),
    ("runtime",),
    ("graph",),
    ("network", "kernels", "data"),
    ("config",),
    ("core",),
)
"""From the top down. A module may import from lower floors, and from its own package."""

OPEN_FLOORS = (("network", "kernels", "data"),)
"""Floors whose rooms may import each other; elsewhere only the command line composes neighbours."""

ALLOWED_SIDEWAYS = {("compress", "training")}

HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "modelopt")


def floor_of(room: str) -> int:
    return next(index for index, rooms in enumerate(FLOORS) if room in rooms)


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported from the package, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            names = [f"{PACKAGE}.{alias.name}" for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] in (PACKAGE, ""))


def violations(root: Path) -> list[str]:
    """What each module under ``root`` imports from beside or above it."""
    found = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        room = relative.parts[0].removesuffix(".py")
        if relative == Path("__init__.py"):
            room = "cli"  # the public names: it imports them when they are asked for, from whichever floor
        if not any(room in rooms for rooms in FLOORS):
            found.append(f"{relative}: {room!r} has no floor")
            continue
        for line, name in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
            if complaint := complaint_about(room, name):
                found.append(f"{relative}:{line}: {complaint}")
    return found


def complaint_about(room: str, name: str) -> str | None:
    """Why ``room`` must not import the module ``name``, or None."""
    if name.startswith("."):
        return "relative import"
    target = name.split(".")[1] if "." in name else None
    if target is None or target == room:
        return None
    if not any(target in rooms for rooms in FLOORS):
        return f"{target!r} has no floor"
    if floor_of(target) > floor_of(room) or (room, target) in ALLOWED_SIDEWAYS:
        return None
    if floor_of(target) < floor_of(room):
        return f"{room} imports {target}, which is above it"
    return None if FLOORS[floor_of(room)] in OPEN_FLOORS else f"{room} imports {target}, which is beside it"


def circles(root: Path) -> list[list[str]]:
    """Groups of files under ``root`` that import each other, be it by a detour, imports inside functions included."""
    names = {".".join((PACKAGE, *path.relative_to(root).with_suffix("").parts)): path for path in root.rglob("*.py")}
    files = {name.removesuffix(".__init__"): path for name, path in names.items()}
    reached: dict[str, set[str]] = {}
    for name, path in files.items():
        targets = set() if name == PACKAGE else imported_files(path, files) - {name}
        reached[name] = targets - {PACKAGE}
    while True:  # everything that can be reached, one step further each time
        wider = {name: seen.union(*(reached[target] for target in seen)) for name, seen in reached.items()}
        if wider == reached:
            break
        reached = wider
    groups = {tuple(sorted(other for other in seen if name in reached[other])) for name, seen in reached.items()}
    return [list(group) for group in sorted(groups) if group]


def imported_files(path: Path, files: Mapping[str, Path]) -> set[str]:
    """Dotted names of the package's files that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
            found.add(str(node.module))
    return found & set(files)


def test_no_files_import_each_other() -> None:
    assert circles(ROOT) == []


def test_a_circle_of_files_is_found(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "a.py").write_text("from deblur_deploy.core import b")
    (tmp_path / "core" / "b.py").write_text("def f():\n    from deblur_deploy.core.c import g")
    (tmp_path / "core" / "c.py").write_text("import deblur_deploy.core.a\nfrom deblur_deploy.core.d import h")
    (tmp_path / "core" / "d.py").write_text("import numpy")
    assert circles(tmp_path) == [[f"{PACKAGE}.core.{name}" for name in "abc"]]


def repeated_names(root: Path) -> list[str]:
    """Names of files and classes that stand in two places under ``root``; a reader searches for one and finds two."""
    files = [path for path in root.rglob("*.py") if not path.name.startswith("__")]
    names = Counter(path.name for path in files)
    for path in files:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        names.update(node.name for node in nodes if isinstance(node, ast.ClassDef))
    return sorted(name for name, count in names.items() if count > 1)


def test_no_file_and_no_class_has_the_name_of_another() -> None:
    assert repeated_names(ROOT) == []


def test_a_name_that_stands_twice_is_found(tmp_path: Path) -> None:
    for room, source in (("graph", "class Plan: ..."), ("infer", "def f():\n    class Plan: ...\nclass Own: ...")):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").touch()
        (tmp_path / room / "plan.py").write_text(source)
    assert repeated_names(tmp_path) == ["Plan", "plan.py"]


def test_imports_run_downward_only() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("runtime/ort.py", "from deblur_deploy.export.trace import trace", "runtime imports export, which is above it"),
        ("network/srn.py", "import deblur_deploy.runtime.eager", "network imports runtime, which is above it"),
        ("core/images.py", "from deblur_deploy import config", "core imports config, which is above it"),
        ("core/errors.py", "def f():\n    import deblur_deploy.cli", "core imports cli, which is above it"),
        ("export/a.py", "from deblur_deploy.compress.prune import p", "export imports compress, which is beside it"),
        ("training/loop.py", "import deblur_deploy.compress", "training imports compress, which is beside it"),
        ("bench/measure.py", "from deblur_deploy.report import chart", "bench imports report, which is beside it"),
        ("data/pairs.py", "from .shake import shake", "relative import"),
        ("helpers.py", "", "'helpers' has no floor"),
        ("cli/__init__.py", "from deblur_deploy.helpers import h", "'helpers' has no floor"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, path: str, source: str, complaint: str) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(source)
    assert [found.rsplit(": ", 1)[1] for found in violations(tmp_path)] == [complaint]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("cli/stages.py", "def prune():\n    from deblur_deploy.compress.prune import prune"),
        ("compress/prune.py", "from deblur_deploy.training.loop import fit"),
        ("data/crops.py", "from deblur_deploy.network import srn\nfrom deblur_deploy.data.shake import shake"),
        ("core/artifact.py", "from deblur_deploy.core.images import ImageSpec\nimport numpy"),
        ("bench/device.py", "from deblur_deploy import __version__"),
    ],
)
def test_a_right_import_is_let_through(tmp_path: Path, path: str, source: str) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(source)
    assert violations(tmp_path) == []


def test_the_command_line_starts_without_heavy_libraries() -> None:
    modules = sorted(f"{PACKAGE}.cli.{path.stem}" for path in (ROOT / "cli").glob("*.py") if path.stem != "__init__")
    assert len(modules) > 10
    script = (
        "import importlib, sys\n"
        f"for name in {[f'{PACKAGE}.cli', *modules]!r}:\n"
        "    importlib.import_module(name)\n"
        f"    print(*(f'{{name}} loads {{heavy}}' for heavy in {HEAVY!r} if heavy in sys.modules), sep='\\n', end='')"
    )
    started = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert started.stdout.splitlines() == []
