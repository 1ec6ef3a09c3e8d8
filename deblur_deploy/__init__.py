"""deblur-deploy: prune, quantize, export, verify and time a deblurring generator."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deblur_deploy.core.artifact import load_artifact as load_artifact
    from deblur_deploy.infer.restore import deblur as deblur
    from deblur_deploy.pipeline.run_recipe import run_recipe as run_recipe
    from deblur_deploy.runtime.runner import open_runner as open_runner

__version__ = "0.1.0"

__all__ = ["__version__", "deblur", "load_artifact", "open_runner", "run_recipe"]

_HOMES = {
    "deblur": "deblur_deploy.infer.restore",
    "load_artifact": "deblur_deploy.core.artifact",
    "open_runner": "deblur_deploy.runtime.runner",
    "run_recipe": "deblur_deploy.pipeline.run_recipe",
}


def __getattr__(name: str) -> Any:
    """Import a public function when it is first asked for, so that importing the package costs nothing."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
