"""Films: what the network does not change stays, and what cannot be kept is said."""

from __future__ import annotations

from importlib.util import find_spec

from deblur_deploy.core.errors import MissingDependencyError

if find_spec("av") is None:
    raise MissingDependencyError("films need PyAV", hint="pip install 'deblur-deploy[video]'")
