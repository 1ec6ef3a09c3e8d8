"""What goes wrong in the code of a user's network, told in a sentence."""

from __future__ import annotations

import os
import traceback

from deblur_deploy.core.errors import first_line

CODE_ERRORS = (
    *(RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError, ArithmeticError),
    *(NameError, SyntaxError, ImportError, OSError),
)
"""What a network's own code raises where it cannot be made, or does not take a picture or a number of channels."""

_NOT_THEIRS = (f"{os.sep}torch{os.sep}", f"{os.sep}{__name__.partition('.')[0]}{os.sep}", "<frozen")
"""Parts of the paths of code that is not the user's."""


def told(err: BaseException) -> str:
    """What went wrong, and in which line of the user's code."""
    frames = traceback.extract_tb(err.__traceback__)
    theirs = [frame for frame in frames if not any(part in frame.filename for part in _NOT_THEIRS)]
    where = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    return f"{type(err).__name__}: {first_line(err)}{where}"


def hint_for(err: BaseException, otherwise: str) -> str:
    """What to do about it, or what else to do where it says nothing about a GPU."""
    if "cuda" in str(err).lower():
        return "let its code put nothing on a GPU (.cuda(), device='cuda'): the network is made on the processor"
    return otherwise
