"""The exception tree and what a message looks like."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from deblur_deploy.core import errors
from deblur_deploy.core.errors import BuildError, ConfigError, DeblurDeployError, MissingDependencyError

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]


def test_every_error_is_one_of_ours_and_in_the_drawing() -> None:
    assert len(ALL) == 8
    for kind in ALL:
        assert issubclass(kind, DeblurDeployError)
        assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("kind", ALL)
def test_a_message_ends_with_its_hint(kind: type[DeblurDeployError]) -> None:
    error = kind("--res is '0x0'", hint="write WIDTHxHEIGHT")
    assert str(error) == "--res is '0x0'\nHint: write WIDTHxHEIGHT"
    assert (error.message, error.hint) == ("--res is '0x0'", "write WIDTHxHEIGHT")


def test_a_hint_is_not_optional() -> None:
    with pytest.raises(TypeError, match="hint"):
        ConfigError("something failed")  # type: ignore[call-arg]


def test_a_missing_dependency_is_an_import_error() -> None:
    with pytest.raises(ImportError):
        raise MissingDependencyError("openvino is not installed", hint="pip install 'deblur-deploy[cpu]'")


@pytest.mark.parametrize("kind", [BuildError, MissingDependencyError])
def test_an_error_keeps_its_hint_between_processes(kind: type[DeblurDeployError]) -> None:
    error = kind("it failed", hint="mend it")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
