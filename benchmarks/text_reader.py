"""Reading texts in photographs by optical character recognition, and how much of them is right."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblur_deploy.core.errors import MissingDependencyError


class TextReader:
    """RapidOCR's recogniser, whose network comes in its wheel; nothing is downloaded.

    Raises:
        MissingDependencyError: RapidOCR is not installed.
    """

    def __init__(self) -> None:
        try:
            from rapidocr import RapidOCR
        except ModuleNotFoundError as err:
            raise MissingDependencyError(
                "characters are read by rapidocr", hint="pip install 'deblur-deploy[ocr]'"
            ) from err
        self._read: Any = RapidOCR(params={"Global.log_level": "critical"})

    def read(self, line: NDArray[np.uint8]) -> str:
        """The text of one line.

        Args:
            line: (H, W, 3) uint8 RGB, one line of text from the front.
        """
        found = self._read(np.ascontiguousarray(line[:, :, ::-1]), use_det=False, use_cls=False, use_rec=True)
        return "".join(found.txts or ())


def characters(text: str) -> str:
    """The letters and digits of a text, in capitals: spaces and rims that were read as signs do not count."""
    return "".join(sign for sign in text.upper() if sign.isascii() and sign.isalnum())


def correct_characters(text: str, read: str) -> int:
    """How many characters of a text were read: its length less the edit distance (Levenshtein, 1966), at least 0."""
    truth, found = characters(text), characters(read)
    row = list(range(len(found) + 1))
    for index, sign in enumerate(truth, start=1):
        before, row[0] = row[0], index
        for column, other in enumerate(found, start=1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (sign != other))
    return max(len(truth) - row[-1], 0)
