"""Which layers lose quality when they are quantized, and how many of them a budget needs in float."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from deblur_deploy.compress.finetune import OnStep
from deblur_deploy.core.files import remove_partials, write_text
from deblur_deploy.core.plain_data import to_json
from deblur_deploy.data.pairs import Pair
from deblur_deploy.network.fake_quant import enabled_quantizers
from deblur_deploy.quality.evaluate import evaluate_network, pairs_psnr_db
from deblur_deploy.quality.gain import gain_kept, lost_db


@dataclass(frozen=True)
class LayerSensitivity:
    """The cost of quantizing one layer.

    Args:
        layer: Its name.
        drop_db: PSNR lost when this layer alone is quantized; below zero by chance.
        exempt: Whether the settings keep it in float.
    """

    layer: str
    drop_db: float
    exempt: bool = False


@dataclass(frozen=True)
class QuantScanReport:
    """Sensitivity of every layer, the most sensitive first.

    Args:
        psnr_float_db: PSNR of the float network on the evaluation pairs.
        layers: One entry per layer that can be quantized.
        psnr_blurred_db: PSNR of the blurred pictures.
    """

    psnr_float_db: float
    layers: tuple[LayerSensitivity, ...]
    psnr_blurred_db: float

    def gain_kept(self, item: LayerSensitivity) -> float | None:
        """Share of the float network's gain that is kept when a layer alone is quantized, or None (see ``gain.py``)."""
        return gain_kept(self.psnr_float_db - item.drop_db, self.psnr_float_db, self.psnr_blurred_db)

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        layers = [{**asdict(item), "gain_kept": self.gain_kept(item)} for item in self.layers]
        return {"psnr_float_db": self.psnr_float_db, "psnr_blurred_db": self.psnr_blurred_db, "layers": layers}


@dataclass(frozen=True)
class BudgetReport:
    """How a budget was met, or how nearly.

    Args:
        drop_db: dB lost against the float source at the end.
        sensitivity: Layer to dB lost by it alone, the most sensitive first; empty where nothing had to be exempted.
        exempted: Layers that were put back to float for the budget, in that order.
        drops_db: dB lost against the float source before the first exemption and after each.
    """

    drop_db: float
    sensitivity: dict[str, float]
    exempted: tuple[str, ...]
    drops_db: tuple[float, ...]


def scan_layers(
    net: nn.Module, pairs: Sequence[Pair], exempt: Collection[str] = (), on_layer: OnStep | None = None
) -> QuantScanReport:
    """Quantize one layer after the other, each alone, and measure what is lost.

    Args:
        net: A calibrated network; all its quantizers are on again afterwards.
        pairs: Pairs to measure on.
        exempt: Layers that are marked as exempt in the report.
        on_layer: Called after each layer with its number, how many there are, and the dB lost.
    """
    layers = list(_by_layer(net))
    with quantizing_only(net, ()):
        float_db = evaluate_network(net, pairs)
    found = []
    for number, layer in enumerate(layers, start=1):
        with quantizing_only(net, (layer,)):
            drop_db = lost_db(float_db, evaluate_network(net, pairs))
        found.append(LayerSensitivity(layer, drop_db, layer in exempt))
        if on_layer:
            on_layer(number, len(layers), drop_db)
    return QuantScanReport(float_db, tuple(sorted(found, key=lambda item: -item.drop_db)), pairs_psnr_db(pairs))


def hold_budget(net: nn.Module, pairs: Sequence[Pair], float_db: float, max_drop: float) -> BudgetReport:
    """Put the most sensitive layers back to float until the budget holds, in place.

    The last quantized layer stays: without it the network would not be quantized. If the budget is missed even so, the
    network is left at its best.

    Args:
        net: A calibrated and fine-tuned network.
        pairs: Pairs to measure on.
        float_db: PSNR of the float source on them.
        max_drop: dB that may be lost against it.
    """
    drops = [lost_db(float_db, evaluate_network(net, pairs))]
    if drops[0] <= max_drop:
        return BudgetReport(drops[0], {}, (), tuple(drops))
    ranked = scan_layers(net, pairs).layers
    quantizers = _by_layer(net)
    exempted: list[str] = []
    for item in ranked[:-1]:
        for quantizer in quantizers[item.layer]:
            quantizer.disable()
        exempted.append(item.layer)
        drops.append(lost_db(float_db, evaluate_network(net, pairs)))
        if drops[-1] <= max_drop:
            break
    best = drops.index(min(drops))
    for layer in exempted[best:]:
        for quantizer in quantizers[layer]:
            quantizer.enable()
    return BudgetReport(
        drops[best], {item.layer: item.drop_db for item in ranked}, tuple(exempted[:best]), tuple(drops)
    )


@contextlib.contextmanager
def quantizing_only(net: nn.Module, layers: Collection[str]) -> Iterator[None]:
    """While open, all but these layers run in float."""
    off = [q for layer, quantizers in _by_layer(net).items() if layer not in layers for q in quantizers]
    for quantizer in off:
        quantizer.disable()
    try:
        yield
    finally:
        for quantizer in off:
            quantizer.enable()


def write_scan(report: QuantScanReport, directory: Path) -> tuple[Path, Path]:
    """Write a scan as ``sensitivity.csv`` and ``sensitivity.json``.

    Returns:
        The two paths.

    Raises:
        ArtifactError: They cannot be written.
    """
    table = io.StringIO()
    writer = csv.DictWriter(table, ["layer", "drop_db", "gain_kept", "exempt"], lineterminator="\n")
    writer.writeheader()
    plain = report.as_json()
    writer.writerows(plain["layers"])
    csv_path, json_path = directory / "sensitivity.csv", directory / "sensitivity.json"
    remove_partials(directory)
    write_text(csv_path, table.getvalue())
    write_text(json_path, to_json(plain, indent=2) + "\n")
    return csv_path, json_path


def _by_layer(net: nn.Module) -> dict[str, list[Any]]:
    """Quantizers that are on, by the layer that they belong to."""
    layers: dict[str, list[Any]] = {}
    for name, quantizer in enabled_quantizers(net):
        layers.setdefault(name.rpartition(".")[0], []).append(quantizer)
    return layers
