"""The deformable convolution's plugin, for the full TensorRT.

In the file the operator is a node with a local function. TensorRT-RTX, which has no plugins, gets the function's body.
The full TensorRT gets the node, addressed to the plugin, and no body: a plugin that is missing is then an error, and
never a slower engine that nobody asked for. The plugin is the ahead-of-time form (``kernels/aot_plugin.py``) or the
library that ``deblur-deploy build-plugin`` writes.

A library is never loaded into TensorRT-RTX: its parser aborts the process when it meets a node of that name.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deblur_deploy.core.errors import BuildError, MissingDependencyError
from deblur_deploy.engine.flavour import Flavour, FlavourName
from deblur_deploy.kernels.aot_plugin import register_aot_plugin

NO_PLUGIN, AOT_PLUGIN, AUTO = "none", "aot", "auto"

_WAYS = "`deblur-deploy build-plugin` and --plugin libdeblur_plugin.so, or do without: --plugin none"


def check_plugin(flavour: FlavourName, wanted: str) -> str:
    """Find out before any work which plugin an engine is built with.

    Args:
        flavour: What builds.
        wanted: ``auto``, ``aot``, ``none``, or a library's file.

    Returns:
        ``aot``, ``none``, or the library's absolute path.

    Raises:
        BuildError: The flavour has no plugins, or the library is not there.
        MissingDependencyError: The ahead-of-time plugin's compiler is not installed.
    """
    if flavour == "rtx":
        if wanted not in (AUTO, NO_PLUGIN):
            raise BuildError(
                f"--plugin {wanted}: TensorRT-RTX has no plugins",
                hint="leave it out: the operator is built from standard ones; or use --flavour tensorrt",
            )
        return NO_PLUGIN
    if wanted == NO_PLUGIN:
        return NO_PLUGIN
    if wanted in (AUTO, AOT_PLUGIN):
        if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
            raise MissingDependencyError(
                "the plugin's kernel is compiled by NVRTC, which is not installed",
                hint=f"pip install 'deblur-deploy[cuda]', or {_WAYS}",
            )
        return AOT_PLUGIN
    library = Path(wanted)
    if not library.is_file():
        raise BuildError(f"there is no plugin library {library}", hint=f"make it: {_WAYS}")
    return str(library.absolute())


def load_plugin(flavour: Flavour, builder_config: Any, plugin: str, serialize: bool) -> None:
    """Make the plugin known to the full TensorRT.

    Args:
        flavour: What builds.
        builder_config: Its ``IBuilderConfig``.
        plugin: What :func:`check_plugin` found.
        serialize: Put the library into the engine, as a version-compatible engine has to have it.

    Raises:
        BuildError: The library cannot be loaded.
        MissingDependencyError: This TensorRT is too old for ahead-of-time plugins.
    """
    if plugin == NO_PLUGIN:
        return
    if flavour.name == "rtx":
        raise BuildError("TensorRT-RTX has no plugins", hint="build with --plugin none")
    if plugin == AOT_PLUGIN:
        register_aot_plugin()
    elif flavour.module.get_plugin_registry().load_library(plugin) is None:
        raise BuildError(
            f"{flavour.title} {flavour.version} cannot load the plugin library {plugin}",
            hint=f"build it against this TensorRT's headers: {_WAYS}",
        )
    elif serialize:
        builder_config.plugins_to_serialize = [plugin]
