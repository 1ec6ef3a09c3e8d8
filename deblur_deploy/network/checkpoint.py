"""Trained weights: reading foreign checkpoints safely, and checkpoints of our own."""

from __future__ import annotations

import dataclasses
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deblur_deploy.artifact import Artifact, Draft, NetworkSpec, Step, new_step, write_artifact
from deblur_deploy.errors import ArtifactError, ConfigError
from deblur_deploy.images import ImageSpec
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.fake_quant import insert_quantizers, load_ranges, read_ranges
from deblur_deploy.network.srn import MULTIPLE_OF, SRN, SRNConfig
from deblur_deploy.tables import from_table

ARCHITECTURES = ("srn",)

WEIGHTS_FILE = "weights.safetensors"

_WRAPPERS = ("state_dict", "params_ema", "params", "model", "generator")
"""Keys under which training frameworks keep the weights, the moving average before the raw ones."""

_DEEPEST_WRAPPING = 8
"""Wrappers within wrappers that are looked into; a dictionary may hold itself."""

_BLOCK_KEY = re.compile(r"levels\.[012]\.blocks\.\d+\.conv[12]\.(weight|bias)")
"""Names of residual blocks, of which a network may have any number."""

_DAMAGED = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
)
"""What torch.load raises on files that are cut off or changed; the older format is hardly checked while it is read."""


def import_checkpoint(path: Path, arch: str, out: Path) -> Artifact:
    """Turn a trained checkpoint from elsewhere into an artifact.

    Args:
        path: ``.safetensors``, or a ``.pt``/``.pth`` state_dict, bare or wrapped, with or without ``module.`` prefixes.
        arch: One of :data:`ARCHITECTURES`.
        out: The artifact's directory.

    Raises:
        ConfigError: No such architecture.
        ArtifactError: The file is no checkpoint, or one of another network.
    """
    if arch not in ARCHITECTURES:
        raise ConfigError(f"architecture {arch!r} is unknown", hint=f"--arch takes {', '.join(ARCHITECTURES)}")
    weights = read_state_dict(path)
    spec = NetworkSpec(arch, dataclasses.asdict(_config_from(weights, path)))
    net = build_network(spec)
    _load_strictly(net, weights, path)
    step = new_step("import", {"file": path.name, "arch": arch}, None, measure_cost(net))
    return save_network(out, net, spec, step)


def build_network(spec: NetworkSpec) -> nn.Module:
    """An untrained float network of the widths that a manifest gives.

    Raises:
        ConfigError: The architecture is unknown or its widths make no sense.
    """
    if spec.arch != "srn":
        raise ConfigError(f"architecture {spec.arch!r} is unknown", hint=f"known: {', '.join(ARCHITECTURES)}")
    return SRN(from_table(SRNConfig, spec.config, "network.config"))


def load_network(artifact: Artifact) -> nn.Module:
    """Rebuild an artifact's network with its weights, ready to run.

    Args:
        artifact: A checkpoint.

    Returns:
        The network in evaluation mode, float32, fake-quantized if the artifact is.

    Raises:
        ArtifactError: It is no checkpoint, or weights and manifest do not belong together.
    """
    if artifact.kind != "checkpoint":
        raise ArtifactError(
            f"{artifact.path} is an {artifact.kind} file, not a checkpoint",
            hint="give the checkpoint that it was made from; `deblur-deploy inspect` shows the chain",
        )
    net = build_network(artifact.network)
    tensors = _read_safetensors(artifact.path)
    ranges = {name: tensors.pop(name) for name in list(tensors) if name.endswith("._amax")}
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
    names = build_network(spec).state_dict().keys()
    state = net.state_dict()
    tensors = {name: state[name].detach().float().contiguous() for name in names} | read_ranges(net)

    def write(path: Path) -> None:
        try:
            save_file(tensors, path)
        except SafetensorError as err:  # safetensors wraps the operating system's error
            raise OSError(str(err)) from err

    return write_artifact(
        out, Draft("checkpoint", WEIGHTS_FILE, write, spec, ImageSpec(multiple_of=MULTIPLE_OF), step, earlier)
    )


def spec_of(net: SRN) -> NetworkSpec:
    """The spec of a float network as it stands, widths read off its weights."""
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    return NetworkSpec("srn", dataclasses.asdict(SRNConfig.from_shapes(shapes)))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint file without running any code in it.

    Args:
        path: ``.safetensors``, ``.pt`` or ``.pth``.

    Returns:
        Parameter names, without ``module.``, to float32 tensors.

    Raises:
        ArtifactError: The file is missing, damaged, needs unpickling of objects, holds no state_dict, or has weights
            that are NaN, empty, or no plain array of numbers.
    """
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = _unwrapped(loaded)
    if not state:
        raise ArtifactError(
            f"{path} holds {type(loaded).__name__!r}, not a state_dict",
            hint="save it with torch.save(net.state_dict(), path)",
        )
    for name, tensor in state.items():
        if reason := _reason_unusable(tensor):
            raise ArtifactError(f"{path}: the weight {name} {reason}", hint="save the dense weights, on the processor")
    weights = {name.removeprefix("module."): tensor.float() for name, tensor in state.items()}
    bad = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise ArtifactError(
            f"{path} has NaN or infinite weights in {_some(bad)}", hint="take an earlier checkpoint of the training run"
        )
    return weights


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as err:
        raise ArtifactError(f"there is no file {path}", hint="check the path") from err
    except (SafetensorError, OSError) as err:
        raise ArtifactError(f"{path} is not a safetensors file: {err}", hint="it is cut off or damaged") from err


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: what the reader cannot read raises below
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as err:
        raise ArtifactError(f"there is no file {path}", hint="check the path") from err
    except pickle.UnpicklingError as err:
        raise ArtifactError(
            f"{path} holds more than weights, and unpickling it could run code",
            hint="where it was trained, save it again with torch.save(net.state_dict(), path)",
        ) from err
    except _DAMAGED as err:
        raise ArtifactError(
            f"{path} is not a PyTorch checkpoint: {str(err).splitlines()[0] if str(err) else type(err).__name__}",
            hint="give a .pth, .pt or .safetensors file; it may be cut off",
        ) from err


def _unwrapped(loaded: Any) -> dict[str, Tensor]:
    """The state_dict inside the usual wrappers, or nothing."""
    for _ in range(_DEEPEST_WRAPPING):
        if not isinstance(loaded, Mapping):
            break
        inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
            return tensors if len(tensors) == len(loaded) else {}
        loaded = inner
    return {}


def _reason_unusable(tensor: Tensor) -> str | None:
    """Why a tensor cannot be a weight, or None."""
    if tensor.is_meta:
        return "was saved without its values (on the meta device)"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"is no plain array but {tensor.layout}"
    if tensor.is_quantized or tensor.is_complex():
        return f"holds {tensor.dtype}, not real numbers"
    if tensor.numel() == 0:
        return f"is empty: its shape is {tuple(tensor.shape)}"
    return None


def _config_from(weights: Mapping[str, Tensor], path: Path) -> SRNConfig:
    """Widths of the SRN whose weights these are."""
    hint = "--arch must name the network that the checkpoint was trained as"
    try:
        return SRNConfig.from_shapes({name: tuple(tensor.shape) for name, tensor in weights.items()})
    except KeyError as err:
        first = str(err.args[0])
        known = SRN(SRNConfig.from_base(8)).state_dict().keys()
        missing, unexpected = (
            sorted(name for name in names if not _BLOCK_KEY.fullmatch(name))
            for names in (known - weights.keys() - {first}, weights.keys() - known)
        )
        raise ArtifactError(
            f"{path} is not an SRN checkpoint: it lacks {_some([first, *missing])}; it has {_some(unexpected)}",
            hint=hint,
        ) from err
    except IndexError as err:
        flat = sorted(name for name, tensor in weights.items() if tensor.ndim == 0)
        raise ArtifactError(
            f"{path} is not an SRN checkpoint: {_some(flat)} should be an array, and is a single number", hint=hint
        ) from err


def _load_strictly(net: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load weights, or name every key that is missing, unexpected or misshapen."""
    wanted = net.state_dict()
    complaints = []
    if missing := sorted(wanted.keys() - weights.keys()):
        complaints.append(f"missing: {_some(missing)}")
    if unexpected := sorted(weights.keys() - wanted.keys()):
        complaints.append(f"unexpected: {_some(unexpected)}")
    misshapen = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & weights.keys())
        if weights[name].shape != wanted[name].shape
    ]
    if misshapen:
        complaints.append(f"misshapen: {_some(misshapen)}")
    if complaints:
        raise ArtifactError(
            f"the weights in {path} do not fit the network; {'; '.join(complaints)}",
            hint="the checkpoint belongs to another network or is incomplete",
        )
    net.load_state_dict(dict(weights))


def _some(names: list[str], at_most: int = 4) -> str:
    """A few names and how many there are in all."""
    if not names:
        return "nothing else"
    shown = ", ".join(names[:at_most])
    return shown if len(names) <= at_most else f"{shown} … ({len(names)} in all)"
