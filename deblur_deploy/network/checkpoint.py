"""Checkpoints: trained weights from elsewhere into artifacts, and networks into artifacts and back."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from deblur_deploy.core.artifact import Artifact, Draft, NetworkSpec, Step, new_step, write_artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError, first_line
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.core.tables import from_table
from deblur_deploy.network.architectures import (
    Architecture,
    ImportOptions,
    example_names,
    find_architecture,
    read_config,
    recognise_unsupported,
)
from deblur_deploy.network.cost import REFERENCE_RESOLUTION, measure_cost
from deblur_deploy.network.fake_quant import insert_quantizers, load_ranges, read_ranges
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.own_network import PREFIX, OwnNetwork
from deblur_deploy.network.size_trial import full_size_estimates, require_sizes
from deblur_deploy.network.srn_cvpr18 import from_tensorflow
from deblur_deploy.network.table import ARCHITECTURES, recognise
from deblur_deploy.network.tensorflow_checkpoint import is_tensorflow_checkpoint, read_tensorflow_checkpoint
from deblur_deploy.network.users_code import CODE_ERRORS, hint_for, told
from deblur_deploy.network.weights_file import (
    TORCH_SUFFIXES,
    FoundWeights,
    fitting_names,
    read_safetensors,
    read_weights,
    require_finite,
    some,
)

__all__ = ["build_network", "import_checkpoint", "load_network", "read_checkpoint", "save_network", "spec_of"]

_log = logging.getLogger(__name__)

WEIGHTS_FILE = "weights.safetensors"

_BLOCK_KEY = re.compile(r"levels\.[012]\.blocks\.\d+\.conv[12]\.(weight|bias)")
"""Names of residual blocks, of which a network may have any number."""


@dataclass(frozen=True)
class ReadCheckpoint:
    """A network out of a checkpoint from elsewhere.

    Args:
        net: The network with its weights.
        spec: What it takes to build it again.
        average: Key or prefix of the moving average that was taken, or None.
    """

    net: Generator
    spec: NetworkSpec
    average: str | None


def import_checkpoint(
    path: Path, arch: str, out: Path, options: ImportOptions | None = None, figures: Mapping[str, Any] | None = None
) -> Artifact:
    """Turn a trained checkpoint from elsewhere into an artifact.

    Args:
        path: As for :func:`read_checkpoint`.
        arch: A name in the table of architectures, or ``package.module:factory``.
        out: The artifact's directory.
        options: What else to be told.
        figures: What its manifest says besides parameters and multiply-accumulates.

    Raises:
        ConfigError: No such architecture, or an option that it does not take.
        ArtifactError: The file is not a checkpoint, or one of another network.
        MissingDependencyError: The checkpoint is TensorFlow's, and TensorFlow is not installed.
    """
    options = options or ImportOptions()
    found = read_checkpoint(path, arch, options)
    told = {name: value for name, value in dataclasses.asdict(options).items() if value}
    facts = {"file": path.name, "arch": arch, **told, "average": found.average}
    if isinstance(found.net, OwnNetwork):
        require_sizes(found.net)
    cost = _cost(found.net, path)
    if isinstance(found.net, OwnNetwork) and (count := full_size_estimates(found.net)) > 1:
        _log.warning(
            "note      %s gives %d pictures of full size, and the last is taken: where another is the best, have its "
            "code give that one last",
            arch,
            count,
        )
    step = new_step("import", facts, None, {**cost, **(figures or {})})
    return save_network(out, found.net, found.spec, step)


def read_checkpoint(path: Path, arch: str, options: ImportOptions) -> ReadCheckpoint:
    """Read a trained checkpoint from elsewhere.

    Args:
        path: ``.safetensors``, or a file of ``torch.save`` with a state_dict, bare or wrapped, with or without
            ``module.`` prefixes; for ``srn-cvpr18`` also the prefix of TensorFlow's files.
        arch: A name in the table of architectures, or ``package.module:factory``.
        options: What else to be told.

    Raises:
        ConfigError: No such architecture, or an option that it does not take.
        ArtifactError: The file is not a checkpoint, or one of another network.
        MissingDependencyError: The checkpoint is TensorFlow's, and TensorFlow is not installed.
    """
    architecture = find_architecture(arch, options.multiple_of)
    _check_options(options, arch, architecture)
    found = _read(path, architecture, options)
    saved = fitting_names(found.tensors, architecture.names())
    _check_kind(saved, arch, path)
    try:
        weights = architecture.from_published(saved, options)
        config = architecture.read_config({name: tuple(tensor.shape) for name, tensor in weights.items()})
    except (KeyError, IndexError) as err:
        raise _misfit(err, saved, architecture, path) from err
    if options.variant not in (None, getattr(config, "variant", None)):
        raise ArtifactError(
            f"{path} is the variant {config.variant!r}, not {options.variant!r}",
            hint=f"--variant {config.variant}, or leave the option out",
        )
    spec = NetworkSpec(arch, dataclasses.asdict(config))
    net = build_network(spec)
    _load_strictly(net, weights, path)
    return ReadCheckpoint(net, spec, found.taken)


def build_network(spec: NetworkSpec) -> Generator:
    """An untrained float network of the widths that a manifest gives.

    Raises:
        ConfigError: The architecture is unknown or its widths make no sense.
    """
    architecture = find_architecture(spec.arch)
    return architecture.build(from_table(architecture.config, spec.config, "network.config"))


def load_network(artifact: Artifact) -> Generator:
    """Rebuild an artifact's network with its weights, ready to run.

    Args:
        artifact: A checkpoint.

    Returns:
        The network in evaluation mode, float32, fake-quantized if the artifact is.

    Raises:
        ArtifactError: It is not a checkpoint, or weights and manifest do not belong together.
    """
    if artifact.kind != "checkpoint":
        raise ArtifactError(
            f"{artifact.path} is an {artifact.kind} file, not a checkpoint",
            hint="give the checkpoint that it was made from; `deblur-deploy inspect` shows the chain",
        )
    tensors = read_safetensors(artifact.path)
    ranges = {name: tensors.pop(name) for name in list(tensors) if name.endswith("._amax")}
    with torch.device("meta"):  # absurd widths are refused before a network of that size is laid out in memory
        _check_fit(build_network(artifact.network).state_dict(), tensors, artifact.path)
    net = build_network(artifact.network)
    _load_strictly(net, tensors, artifact.path)
    if artifact.network.quantization is not None:
        insert_quantizers(net, artifact.network.quantization)
        load_ranges(net, ranges)
    return net.eval()


def save_network(out: Path, net: nn.Module, spec: NetworkSpec, step: Step, earlier: tuple[Step, ...] = ()) -> Artifact:
    """Write a network as a checkpoint artifact: safetensors for weights and quantizer ranges, plain data for the rest.

    Args:
        out: The artifact's directory.
        net: The network that ``spec`` describes.
        spec: What it takes to rebuild it.
        step: The stage that made it.
        earlier: History of the artifact that the stage started from.

    Raises:
        ArtifactError: ``out`` cannot be written.
    """
    with torch.device("meta"):
        described = build_network(spec)
    state = net.state_dict()
    # A copy of each: safetensors refuses arrays that are one under several names.
    weights = {
        name: state[name].detach().clone(memory_format=torch.contiguous_format) for name in described.state_dict()
    }
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    tensors |= read_ranges(net)

    def write(path: Path) -> None:
        try:
            save_file(tensors, path)
        except SafetensorError as err:  # safetensors wraps the operating system's error
            raise OSError(str(err)) from err

    image = ImageSpec(multiple_of=described.multiple_of)
    return write_artifact(out, Draft("checkpoint", WEIGHTS_FILE, write, spec, image, step, earlier))


def spec_of(net: Generator) -> NetworkSpec:
    """The spec of a float network as it stands, widths read off its weights."""
    return NetworkSpec(net.arch, dataclasses.asdict(read_config(net)))


def _check_options(options: ImportOptions, arch: str, architecture: Architecture) -> None:
    """Refuse options that would do nothing."""
    for name in ("variant", "norm", "multiple_of"):
        if getattr(options, name) is not None and name not in architecture.options:
            flag = name.replace("_", "-")
            raise ConfigError(f"--arch {arch} takes no --{flag}", hint=f"leave --{flag} out")


def _read(path: Path, architecture: Architecture, options: ImportOptions) -> FoundWeights:
    """The weights in a file of either framework."""
    # Files of these names are PyTorch's also for an architecture whose published checkpoint is TensorFlow's.
    of_torch = path.suffix in TORCH_SUFFIXES or path.is_dir()
    if architecture.tensorflow and not of_torch:
        return FoundWeights(_read_tensorflow(path), None)
    if not of_torch and is_tensorflow_checkpoint(path):
        known = ", ".join(name for name, row in ARCHITECTURES.items() if row.tensorflow)
        raise ArtifactError(
            f"{path} is a TensorFlow checkpoint, and {architecture.title} checkpoint is not: it looks like {known}",
            hint=f"--arch {known}",
        )
    return read_weights(path, options.unsafe_pickle)


def _read_tensorflow(path: Path) -> dict[str, Tensor]:
    """The published SRN's weights in a checkpoint of TensorFlow."""
    variables = read_tensorflow_checkpoint(path)
    weights = from_tensorflow(variables)
    if not weights:
        raise ArtifactError(
            f"{path} is a TensorFlow checkpoint of another network: SRN's variables are called g_net/…, "
            f"and it has {some(sorted(variables))}",
            hint="give the published one, such as deblur.model-523000",
        )
    require_finite(weights, path)
    return weights


def _check_kind(weights: Mapping[str, Tensor], arch: str, path: Path) -> None:
    """Refuse a checkpoint that can be recognised as another architecture's."""
    if arch not in ARCHITECTURES or (found := recognise(weights.keys())) == arch:
        return
    if found is not None:
        raise ArtifactError(f"{path} is not {arch}: by its names it is {found}", hint=f"--arch {found}")
    if (known := recognise_unsupported(weights.keys())) is not None:
        raise ArtifactError(
            f"{path} is not {arch}: by its names it is {known}, which is not here",
            hint="try --arch spandrel, or give its own code as --arch package.module:factory",
        )


def _misfit(
    err: KeyError | IndexError, weights: Mapping[str, Tensor], architecture: Architecture, path: Path
) -> ArtifactError:
    """The error for weights that no config can be read from."""
    title, hint = architecture.title, "--arch must name the network that the checkpoint was trained as"
    if isinstance(err, IndexError):
        flat = sorted(name for name, tensor in weights.items() if tensor.ndim == 0)
        return ArtifactError(
            f"{path} is not {title} checkpoint: {some(flat)} should be an array, and is a single number", hint=hint
        )
    first = str(err.args[0]).removeprefix(PREFIX)
    known = {name.removeprefix(PREFIX) for name in example_names(architecture)}
    missing, unexpected = (
        sorted(name for name in names if not _BLOCK_KEY.fullmatch(name))
        for names in (known - weights.keys() - {first}, weights.keys() - known)
    )
    return ArtifactError(
        f"{path} is not {title} checkpoint: it lacks {some([first, *missing])}; it has {some(unexpected)}", hint=hint
    )


def _cost(net: Generator, path: Path) -> dict[str, float]:
    """Parameters and operations; the network runs once for them, which shows whether its arrays fit each other."""
    try:
        return measure_cost(net)
    except CODE_ERRORS as err:
        if isinstance(net, OwnNetwork) and not net.config.widths:
            raise ConfigError(
                f"{net.arch} does not take a picture of {REFERENCE_RESOLUTION}: {told(err)}",
                hint=hint_for(err, "it is given one picture, (1, 3, height, width), and must take any size"),
            ) from err
        raise ArtifactError(
            f"the weights in {path} do not fit each other: {first_line(err)}",
            hint="the checkpoint belongs to another network or is incomplete",
        ) from err


def _load_strictly(net: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load weights that fit."""
    _check_fit(net.state_dict(), weights, path)
    net.load_state_dict(dict(weights))


def _check_fit(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: Path) -> None:
    """Name every key that is missing, unexpected or misshapen."""
    complaints = []
    if all(name.startswith(PREFIX) for name in wanted):  # ours: the user's file is without it
        wanted, weights = (
            {name.removeprefix(PREFIX): tensor for name, tensor in of.items()} for of in (wanted, weights)
        )
    if missing := sorted(wanted.keys() - weights.keys()):
        complaints.append(f"missing: {some(missing)}")
    if unexpected := sorted(weights.keys() - wanted.keys()):
        complaints.append(f"unexpected: {some(unexpected)}")
    misshapen = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & weights.keys())
        if weights[name].shape != wanted[name].shape
    ]
    if misshapen:
        complaints.append(f"misshapen: {some(misshapen)}")
    if complaints:
        raise ArtifactError(
            f"the weights in {path} do not fit the network; {'; '.join(complaints)}",
            hint="the checkpoint belongs to another network or is incomplete",
        )
