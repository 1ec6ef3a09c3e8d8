"""The way from a TOML or JSON table to a settings dataclass, every field checked by its annotation."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from deblur_deploy.core.errors import ConfigError

T = TypeVar("T")

_LARGEST_INT = int(sys.float_info.max)


def load_settings(cls: type[T], path: Path) -> T:
    """Read a TOML file into a settings dataclass.

    Raises:
        ConfigError: The file is missing, not TOML, or has fields that cannot be used.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a regular file")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise ConfigError(f"{path} cannot be read as a recipe: {err}", hint="give a TOML file") from err
    return from_table(cls, table, str(path))


def from_table(cls: type[T], table: Mapping[str, Any], where: str, base: T | None = None) -> T:
    """Make a settings dataclass from a parsed TOML or JSON table.

    Args:
        cls: A dataclass; nested dataclasses are sub-tables.
        table: Field names to plain values; lists become tuples.
        where: Name of the table in messages.
        base: Source of the fields that the table leaves out, instead of the class's defaults. A sub-table is based on
            the default of its field, so that it changes only what it names.

    Raises:
        ConfigError: An unknown field (with the nearest known one), a value of the wrong type, or one out of range.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(sorted(known))}"
            raise ConfigError(f"{where} has no field {key!r}", hint=hint)
        values[key] = _converted(
            hints[key], value, f"{where}.{key}", _default(cls, key) if base is None else getattr(base, key)
        )
    if base is not None:
        return dataclasses.replace(base, **values)  # type: ignore[type-var]
    missing = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}", hint="add the field to the table")
    return cls(**values)


def _default(cls: type, name: str) -> Any:
    """Default of a dataclass's field, or None."""
    (field,) = (field for field in dataclasses.fields(cls) if field.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _converted(hint: Any, value: Any, where: str, base: Any = None) -> Any:
    """``value`` as the annotated type, or a ConfigError that names it."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        _check_type(isinstance(value, Mapping), "a table", value, where)
        return from_table(hint, value, where, base if isinstance(base, hint) else None)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return _converted_tuple(arguments, value, where)
    if origin is dict:
        _check_type(isinstance(value, Mapping), "a table", value, where)
        return {str(key): _converted(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _converted(next(a for a in arguments if a is not type(None)), value, where, base)
    if origin is Literal:
        _check_type(value in arguments, f"one of {', '.join(map(repr, arguments))}", value, where)
        return value
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        _check_type(abs(value) <= _LARGEST_INT, "a number within the range of float", value, where)
        return float(value)
    _check_type(isinstance(value, hint) and not (hint is int and isinstance(value, bool)), hint.__name__, value, where)
    return value


def _converted_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _check_type(isinstance(value, (list, tuple)), "a list", value, where)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_converted(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    _check_type(len(value) == len(arguments), f"a list of {len(arguments)}", value, where)
    return tuple(_converted(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(arguments, value, strict=True)))


def _check_type(condition: bool, expected: str, value: Any, where: str) -> None:
    if not condition:
        raise ConfigError(f"{where} is {value!r}", hint=f"give {expected}")
