"""From the name of a card to the compute capability that an engine is built for.

Capabilities are NVIDIA's (CUDA GPU Compute Capability list). A card, ``sm75``, ``7.5`` and ``75`` are all understood;
``portable`` means the flavour's own range of cards, ``current`` the card in this machine.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass

from deblur_deploy.config import PRECISIONS
from deblur_deploy.core.errors import BuildError, ConfigError
from deblur_deploy.runtime.nvidia import find_gpu

_CARDS = {
    "6.0": ("P100",),
    "6.1": ("GTX 1080 Ti", "GTX 1080", "GTX 1070", "GTX 1060", "GTX 1050", "P40", "P4"),
    "7.0": ("V100",),
    "7.5": ("RTX 2080 Ti", "RTX 2080", "RTX 2070", "RTX 2060", "GTX 1660", "GTX 1650", "Titan RTX", "T4", "RTX 8000"),
    "8.0": ("A100", "A30"),
    "8.6": ("RTX 3090", "RTX 3080", "RTX 3070", "RTX 3060", "RTX 3050", "RTX A6000", "RTX A4000", "A40", "A10", "A2"),
    "8.7": ("Jetson AGX Orin", "Jetson Orin Nano"),
    "8.9": ("RTX 4090", "RTX 4080", "RTX 4070", "RTX 4060", "RTX 6000 Ada", "RTX 4000 Ada", "L40S", "L40", "L4"),
    "9.0": ("H100", "H200", "GH200"),
    "10.0": ("B200", "GB200"),
    "10.3": ("B300", "GB300"),
    "11.0": ("Jetson Thor",),
    "12.0": ("RTX 5090", "RTX 5080", "RTX 5070", "RTX 5060", "RTX PRO 6000"),
    "12.1": ("GB10", "DGX Spark"),
}
_FIRST_IN_TENSORRT_10 = (7, 5)

_VARIANTS = re.compile(r"(?<=\d)(ti|super|laptop|maxq|pcie|sxm\d?|gpu)+$")
"""Words after the number of a card that do not change its capability."""


@dataclass(frozen=True)
class BuildTarget:
    """The card that an engine is built for.

    Args:
        name: The card as it is usually written, ``SM75`` where a capability was given, ``portable`` or ``current``.
        capability: Compute capability such as ``7.5``, or None for ``portable`` and ``current``.
    """

    name: str
    capability: str | None

    @property
    def sm(self) -> str | None:
        """The capability as TensorRT writes it, such as ``SM75``."""
        return f"SM{self.capability.replace('.', '')}" if self.capability else None


PORTABLE = BuildTarget("portable", None)
"""One engine for several cards. TensorRT-RTX's range is Ampere and later."""

CURRENT = BuildTarget("current", None)
"""The card in this machine."""


def resolve_target(text: str) -> BuildTarget:
    """Read the name of a card or a compute capability.

    Args:
        text: Such as ``2080ti``, ``RTX 2080 Ti``, ``sm75``, ``7.5``, ``portable`` or ``current``; case, spaces and the
            maker's name do not matter.

    Raises:
        ConfigError: No such card is known; the hint has the nearest name.
    """
    wanted = _plain(text)
    for target in (PORTABLE, CURRENT):
        if wanted == target.name:
            return target
    if capability := re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", text.strip().lower()):
        number = f"{capability[1]}.{capability[2]}"
        if number in _CARDS:
            return BuildTarget(f"SM{number.replace('.', '')}", number)
    cards = {_plain(card): (card, number) for number, names in _CARDS.items() for card in names}
    for name in (wanted, _VARIANTS.sub("", wanted)):
        if name in cards:
            return BuildTarget(*cards[name])
    near = difflib.get_close_matches(wanted, [card for card in cards if card[0] == wanted[:1]], n=1)
    guess = f"did you mean {cards[near[0]][0]!r}? " if near else ""
    raise ConfigError(
        f"no card or compute capability is called {text!r}",
        hint=f"{guess}Name a card such as '2080ti', a capability such as 'sm75', or 'portable'",
    )


def check_buildable(target: BuildTarget, members: Collection[str]) -> None:
    """Refuse a card that TensorRT-RTX does not build for, before it starts.

    Args:
        target: What is wanted.
        members: Names of the flavour's ``ComputeCapability`` enumeration, such as ``SM75``.

    Raises:
        BuildError: The capability is not among them; the hint says which flavour has it.
    """
    if target.sm is None or target.sm in members:
        return
    assert target.capability is not None
    have = ", ".join(sorted((m for m in members if m.startswith("SM")), key=lambda m: int(m[2:])))
    if _numbers(target.capability) < _FIRST_IN_TENSORRT_10:
        hint = "cards before Turing need TensorRT 8.6, which deblur-deploy does not drive; name a card from RTX 20 on"
    else:
        command = "deblur-deploy export-trt --flavour tensorrt --target current"
        hint = f"the full TensorRT does, on a machine with that card: `{command}`"
    raise BuildError(f"TensorRT-RTX builds no engines for {target.name} ({target.sm}); it has {have}", hint=hint)


def card_at_hand(members: Collection[str]) -> BuildTarget:
    """The card in this machine by name, so that it can be refused before anything is built.

    Args:
        members: As for :func:`check_buildable`.

    Returns:
        The card; ``current`` where there is none, or a newer one than TensorRT-RTX has a name for.
    """
    gpu = find_gpu()
    if gpu is None or int(gpu.sm[2:]) > max((int(name[2:]) for name in members if name.startswith("SM")), default=0):
        return CURRENT
    return BuildTarget(gpu.name, gpu.capability)


def check_precision(target: BuildTarget, precision: str) -> None:
    """Refuse a precision in which TensorRT-RTX runs no convolutions on a card, before it starts.

    Args:
        target: What is wanted; ``portable`` and ``current`` are not refused here.
        precision: As in :class:`~deblur_deploy.config.EngineConfig`.

    Raises:
        BuildError: The card's capability is too low.
    """
    row = PRECISIONS[precision]
    if target.capability is None or _numbers(target.capability) >= row.first_capability:
        return
    raise BuildError(
        f"TensorRT-RTX runs no {precision} convolutions on {target.name} ({target.sm}){row.without_it}",
        hint="build with --fp16; of a quantized network it takes the fine-tuned weights and drops the quantizers",
    )


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(map(int, capability.split(".")))


def _plain(text: str) -> str:
    """A card's name in lower case, without brand and spaces: ``NVIDIA GeForce RTX 2080 Ti`` is ``2080ti``."""
    letters = re.sub(r"\b\d+ ?gb\b|[\s_\-]+", "", text.lower())
    return re.sub(r"^(nvidia|geforce|tesla|quadro|rtx|gtx)+(?=.)", "", letters)
