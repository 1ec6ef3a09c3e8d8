"""What every session of onnxruntime is told, so that it computes the same on every processor."""

from __future__ import annotations

from typing import Any

import onnxruntime

from deblur_deploy.core.processor import adds_int8_exactly
from deblur_deploy.core.threads import default_threads, waits_passively

_ENTRIES = {
    "session.set_denormal_as_zero": "1",
}

_SPIN = "session.intra_op.allow_spinning"
_KEEP_QDQ = "session.disable_quant_qdq"
"""Convolutions between quantizers are computed in float32. ``session.x64quantprecision``, which is there to put uint8
for int8 weights on such processors, ends in an error where two layers share a weight (onnxruntime 1.31)."""


def session_options(threads: int | None = None) -> Any:
    """Onnxruntime's ``SessionOptions`` for one picture at a time.

    Args:
        threads: Threads within an operator, or None for one per usable core; onnxruntime itself would take one for each
            core of the machine, and pin it there.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; warnings are about nodes that were folded
    for key, value in _ENTRIES.items():
        options.add_session_config_entry(key, value)
    if waits_passively():
        options.add_session_config_entry(_SPIN, "0")
    if not adds_int8_exactly():
        options.add_session_config_entry(_KEEP_QDQ, "1")
    return options
