"""Runs one command and turns its outcome into an exit code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import typer

from deblur_deploy.errors import ConfigError, DeblurDeployError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Parse the arguments of one command and run it.

    Args:
        name: A key of ``COMMANDS``; its module is the name with underscores.
        arguments: What follows the name on the command line.

    Returns:
        0 done, 1 a :class:`DeblurDeployError`, 2 bad usage (a :class:`ConfigError` or an unknown option), 130
        interrupted.
    """
    module = importlib.import_module(f"deblur_deploy.cli.{name.replace('-', '_')}_command")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(module.command)
    try:
        app(list(arguments), prog_name=f"deblur-deploy {name}")
    except DeblurDeployError as err:
        print(f"Error: {err}", file=sys.stderr)
        return EXIT_USAGE if isinstance(err, ConfigError) else EXIT_FAILED
    except KeyboardInterrupt:
        print("Interrupted. What was finished is kept; run the same command again to go on.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except SystemExit as exit_:  # typer ends with the code of its own parsing
        return int(exit_.code or 0)
    return 0
