"""Runs one command and turns its outcome into an exit code."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence
from typing import cast

import typer

from deblur_deploy.cli.console import release_stdout
from deblur_deploy.cli.options import release_claims
from deblur_deploy.core.errors import BudgetError, ConfigError, DeblurDeployError, MissingDependencyError, first_line

EXIT_FAILED, EXIT_USAGE, EXIT_BUDGET, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 3, 130, 143

_EXTRAS = {
    "torch": "compress",
    "modelopt": "compress",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "cpu",
    "openvino": "cpu",
    "jinja2": "report",
    "matplotlib": "report",
}
"""Optional packages by module, and the extra that brings each; stages import them without asking."""

_NO_MEMORY = ("can't allocate memory", "CUDA out of memory", "bad_alloc", "DataLoader worker (pid")

_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__base__)  # typer gives its base class no public name


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Parse the arguments of one command and run it.

    Args:
        name: A key of ``COMMANDS``; its module is the name with underscores.
        arguments: What follows the name on the command line.

    Returns:
        0 done, 1 a :class:`DeblurDeployError`, 2 bad usage (a :class:`ConfigError` or an unknown option), 3 a missed
        budget, 130 interrupted.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))  # so that staging directories are cleaned up
    try:
        code = _run(name, arguments)
    except DeblurDeployError as err:
        return _fail(err)
    except ModuleNotFoundError as err:
        package = (err.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        missing = f"`deblur-deploy {name}` needs {package}, which is not installed"
        return _fail(MissingDependencyError(missing, hint=f"pip install 'deblur-deploy[{_EXTRAS[package]}]'"))
    except _UsageError as err:
        return _fail(ConfigError(err.format_message(), hint=f"`deblur-deploy {name} --help` lists what it takes"))
    except (MemoryError, RuntimeError) as err:
        if not _is_want_of_memory(err):
            raise
        said = first_line(err)
        hint = "close other programs, or take smaller crops, batches or pictures, or fewer --workers"
        return _fail(DeblurDeployError(f"memory ran out: {said}", hint=hint))
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    finally:
        release_claims()
        release_stdout()
    if code == EXIT_INTERRUPTED:  # typer, too, turns Ctrl-C into this code
        print("Interrupted. Artifacts that were finished are kept.", file=sys.stderr)
    return code


def _is_want_of_memory(err: BaseException) -> bool:
    """Whether an exception says that there is no more memory; PyTorch says it by the text of a RuntimeError.

    The system ends the processes that make crops by SIGKILL where memory runs out.
    """
    return isinstance(err, MemoryError) or any(sign in str(err) for sign in _NO_MEMORY)


def _run(name: str, arguments: Sequence[str]) -> int:
    """Import one command and run it; typer's errors come out as exceptions."""
    module = importlib.import_module(f"deblur_deploy.cli.{name.replace('-', '_')}_command")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(module.command)
    return int(app(list(arguments), prog_name=f"deblur-deploy {name}", standalone_mode=False) or 0)


def _fail(err: DeblurDeployError) -> int:
    """Print an error and its hint; returns the exit code."""
    print(f"Error: {err}", file=sys.stderr)
    if isinstance(err, BudgetError):
        return EXIT_BUDGET
    return EXIT_USAGE if isinstance(err, ConfigError) else EXIT_FAILED
