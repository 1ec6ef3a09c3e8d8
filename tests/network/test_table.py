"""The table of networks: help texts and docs hold what it holds, and a row is all that a new network needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from deblur_deploy.compress.prune import prune
from deblur_deploy.config import ExportConfig, FitConfig, PruneConfig, ShakeConfig, TuningConfig
from deblur_deploy.core.images import save_rgb
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.network import table
from deblur_deploy.network.architectures import find_architecture
from deblur_deploy.network.checkpoint import import_checkpoint
from deblur_deploy.runtime.runner import open_runner

DOCS = Path(__file__).parents[2] / "docs"

MADE_UP = """
from dataclasses import dataclass, field
import torch
from torch import nn
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.widths import apply_widths, changed_widths

@dataclass(frozen=True)
class MadeUpConfig:
    widths: dict[str, tuple[int, ...]] = field(default_factory=dict)

class MadeUp(Generator):
    arch = "made-up"

    def __init__(self, config=None):
        super().__init__()
        self.config = config or MadeUpConfig()
        self.begin, self.end = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        apply_widths(self, self.config.widths)

    def forward_scales(self, blurred):
        return [blurred + self.end(self.begin(blurred).relu())]

    @classmethod
    def read_config(cls, shapes):
        return MadeUpConfig(changed_widths(cls(), shapes))
"""


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A row of its own in the table."""
    (tmp_path / "made_up_network.py").write_text(MADE_UP)
    monkeypatch.syspath_prepend(tmp_path)
    row = table.ArchitectureRow(
        name="made-up",
        title="a made-up network",
        about="nothing that exists",
        checkpoint="a state_dict",
        network="made_up_network:MadeUp",
        config="made_up_network:MadeUpConfig",
        telling=("begin.weight", "end.weight"),
    )
    monkeypatch.setitem(table.ARCHITECTURES, row.name, row)
    yield row
    sys.modules.pop("made_up_network", None)


def test_a_row_is_all_that_a_network_needs(made_up, tmp_path, photo):
    net = find_architecture("made-up").example()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "drawn.png", photo[:96, :96])
    folder = str(tmp_path / "photos")
    fit = FitConfig(1, batch=1, crop=64, lr=1e-6, lr_final=1e-7, warmup=0, ema_decay=0)
    tuning = TuningConfig(folder, folder, ShakeConfig(length_px=(3.0, 6.0)), fit)

    imported = import_checkpoint(tmp_path / "net.pth", "made-up", tmp_path / "imported")
    pruned = prune(imported, PruneConfig(keep=0.5, tuning=tuning, importance="l2"), tmp_path / "pruned")
    graph = export_onnx(pruned, ExportConfig(32, 24), tmp_path / "graph")

    assert table.recognise(net.state_dict()) == "made-up"
    assert "made-up" in table.known_names()
    assert pruned.figures["groups"] == [{"layers": ["begin"], "before": 16, "after": 8, "share": 0.5}]
    frame = torch.rand(1, 3, 24, 32).numpy()
    with open_runner(pruned, "torch", threads=1) as eager, open_runner(graph, "onnxruntime", threads=1) as runner:
        assert abs(eager.infer(frame) - runner.infer(frame)).max() < 1e-5


def test_the_guide_has_the_rows_of_the_table():
    lines = (DOCS / "your-own-checkpoint.md").read_text(encoding="utf-8").splitlines()

    listed = [line for line in lines if line.startswith("| `") and line.split("`")[1] in table.ARCHITECTURES]

    assert listed == [f"| `{row.name}` | {row.about} | {row.checkpoint} |" for row in table.ARCHITECTURES.values()]
