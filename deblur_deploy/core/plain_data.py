"""Values as JSON can hold them, which has neither infinity nor NaN."""

from __future__ import annotations

import json
import math
from typing import Any


def without_infinity(value: Any, nan_too: bool = False) -> Any:
    """Null for every infinite number in a value, such as the PSNR of two equal pictures.

    Args:
        value: Plain data; tuples become lists.
        nan_too: Null for NaN as well. Without it NaN stays, and JSON that is written strictly refuses it.
    """
    if isinstance(value, dict):
        return {key: without_infinity(item, nan_too) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_infinity(item, nan_too) for item in value]
    is_null = isinstance(value, float) and (math.isinf(value) or (nan_too and math.isnan(value)))
    return None if is_null else value


def to_json(value: Any, indent: int | None = None) -> str:
    """A value as strict JSON text: null for infinity, and everything that JSON does not know as its text.

    Args:
        value: Plain data.
        indent: Spaces of indentation, or None for one line.

    Raises:
        ValueError: There is a NaN in it.
    """
    return json.dumps(without_infinity(value), default=str, allow_nan=False, indent=indent)
