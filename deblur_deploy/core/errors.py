"""Every error that deblur-deploy raises on purpose.

The hierarchy::

    DeblurDeployError               caught by the command line: exit code 1
    ├── ConfigError                 a value, a flag or a recipe field that cannot be used
    ├── ArtifactError               a file or an artifact that is missing, damaged or of another kind
    ├── MissingDependencyError      an optional package is not installed (also an ImportError)
    ├── ExportError                 the network cannot be written as ONNX
    ├── BuildError                  an engine cannot be built, or is not what was asked for
    ├── VerificationError           two artifacts differ by more than was allowed
    └── BudgetError                 a run is done and costs more, or buys less, than its recipe allows: exit code 3

Each carries one sentence on what failed, with the offending value, and one hint on what to do about it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable


class DeblurDeployError(Exception):
    """Base of all errors that a user can do something about.

    Args:
        message: What failed, in one sentence, with the offending value.
        hint: What to do: a command to run or a field to change.
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}"

    def __reduce__(self) -> tuple[Callable[..., DeblurDeployError], tuple[str]]:
        # Exceptions are rebuilt from their positional arguments alone, which would lose the hint between processes.
        return functools.partial(type(self), hint=self.hint), (self.message,)


class ConfigError(DeblurDeployError):
    """A value, a flag or a recipe field cannot be used."""


class ArtifactError(DeblurDeployError):
    """A file or an artifact is missing, damaged, or of another kind than expected."""


class MissingDependencyError(DeblurDeployError, ImportError):
    """An optional package that this stage needs is not installed."""


class ExportError(DeblurDeployError):
    """The network cannot be written as ONNX."""


class BuildError(DeblurDeployError):
    """An engine cannot be built, or the built one is not what was asked for."""


class VerificationError(DeblurDeployError):
    """Two artifacts give results further apart than allowed."""


class BudgetError(DeblurDeployError):
    """Everything was made, but a budget is missed."""


def require(condition: bool, message: str, hint: str) -> None:
    """Raise a :class:`ConfigError` unless the condition holds."""
    if not condition:
        raise ConfigError(message, hint=hint)


def first_line(err: BaseException) -> str:
    """The first line of an exception's message, or its type where there is none."""
    lines = str(err).strip().splitlines()
    return lines[0] if lines else type(err).__name__
