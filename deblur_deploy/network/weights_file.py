"""Reading weights files from elsewhere safely, and choosing among several sets of weights."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from deblur_deploy.core.errors import ArtifactError, first_line

_AVERAGES = ("params_ema", "state_dict_ema", "ema_state_dict", "model_ema", "ema")
_WRAPPERS = ("state_dict", "model_state_dict", "params", "model", "generator", "net", "network", "netG", "weights")
"""Keys under which training frameworks keep the moving average of the weights, and the weights."""

_AVERAGE_PREFIXES = ("generator_ema.", "model_ema.", "ema.")
_PREFIXES = ("module.", "generator.", "net_g.", "_orig_mod.")
"""Prefixes of the names of both in one flat dictionary."""

TORCH_SUFFIXES = frozenset({".safetensors", ".pth", ".pt", ".pkl", ".h5", ".ckpt", ".bin"})
"""How files with weights of PyTorch are called."""

_SHARD = re.compile(r"-\d+-of-\d+$")

_DEEPEST_WRAPPING = 8
"""Wrappers within wrappers that are looked into; a dictionary may hold itself."""

_MOST_UNPACKING = 20
"""Ratio above which an archive is taken for a bomb; one that somebody has packed again has 1 to 3."""

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


@dataclass(frozen=True)
class FoundWeights:
    """Weights out of a file.

    Args:
        tensors: Names, without prefixes that wrap them all, to float32 tensors.
        taken: Key or prefix of the moving average that was taken, or None where the file has but one set of weights.
    """

    tensors: dict[str, Tensor]
    taken: str | None


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The weights of :func:`read_weights`, by themselves."""
    return read_weights(path).tensors


def read_weights(path: Path, unsafe_pickle: bool = False) -> FoundWeights:
    """Read the weights of a checkpoint file, by default without running any code in it.

    Of weights and their moving average the average is taken: it is what was evaluated and published.

    Args:
        path: ``.safetensors``, a file of ``torch.save`` of any name, or a folder of such files whose arrays go by the
            file's name: ``weight`` of ``encoder.pth`` is ``encoder.weight``.
        unsafe_pickle: Read a file that holds more than weights too. Whatever code the file names is run.

    Raises:
        ArtifactError: The file is missing, damaged, needs unpickling of objects, holds no state_dict, or has weights
            that are NaN, empty, or no plain array of numbers.
    """
    if path.is_dir():
        return _read_folder(path, unsafe_pickle)
    loaded = read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, unsafe_pickle)
    state, taken = _unwrapped(loaded)
    if not state:
        raise ArtifactError(
            f"{path} holds {type(loaded).__name__!r}, not a state_dict",
            hint="save it with torch.save(net.state_dict(), path)",
        )
    for name, tensor in state.items():
        if reason := _reason_unusable(tensor):
            raise ArtifactError(f"{path}: the weight {name} {reason}", hint="save the dense weights, on the processor")
    state, prefix = _without_prefixes(state)
    weights = {name: tensor.float() for name, tensor in state.items()}
    require_finite(weights, path)
    return FoundWeights(weights, prefix or taken)


def _read_folder(folder: Path, unsafe_pickle: bool) -> FoundWeights:
    """One network out of several files, such as the encoder and the decoder of a network that were saved apart.

    The arrays of each file go by its name: ``weight`` of ``encoder.pth`` is ``encoder.weight``. Numbered shards of one
    set of weights (``model-00001-of-00002.safetensors``) are put together as they are.

    Raises:
        ArtifactError: No file in it holds weights, or one is damaged.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in TORCH_SUFFIXES and path.is_file())
    if not files:
        raise ArtifactError(
            f"the folder {folder} holds no weights: nothing in it ends in {', '.join(sorted(TORCH_SUFFIXES))}",
            hint="give the checkpoint itself, or the folder of the files that make it up",
        )
    found = {path: read_weights(path, unsafe_pickle) for path in files}
    if len(files) == 1 or all(_SHARD.search(path.stem) for path in files):
        tensors = {name: tensor for weights in found.values() for name, tensor in weights.tensors.items()}
    else:
        tensors = {
            f"{path.stem}.{name}": tensor for path, weights in found.items() for name, tensor in weights.tensors.items()
        }
    return FoundWeights(tensors, next((weights.taken for weights in found.values() if weights.taken), None))


def require_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are not numbers.

    Args:
        weights: Names to tensors.
        path: The file that they are from.

    Raises:
        ArtifactError: Some are NaN or infinite.
    """
    bad = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise ArtifactError(
            f"{path} has NaN or infinite weights in {some(bad)}", hint="take an earlier checkpoint of the training run"
        )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError as err:
        raise ArtifactError(f"there is no file {path}", hint="check the path") from err
    except (SafetensorError, OSError) as err:
        raise ArtifactError(f"{path} is not a safetensors file: {err}", hint="it is cut off or damaged") from err


def some(names: list[str], at_most: int = 4) -> str:
    """A few names and how many there are in all."""
    if not names:
        return "nothing else"
    shown = ", ".join(names[:at_most])
    return shown if len(names) <= at_most else f"{shown} … ({len(names)} in all)"


def _read_pickle(path: Path, unsafe: bool) -> Any:
    if path.suffix == ".onnx":
        raise ArtifactError(f"{path} is an ONNX file, which is taken as it is", hint="import it without --arch")
    _check_page(path)
    _check_unpacked_size(path)
    _check_program(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: the reader itself raises below
            return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except FileNotFoundError as err:
        raise ArtifactError(f"there is no file {path}", hint="check the path") from err
    except (*_DAMAGED, ImportError, pickle.UnpicklingError) as err:
        if isinstance(err, pickle.UnpicklingError) and not unsafe:
            raise ArtifactError(
                f"{path} holds more than weights, and unpickling it could run code",
                hint="where it was trained, save it again with torch.save(net.state_dict(), path); or, in a container "
                "without network and without your files, add --unsafe-pickle, which runs whatever code it names",
            ) from err
        raise ArtifactError(
            f"{path} is not a PyTorch checkpoint: {first_line(err)}",
            hint="give a .pth, .pt or .safetensors file; it may be cut off",
        ) from err


def _check_page(path: Path) -> None:
    """Refuse the web page that a browser or a download tool saved instead of the file."""
    try:
        with path.open("rb") as file:
            start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    except OSError:
        return  # the reader reports what is wrong
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        raise ArtifactError(
            f"{path} is an HTML page, not a checkpoint",
            hint="the download gave a web page, such as one to log in or to confirm; open the address in a browser",
        )


_PROGRAMS = (
    ("code/", "a TorchScript program", "torch.jit.load({path!r}).state_dict()"),
    ("models/", "a program of torch.export", "torch.export.load({path!r}).state_dict"),
)
"""What marks archives that hold a program besides weights, what they are, and how to get the weights out."""


def _check_program(path: Path) -> None:
    """Refuse programs by name: what they are traced from is gone, and only the weights can be taken."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, struct.error):
        return
    for start, what, weights in _PROGRAMS:
        if any(name.startswith(start) for name in names):
            command = weights.format(path=path.name)
            raise ArtifactError(
                f"{path} is {what}, and a network is made again from its code and its weights",
                hint=f'take the weights out where you trust it: python -c "import torch; torch.save({command}, '
                "'weights.pth')\", then import weights.pth with the --arch of the network",
            )


def _check_unpacked_size(path: Path) -> None:
    """Refuse an archive that unpacks to far more than it is; torch.save compresses nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        packed = path.stat().st_size
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, struct.error):
        return  # an older format, or one whose damage the reader names
    if unpacked > _MOST_UNPACKING * packed:
        raise ArtifactError(
            f"{path} has {packed} bytes and would unpack to {unpacked}: a zip bomb",
            hint="save the checkpoint again with torch.save, which compresses nothing",
        )


def _unwrapped(loaded: Any) -> tuple[dict[str, Tensor], str | None]:
    """The state_dict inside the usual wrappers, or nothing; and the key of the moving average, if that was taken."""
    taken = None
    for _ in range(_DEEPEST_WRAPPING):
        if isinstance(loaded, nn.Module):  # only unsafe unpickling makes one
            loaded = loaded.state_dict()
        if not isinstance(loaded, Mapping):
            break
        key = next((key for key in (*_AVERAGES, *_WRAPPERS) if isinstance(loaded.get(key), (Mapping, nn.Module))), None)
        if key is None and (key := _only_weights(loaded)) is None:
            tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
            return (tensors, taken) if len(tensors) == len(loaded) else ({}, None)
        taken = key if key in _AVERAGES else taken
        loaded = loaded[key]
    return {}, None


def _only_weights(loaded: Mapping[Any, Any]) -> Any:
    """The one key of a dictionary whose value is a dictionary of arrays, or None."""
    keys = [
        key
        for key, value in loaded.items()
        if isinstance(value, Mapping) and value and all(isinstance(tensor, Tensor) for tensor in value.values())
    ]
    return keys[0] if len(keys) == 1 else None


def fitting_names(weights: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Weights by the names that a network has, without what a training framework has put before them.

    Lightning's ``model.``, ``torch.compile``'s ``_orig_mod.`` and the like are found by trying: of everything that
    names begin with, that is taken off which leaves the most names that the network has, if it has at least half of
    them: a few names are alike in many networks. Arrays without it belong to other parts of the training, such as a
    discriminator, and are left out.

    Args:
        weights: As they were saved.
        wanted: Names of the network's arrays; where there are none, the weights are left as they are.
    """
    names = set(wanted)
    tidy = {name.replace("_orig_mod.", ""): tensor for name, tensor in weights.items()}
    starts = {name[: at + 1] for name in tidy for at, sign in enumerate(name) if sign == "."}
    fitting = {start: sum(f"{start}{name}" in tidy for name in names) for start in ("", *sorted(starts))}
    best = max(fitting, key=fitting.__getitem__)
    if not best or 2 * fitting[best] < len(names) or not names:
        return tidy if names & tidy.keys() > names & weights.keys() else dict(weights)
    return {name.removeprefix(best): tensor for name, tensor in tidy.items() if name.startswith(best)}


def _without_prefixes(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    """Names without prefixes that wrap them all, and the prefix of the moving average, if there is one to take."""
    state = _unprefixed(state, _PREFIXES)
    marked = {prefix: [name for name in state if name.startswith(prefix)] for prefix in _AVERAGE_PREFIXES}
    average = next((prefix for prefix, names in marked.items() if 0 < len(names) < len(state)), None)
    if average is not None:
        state = {name: state[name] for name in marked[average]}
    return _unprefixed(state, (*_PREFIXES, *_AVERAGE_PREFIXES)), average


def _unprefixed(state: Mapping[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    while prefix := next((p for p in prefixes if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return dict(state)


def _reason_unusable(tensor: Tensor) -> str | None:
    """Why a tensor cannot be a weight, or None."""
    if tensor.is_meta:
        return "was saved without its values (on the meta device)"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"is not a plain array but {tensor.layout}"
    if tensor.is_quantized or tensor.is_complex():
        return f"holds {tensor.dtype}, not real numbers"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"has the shape {tuple(tensor.shape)} over only {tensor.untyped_storage().nbytes()} bytes"
    if tensor.numel() == 0:
        return f"is empty: its shape is {tuple(tensor.shape)}"
    return None
