"""Files and functions stay short enough to be read at one go."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50


def too_long(path: Path) -> list[str]:
    """What in a file is over the limits.

    A function counts from its ``def`` to its last line; that of a command from its body on, since it has as many
    arguments as the command has options.
    """
    source = path.read_text(encoding="utf-8")
    lines = len(source.splitlines())
    found = [f"{path.name}: {lines} lines"] if lines > MAX_FILE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
            first = node.body[0].lineno if node.name == "command" else node.lineno
            length = node.end_lineno - first + 1
            if length > MAX_FUNCTION_LINES:
                found.append(f"{path.name}:{node.lineno}: {node.name} has {length} lines")
    return found


def test_no_file_and_no_function_is_too_long() -> None:
    files = [*(ROOT / "deblur_deploy").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    assert len(files) > 40
    assert [complaint for path in sorted(files) for complaint in too_long(path)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = 1\n" * 400, []),
        ("x = 1\n" * 401, ["module.py: 401 lines"]),
        ("def f():\n" + "    x = 1\n" * 49, []),
        ("def f():\n" + "    x = 1\n" * 50, ["module.py:1: f has 51 lines"]),
        ("def command(\n" + "    x,\n" * 49 + "):\n" + "    x = 1\n" * 50, []),
        ("def command():\n" + "    x = 1\n" * 51, ["module.py:1: command has 51 lines"]),
        ("class A:\n    async def f(self):\n" + "        x = 1\n" * 50, ["module.py:2: f has 51 lines"]),
    ],
    ids=["400 lines", "401 lines", "function of 50", "function of 51", "options", "command of 51", "method of 51"],
)
def test_what_is_too_long_is_found(tmp_path: Path, source: str, found: list[str]) -> None:
    (tmp_path / "module.py").write_text(source)
    assert too_long(tmp_path / "module.py") == found
