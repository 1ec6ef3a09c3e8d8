"""Checking a network of 16-bit types against its float32 original: no infinity inside, and the same picture.

A float16 ends at 65504; beyond it is infinity, and dividing by it gives a finite, wrong picture. So both networks run
on photographs and on hard pictures (``probes.py``), with the largest magnitude of every value in view. Of a network
that looks at neighbourhoods only, several of these share one run, side by side, and each is judged by itself. What
breaks the bounds goes back to float32 by itself, and the manifest says so: first the nodes around a value that is too
large, then those at which the two networks part.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, version_converter

from deblur_deploy.core.errors import ExportError
from deblur_deploy.core.images import ImageSpec, with_noise
from deblur_deploy.data.pairs import Image8
from deblur_deploy.export.probes import Sheet, as_taken, probe_sheets
from deblur_deploy.export.watched import Seen, Watched, fed_to, has_weights, layer_name, open_quietly
from deblur_deploy.graph.float_nodes import largest_of
from deblur_deploy.graph.locality import is_local
from deblur_deploy.graph.retype import tensor_types
from deblur_deploy.graph.rounded import ROUNDED, round_in_float32
from deblur_deploy.runtime.runner import fixed_size

BOUND = 1 / 255
WITHIN = 0.999
"""The share of samples of every picture that must be within :data:`BOUND` of the float32 network's."""

HEADROOM = 0.9
"""How much of a type's range an activation may take: other photographs reach further than these."""

_HEADROOM_OF_PARTS = HEADROOM / 2
"""The same where pictures share a sheet: a smaller checkerboard gave a peak two thirds as large as a whole one."""

_ROUNDS = 4
_GROWTH = 4.0
"""A node at which the relative difference grows by this factor is one at which the networks part."""

_ROUNDING, _TINY = 1e-3, 1e-12
"""The relative difference that rounding to 16 bits makes, and a norm below which values count as none."""

Convert = Callable[[Collection[str]], onnx.ModelProto]
"""Makes the typed network with further nodes in float32, by the names of their outputs."""


@dataclass(frozen=True)
class Settled:
    """A typed network, and what was found about it.

    Args:
        model: The network.
        figures: What its manifest says: ``largest_activation`` with its layer, ``kept_fp32`` with the layers that went
            to float32 because of what was measured, ``probe_within`` with the share of samples within a level of the
            float32 network's on the worst picture, and ``probe_worst``, its name. Where that is less than
            :data:`WITHIN`, ``probe_noise`` is the share that the float32 network itself reaches with noise as
            float32's own rounding makes it: a network that this moves by levels cannot be held to the bound.
    """

    model: onnx.ModelProto
    figures: dict[str, Any] = field(default_factory=dict)


def settle_types(floats: onnx.ModelProto, convert: Convert, photos: Sequence[Image8], image: ImageSpec) -> Settled:
    """Convert a network, and keep in float32 what the type cannot hold.

    Args:
        floats: The network in float32.
        convert: Writes it in a 16-bit type.
        photos: Calibration photographs, (H, W, 3) uint8; repeated and cropped to the network's size.
        image: What the network takes.

    Raises:
        ExportError: The float32 network gives NaN or infinite values on a photograph, or the typed one still does with
            all but its layers with weights in float32.
    """
    typed = convert(())
    halves = rounded_values(floats, typed)
    watched = Watched(floats, halves)
    expected = []
    for sheet in probe_sheets(photos, fixed_size(image), together=is_local(floats)):
        batch = as_taken(sheet.picture, image)
        expected.append(_Expected(sheet, batch, watched.run(batch)))
    _require_finite(expected)
    peaks = {name: max(each.seen.peaks[name] for each in expected) for name in halves}
    kept = _around(floats, _too_large(peaks, typed, _headroom(expected)))
    reasons = _layers(floats, kept)
    if kept:
        typed = convert(kept)
    check = _Comparison(floats, watched, expected)
    found = check.compare(typed)
    for attempt in range(_ROUNDS):
        if found.is_good:
            break
        last = attempt == _ROUNDS - 1
        more = _light(floats) if last else check.where_they_part(typed, found.worst, with_layers=attempt > 0)
        if more <= kept:
            continue
        other = convert(kept | more)
        if (better := check.compare(other)).is_better_than(found):
            reasons += [layer for layer in _layers(floats, more) if layer not in reasons]
            typed, found, kept = other, better, kept | more
    if not found.finite:
        raise ExportError(
            f"the network in 16 bits gives NaN or infinite values on {found.worst}, with all but its layers with "
            "weights in float32",
            hint="build it with --fp32, or with --bf16, which has float32's range",
        )
    return Settled(typed, _largest(floats, peaks, rounded_values(floats, typed)) | found.figures(reasons))


def rounded_values(floats: onnx.ModelProto, typed: onnx.ModelProto) -> set[str]:
    """Values of the float32 network that the typed one has in 16 bits, under their name or a cast's."""
    halves = {name for name, kind in tensor_types(typed).items() if kind in ROUNDED}
    for node in typed.graph.node:
        if node.op_type == "Cast" and halves.intersection((*node.input, *node.output)):
            halves.update((*node.input, *node.output))
    types = tensor_types(floats)
    computed = (name for node in floats.graph.node for name in node.output)
    return {name for name in computed if name in halves and types.get(name) == TensorProto.FLOAT}


@dataclass(frozen=True)
class _Difference:
    """How a typed network did: on every picture the share of samples within the bound, and where it did worst."""

    within: float
    worst: str
    finite: bool
    noise: float | None = None

    @property
    def is_good(self) -> bool:
        """Whether it is as near as the bound asks, or as the network's own rounding noise lets anything be."""
        bound = WITHIN if self.noise is None else min(WITHIN, self.noise)
        return self.finite and self.within >= bound

    def is_better_than(self, other: _Difference) -> bool:
        return (self.finite, self.within) > (other.finite, other.within)

    def figures(self, kept: Sequence[str]) -> dict[str, Any]:
        noise = {} if self.noise is None else {"probe_noise": round(self.noise, 6)}
        found = {"kept_fp32": list(kept), "probe_within": round(self.within, 6), "probe_worst": self.worst}
        return found | noise


@dataclass(frozen=True)
class _Expected:
    """A sheet of pictures, as the network takes it, and what the float32 network gave for it."""

    sheet: Sheet
    batch: NDArray[Any]
    seen: Seen

    def share_within(self, part: str, output: NDArray[Any]) -> float:
        """As :func:`_share_within`, of one picture on the sheet."""
        return _share_within(self.sheet.cut(part, output), self.sheet.cut(part, self.seen.output))


class _Comparison:
    """Typed networks against the float32 one."""

    def __init__(self, floats: onnx.ModelProto, watched: Watched, expected: Sequence[_Expected]) -> None:
        self._floats, self._watched = floats, watched
        self._expected = {part: each for each in expected for part in each.sheet.parts}
        self._sheets = expected
        self._noise: dict[str, float] = {}

    def compare(self, typed: onnx.ModelProto) -> _Difference:
        """Run a typed network on all pictures."""
        model, rounded = round_in_float32(typed)
        watched = Watched(model, set(rounded))
        found = []
        for each in self._sheets:
            seen = watched.run(each.batch)
            for part in each.sheet.parts:
                within = each.share_within(part, seen.output)
                noise = self._noise_on(part) if within < WITHIN and each.batch.dtype != np.uint8 else None
                found.append(_Difference(within, part, seen.finite, noise))
        return min(found, key=lambda each: (each.finite, each.is_good, each.within))

    def _noise_on(self, picture: str) -> float:
        """The share of samples within the bound after as much noise as float32 itself makes."""
        if picture not in self._noise:
            each = self._expected[picture]
            output = self._watched.run(with_noise(each.batch, np.random.default_rng(0))).output
            self._noise |= {part: each.share_within(part, output) for part in each.sheet.parts}
        return self._noise[picture]

    def where_they_part(self, typed: onnx.ModelProto, picture: str, *, with_layers: bool) -> set[str]:
        """Outputs of the nodes at which a typed network's values leave the float32 one's, and of what leads there.

        Args:
            typed: The typed network.
            picture: Where to look.
            with_layers: Whether the layers with weights before them are among these: their rounding may be too much.
        """
        apart = _differences(self._floats, typed, self._expected[picture].batch)
        makers = {name: node for node in self._floats.graph.node for name in node.output}
        found = set[str]()
        for node in self._floats.graph.node:
            before = max((apart.get(name, 0.0) for name in node.input), default=0.0)
            after = max((apart.get(name, 0.0) for name in node.output), default=0.0)
            if after > _GROWTH * max(before, _ROUNDING):
                found |= _island(node, makers, with_layers=with_layers)
        return found


def _island(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], *, with_layers: bool) -> set[str]:
    """Outputs of a node, of the nodes without weights that its inputs are computed by, and of the layers before."""
    found, waiting = set(node.output), list(node.input)
    while waiting and not has_weights(node):
        maker = makers.get(waiting.pop())
        if maker is None or found.issuperset(maker.output):
            continue
        if not has_weights(maker):
            found.update(maker.output)
            waiting += maker.input
        elif with_layers:
            found.update(maker.output)
    return found


def _differences(floats: onnx.ModelProto, typed: onnx.ModelProto, batch: NDArray[Any]) -> dict[str, float]:
    """Root mean square difference of the values that both networks have, relative to the float32 one's."""
    names = sorted(rounded_values(floats, typed))
    (other, _), inlined = round_in_float32(typed), inliner.inline_local_functions(floats)
    newest = max(map(_standard_version, (inlined, other)))
    # One graph has one version of the standard operators, and some are written differently in another.
    joined, other = (_at_version(model, newest) for model in (inlined, other))
    graph, prefix = joined.graph, "typed/"
    for node in (*graph.node, *other.graph.node):
        node.name = ""  # the two have the same
    shared = {value.name for value in graph.input}
    for node in other.graph.node:
        for values in (node.input, node.output):
            values[:] = [name if not name or name in shared else f"{prefix}{name}" for name in values]
        graph.node.append(node)
    for item in other.graph.initializer:
        item.name = f"{prefix}{item.name}"
        graph.initializer.append(item)
    there = {name for node in other.graph.node for name in node.output}
    names = [name for name in names if f"{prefix}{name}" in there]
    del graph.output[:]
    for name in names:
        steps = {"difference": ("Sub", [name, f"{prefix}{name}"]), "own": ("Identity", [name])}
        for step, (kind, inputs) in steps.items():
            value = f"{name}/{step}"
            graph.node.append(helper.make_node(kind, inputs, [value]))
            graph.node.append(helper.make_node("ReduceL2", [value], [f"{value}/norm"], keepdims=0))
            graph.output.append(helper.make_tensor_value_info(f"{value}/norm", TensorProto.FLOAT, []))
    session = open_quietly(joined)
    norms = [float(norm) for norm in session.run(None, fed_to(session, batch))]
    pairs = zip(names, norms[::2], norms[1::2], strict=True)
    return {name: far / max(own, _TINY) if np.isfinite(far) else np.inf for name, far, own in pairs}


def _standard_version(model: onnx.ModelProto) -> int:
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def _at_version(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    return model if _standard_version(model) == version else version_converter.convert_version(model, version)


def _share_within(given: NDArray[Any], expected: NDArray[Any]) -> float:
    """The share of samples that are within a level of what is expected, as pictures have them; NaN is not."""
    if expected.dtype == np.uint8:
        apart = np.abs(given.astype(np.int16) - expected.astype(np.int16))
        return float((apart <= 1).mean())
    return float((np.abs(np.clip(given, 0, 1) - np.clip(expected, 0, 1)) <= BOUND).mean())


def _require_finite(expected: Sequence[_Expected]) -> None:
    """Refuse a network that is broken before anything is converted; on hard pictures it may be as it is."""
    broken = {
        part: np.count_nonzero(~np.isfinite(each.sheet.cut(part, each.seen.output)))
        for each in expected
        for part in each.sheet.parts
    }
    worst = max(broken, key=broken.__getitem__)  # on a sheet, others may have caught some of it at their borders
    if broken[worst]:
        raise ExportError(
            f"the float32 network itself gives NaN or infinite values on {worst}",
            hint="a division by zero on flat areas is the usual reason: add an epsilon, or take another checkpoint",
        )


def _headroom(expected: Sequence[_Expected]) -> float:
    """How much of a type's range the values may take that were seen on these sheets."""
    return HEADROOM if all(len(each.sheet.parts) == 1 for each in expected) else _HEADROOM_OF_PARTS


def _too_large(peaks: Mapping[str, float], typed: onnx.ModelProto, headroom: float) -> set[str]:
    """Values that take more than so much of a type's range; NaN is within no limit."""
    kinds = set(tensor_types(typed).values()) & ROUNDED
    limit = headroom * min(map(largest_of, kinds), default=np.inf)
    return {name for name, peak in peaks.items() if not peak <= limit}


def _around(floats: onnx.ModelProto, values: set[str]) -> set[str]:
    """Outputs of the nodes that make or take any of these values."""
    nodes = (node for node in floats.graph.node if values.intersection((*node.input, *node.output)))
    return {name for node in nodes for name in node.output}


def _light(floats: onnx.ModelProto) -> set[str]:
    """Outputs of all nodes without weights."""
    nodes = (node for node in floats.graph.node if not has_weights(node))
    return {name for node in nodes for name in node.output}


def _layers(floats: onnx.ModelProto, outputs: Set[str]) -> list[str]:
    """How people know the nodes that make these values."""
    makers = {name: node for node in floats.graph.node for name in node.output}
    return list(dict.fromkeys(layer_name(name, makers) for name in makers if name in outputs))


def _largest(floats: onnx.ModelProto, peaks: Mapping[str, float], halves: Set[str]) -> dict[str, Any]:
    """The largest activation that has 16 bits, and where it is."""
    inside = {name: peak for name, peak in peaks.items() if name in halves}
    if not inside:
        return {}
    worst = max(inside, key=lambda name: inside[name])
    makers = {name: node for node in floats.graph.node for name in node.output}
    return {"largest_activation": inside[worst], "largest_activation_layer": layer_name(worst, makers)}
