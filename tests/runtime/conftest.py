"""One tiny network as a checkpoint and as an ONNX file."""

from __future__ import annotations

import pytest
import torch

from deblur_deploy.artifact import Artifact, new_step
from deblur_deploy.config import ExportConfig
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.srn import SRN, SRNConfig


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A fresh network whose head and offsets are large enough to show in the picture."""
    torch.manual_seed(0)
    net = SRN(SRNConfig.from_base(8, (1, 1, 1))).eval()
    torch.nn.init.normal_(net.head.weight, std=0.1)
    torch.nn.init.normal_(net.deform.deform.conv_offset.weight, std=0.1)
    out = tmp_path_factory.mktemp("runtime") / "checkpoint"
    return save_network(out, net, spec_of(net), new_step("import", {}, None, {}))


@pytest.fixture(scope="session")
def onnx_file(checkpoint: Artifact) -> Artifact:
    """The same network for 50x36, a size that its pyramid does not divide."""
    return export_onnx(checkpoint, ExportConfig(width=50, height=36), checkpoint.directory.parent / "onnx")
