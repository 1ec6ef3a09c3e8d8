"""What the published deblurring networks cost, beside the generators that are shipped."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from measurement import Measurement

from deblur_deploy.core.artifact import NetworkSpec, load_artifact
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.sources import shipped

_HEADINGS = ("network", "parameters", "GMACs", "× ours", "GoPro PSNR, as published")


@dataclass(frozen=True)
class Published:
    """A network of the literature.

    Args:
        name: As it is called.
        arch: Name in the table of architectures.
        psnr_db: PSNR on GoPro's test set as its authors report it, or None where no figure of this variant is at hand.
        config: Fields of its config that differ from the defaults.
    """

    name: str
    arch: str
    psnr_db: float | None = None
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedCosts:
    """Parameters and multiply-accumulates, counted, not timed.

    Args:
        resolution: Size of the frame.
        ours: Names of shipped generators; the figure is the first one's.
        published: What they stand beside.
    """

    resolution: Resolution
    ours: tuple[str, ...]
    published: tuple[Published, ...]

    def measure(self) -> Measurement:
        """Multiply-accumulates of the first of ours over those of the published network with the best PSNR."""
        counted = [self._count_ours(name) for name in self.ours]
        first = counted[0]
        counted += [self._count_published(network) for network in self.published]
        best = max((row for row in counted if row["psnr_db"] is not None), key=lambda row: row["psnr_db"])
        rows = [
            [
                row["name"],
                f"{row['params']:,}",
                f"{row['gmacs']:.1f}",
                f"{row['gmacs'] / first['gmacs']:.2f}",
                "" if row["psnr_db"] is None else f"{row['psnr_db']:.2f} dB",
            ]
            for row in counted
        ]
        note = f"{first['gmacs']:.1f} GMACs at {self.resolution} against {best['gmacs']:.1f} of {best['name']}"
        details = {"networks": counted, "table": {"headings": _HEADINGS, "rows": rows}}
        return Measurement(first["gmacs"] / best["gmacs"], "×", {}, note, details)

    def _count_ours(self, name: str) -> dict[str, Any]:
        from deblur_deploy.network.checkpoint import build_network
        from deblur_deploy.network.cost import measure_cost

        # Quantizers count for nothing: they are arithmetic on activations, not products with weights.
        spec = dataclasses.replace(load_artifact(shipped("models") / name).network, quantization=None)
        return {"name": f"ours: {name}", "psnr_db": None, **measure_cost(build_network(spec), self.resolution)}

    def _count_published(self, network: Published) -> dict[str, Any]:
        import torch

        from deblur_deploy.network.checkpoint import build_network
        from deblur_deploy.network.cost import measure_cost

        with torch.device("meta"):
            net = build_network(NetworkSpec(network.arch, network.config))
        return {"name": network.name, "psnr_db": network.psnr_db, **measure_cost(net.eval(), self.resolution)}
