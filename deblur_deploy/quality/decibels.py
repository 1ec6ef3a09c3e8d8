"""PSNRs to calculate with: where a picture came out equal to the sharp one, PSNR is infinite."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

EQUAL_DB = 100.0
"""What a picture that is equal to the sharp one, whose PSNR is infinite, counts as wherever PSNRs are added, subtracted
or averaged: more than any picture of up to 51,000 pixels has that differs from the sharp one at all."""


def bounded_db(value: float | None) -> float:
    """A PSNR to calculate with, in dB: at most ``EQUAL_DB``, which stands for equal pictures.

    Args:
        value: A PSNR in dB, infinite for equal pictures; None is how JSON, which has no infinity, says that.
    """
    return EQUAL_DB if value is None else min(value, EQUAL_DB)


def mean_psnr_db(values: Iterable[float]) -> float:
    """Mean of the PSNRs of several pictures in dB, in which a picture equal to the sharp one counts as ``EQUAL_DB``.

    Args:
        values: At least one PSNR.

    Returns:
        The mean; infinity where every picture was equal.
    """
    found = list(values)
    return math.inf if all(map(math.isinf, found)) else statistics.fmean(map(bounded_db, found))
