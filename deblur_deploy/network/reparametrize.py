"""Weights that a network computes from other arrays, such as weight and spectral normalisation: written down once.

Such a weight is the same in every pass once training has ended. As a plain parameter it can be pruned, quantized and
exported like any other.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm


def has_computed_weights(net: nn.Module) -> bool:
    """Whether a network computes weights from other arrays, in PyTorch's older style or its newer one."""
    return any(parametrize.is_parametrized(layer) or _older(layer) for layer in net.modules())


def bake(net: nn.Module) -> None:
    """Replace every computed weight by its value, in place; the network's output stays the same."""
    net.eval()  # in training mode a spectral norm would take another step
    for layer in list(net.modules()):
        for hook in _older(layer):
            remove = remove_weight_norm if isinstance(hook, WeightNorm) else remove_spectral_norm
            remove(layer, hook.name)
            _forget_loading(layer)
        if parametrize.is_parametrized(layer):
            for name in list(layer.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)


def baked_weights(net: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The plain weights of a network from those that it was trained with, by its own names; None where they do not fit.

    Args:
        net: The network as its code makes it; it is changed.
        weights: Its state_dict as it was saved.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net.load_state_dict(dict(weights))
    except RuntimeError:
        return None
    bake(net)
    return {name: tensor.detach() for name, tensor in net.state_dict().items()}


def _forget_loading(layer: nn.Module) -> None:
    """Remove hooks that would still look for a spectral norm's arrays in a state_dict; PyTorch leaves them."""
    hooks = layer._load_state_dict_pre_hooks
    for key, hook in list(hooks.items()):
        if isinstance(getattr(hook, "hook", hook), SpectralNormLoadStateDictPreHook):
            del hooks[key]


def _older(layer: nn.Module) -> list[WeightNorm | SpectralNorm]:
    hooks = layer._forward_pre_hooks.values()
    return [hook for hook in hooks if isinstance(hook, (WeightNorm, SpectralNorm))]
