"""The process in which an engine is built: ``python -m deblur_deploy.engine.build_child FOLDER``.

TensorRT may abort the process that it runs in, so it runs in one of its own. ``FOLDER`` holds ``request.json`` and the
network; the engine, the builder's list of layers and ``reply.json`` are written into it. What the builder logs goes to
standard error. Only light modules are imported here: the process should start at once.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deblur_deploy.config import PlanConfig
from deblur_deploy.core.errors import BuildError, DeblurDeployError, MissingDependencyError
from deblur_deploy.core.tables import from_table
from deblur_deploy.engine.build_settings import Failure, apply_plan, save_timing_cache
from deblur_deploy.engine.flavour import Flavour, FlavourName, aim, load_flavour, strongly_typed_flags
from deblur_deploy.engine.plugin import NO_PLUGIN, load_plugin
from deblur_deploy.engine.targets import CURRENT, resolve_target
from deblur_deploy.graph.profile import Profile
from deblur_deploy.runtime.nvidia import count_nvidia_gpus

REQUEST, REPLY = "request.json", "reply.json"
NETWORK, ENGINE, LAYERS = "network.onnx", "model.engine", "layers.txt"
LOG = "build.log"
"""What the process writes to standard output and standard error; the parent process captures both."""

_FAILURE = re.compile(r"Exception caught in (\w+)\(\): (.+)")

_SUGGESTIONS = {
    "DeformConv": "export it as deblur::DeformConv2d, which every TensorRT builds: `deblur-deploy export-onnx`",
    "DeformConv2d": "give the library: --plugin libdeblur_plugin.so; or build from standard operators: --plugin none",
}
"""Hints for operators that have another form, instead of the usual hint."""


@dataclass(frozen=True)
class Request:
    """What to build from ``network.onnx``.

    Args:
        flavour: The TensorRT that builds.
        target: Card or capability, as :func:`~deblur_deploy.engine.targets.resolve_target` reads it.
        workspace_bytes: Scratch memory that the engine may use, or None for the builder's default.
        optimization_level: How long the builder may search, 0 to 5, or None for its default.
        profiles: Ranges of shapes, where the network's sizes are free.
        plan: Options of the engine's file; the path of a timing cache is absolute.
        plugin: What :func:`~deblur_deploy.engine.plugin.check_plugin` found.
    """

    flavour: FlavourName
    target: str
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    profiles: tuple[Profile, ...] = ()
    plan: PlanConfig = field(default=PlanConfig())
    plugin: str = NO_PLUGIN


@dataclass(frozen=True)
class Reply:
    """How it went.

    Args:
        flavour_version: Version of the TensorRT that built.
        error: Message and hint, if it failed.
        missing: Whether it failed because TensorRT cannot be loaded.
    """

    flavour_version: str = ""
    error: tuple[str, str] | None = None
    missing: bool = False


def main(folder: Path) -> None:
    """Build as ``request.json`` says, and write ``reply.json``."""
    request = from_table(Request, json.loads((folder / REQUEST).read_text(encoding="utf-8")), REQUEST)
    try:
        reply = Reply(_build(request, folder))
    except DeblurDeployError as err:
        reply = Reply(error=(err.message, err.hint), missing=isinstance(err, MissingDependencyError))
    (folder / REPLY).write_text(json.dumps(asdict(reply)), encoding="utf-8")


def _build(request: Request, folder: Path) -> str:
    """Build the engine and write it with its list of layers; returns the builder's version."""
    flavour = load_flavour(request.flavour)
    trt = flavour.module
    logger = _new_logger(trt)
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    load_plugin(flavour, config, request.plugin, request.plan.version_compatible)
    network = builder.create_network(strongly_typed_flags(trt))
    _parse(flavour, network, logger, folder / NETWORK)
    _configure(flavour, builder, config, request)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        reason = plugin_failure(folder / LOG) or logger.last_error
        hint = Failure(reason, request.workspace_bytes).hint()
        if resolve_target(request.target) == CURRENT:
            hint = "building for the current card needs that card and its driver; or name one: `--target 2080ti`"
        raise BuildError(f"{flavour.title} could not build the engine: {reason}", hint=hint)
    (folder / ENGINE).write_bytes(engine)
    (folder / LAYERS).write_text(_list_layers(flavour, logger, engine, request.plan), encoding="utf-8")
    if request.plan.timing_cache is not None:
        save_timing_cache(config, Path(request.plan.timing_cache))
    return flavour.version


def _configure(flavour: Flavour, builder: Any, config: Any, request: Request) -> None:
    """Tell the builder what was asked for."""
    trt = flavour.module
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    aim(flavour, config, resolve_target(request.target))
    for profile in request.profiles:
        _add_profile(builder, config, profile)
    apply_plan(flavour, config, request.plan)
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    if request.optimization_level is not None:
        config.builder_optimization_level = request.optimization_level


def _add_profile(builder: Any, config: Any, profile: Profile) -> None:
    """Give a range of shapes to the builder."""
    made = builder.create_optimization_profile()
    made.set_shape(profile.input, profile.min, profile.opt, profile.max)
    if config.add_optimization_profile(made) < 0:
        raise BuildError(
            f"the builder refuses the shapes {profile.min} to {profile.max}, tuned for {profile.opt}",
            hint="every size must lie between the smallest and the largest",
        )


def _list_layers(flavour: Flavour, logger: Any, engine: Any, plan: PlanConfig) -> str:
    """The layers of a finished engine: the builder's list from TensorRT-RTX, the inspector's from the full TensorRT.

    The full TensorRT's builder lists them too, in a form for people; that is taken where the inspector fails.
    """
    if flavour.name == "rtx":
        return str(logger.layers)
    try:
        return _inspect(flavour, logger, engine, plan) or str(logger.layers)
    except BuildError:
        if not logger.layers:
            raise
        return str(logger.layers)


def _inspect(flavour: Flavour, logger: Any, engine: Any, plan: PlanConfig) -> str:
    """The full TensorRT's inspector on an engine, as JSON; empty without a GPU.

    Raises:
        BuildError: The GPU is there, and nothing is learnt of the engine.
    """
    trt = flavour.module
    if not count_nvidia_gpus():
        return ""
    runtime = trt.Runtime(logger)
    if plan.version_compatible:
        runtime.engine_host_code_allowed = True  # it carries TensorRT's lean runtime as code
    loaded = runtime.deserialize_cuda_engine(engine)
    hint = "without that the types it runs in are not proven; build it again, and report the log if it fails again"
    if loaded is None:
        raise BuildError(f"{flavour.title} cannot load the engine that it built: {logger.last_error}", hint=hint)
    text = str(loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
    if '"Layers"' not in text:
        raise BuildError(
            f"{flavour.title} gives no information about the layers of the engine that it built", hint=hint
        )
    return text


def _parse(flavour: Flavour, network: Any, logger: Any, path: Path) -> None:
    """Read the ONNX file into an empty network."""
    parser = flavour.module.OnnxParser(network, logger)
    if parser.parse(path.read_bytes()):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reasons = "; ".join(_describe(error, path.with_name(LOG)) for error in errors[:3]) or logger.last_error
    known = (_SUGGESTIONS[error.node_operator()] for error in errors if error.node_operator() in _SUGGESTIONS)
    usual = "export the network with `deblur-deploy export-onnx`, or replace the operator by ones that TensorRT has"
    raise BuildError(f"{flavour.title} cannot read the network: {reasons}", hint=next(known, usual))


def _describe(error: Any, log: Path) -> str:
    """A parser error in one line, with the node if it has one."""
    reason = _one_line(error.desc())
    # The parser's errors for an unknown operator, and for a plugin that failed in Python.
    says_nothing = reason in ("", "false") or "Plugin not found" in reason
    if error.node_operator() == "DeformConv2d":
        failure = plugin_failure(log)
        if failure or says_nothing:
            reason = f"its plugin failed: {failure}" if failure else "its plugin was not found"
    elif says_nothing:
        reason = "the operator is not supported"
    return f"node {error.node_name()!r} ({error.node_operator()}): {reason}" if error.node_name() else reason


def plugin_failure(log: Path) -> str:
    """What a plugin in Python failed with: TensorRT writes it to standard error and gives its callers a null pointer.

    Args:
        log: What the process wrote to standard error; there may be no such file.

    Returns:
        The last failure in one line, or nothing.
    """
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = _FAILURE.findall(text)
    return f"{found[-1][1].strip()} (in {found[-1][0]})" if found else ""


def _new_logger(trt: Any) -> Any:
    """A logger that keeps the list of layers and the last error, and prints all but the verbose messages."""

    class BuildLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = ""
            self.last_error = "no reason was given"

        def log(self, severity: Any, message: str) -> None:
            if message.startswith("Layers:"):
                self.layers = message
            elif severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.last_error = _one_line(message)
            if severity.name != "VERBOSE":
                print(f"[{severity.name}] {message}", file=sys.stderr, flush=True)

    return BuildLogger()


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
