"""What pruning keeps of every group of channels, as commands print it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deblur_deploy.cli.console import Output

_NAME_WIDTH = 44
"""Characters that the names of a group take in a table of 80 columns."""


def report_groups(output: Output, groups: list[dict[str, Any]], frozen: list[dict[str, Any]]) -> None:
    """Print what is kept of every group, what that is predicted to save and lose where it is known, and what stays."""
    is_timed = any("saved_ms" in group for group in groups)
    rows = [
        [short_name(group["layers"]), str(group["before"]), str(group["after"]), f"{group['share']:.1%}"]
        + ([f"{-group['saved_ms']:.2f}", f"{-group['lost_db']:.2f}"] if is_timed else [])
        for group in groups
    ]
    output.table(["group", "before", "kept", "share", *(["ms", "dB"] if is_timed else [])], rows)
    for part in frozen:
        output.say(f"frozen    {short_name(part['layers'])}, {part['channels']} channels: {part['reason']}")


def short_name(layers: Sequence[str]) -> str:
    """The layers of a group, in the width of a table."""
    first, *others = (_shortened(layer) for layer in layers)
    both = ", ".join((first, *others))
    return both if len(both) <= _NAME_WIDTH else f"{first} and {len(others)} more" if others else first


def _shortened(name: str) -> str:
    """A name in the width of a table: its end says most."""
    return name if len(name) <= _NAME_WIDTH else f"…{name[-_NAME_WIDTH + 1 :]}"
