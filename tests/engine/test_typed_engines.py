"""Engines of typed networks whose arithmetic is partly float32: built for Turing, and proven in the rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.config import EngineConfig
from deblur_deploy.core.images import Resolution
from deblur_deploy.engine import build
from deblur_deploy.engine.build import build_engine_bytes
from deblur_deploy.engine.targets import resolve_target
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.graph.retype import convert_to_fp16
from deblur_deploy.network.generator import Generator

pytestmark = pytest.mark.rtx


class Net(Generator):
    """Two convolutions with something between them."""

    arch = "test"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)

    def between(self, y: Tensor) -> Tensor:
        return y

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        return [blurred + self.last(F.relu(self.between(self.first(blurred))))]


class Normalised(Net):
    def between(self, y: Tensor) -> Tensor:
        centred = y - y.mean(1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + 1e-8)


class Attending(Net):
    """Channel attention by cosines, as Restormer has it."""

    def between(self, y: Tensor) -> Tensor:
        heads = y.reshape(y.shape[0], 2, 8, -1)
        unit = F.normalize(heads, dim=-1)
        return y + torch.einsum("bhij,bhjn->bhin", (unit @ unit.transpose(-2, -1)).softmax(-1), heads).reshape(y.shape)


class Depthwise(Net):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)

    def between(self, y: Tensor) -> Tensor:
        return self.depthwise(y)


def built(net: Generator, target: str) -> build.BuiltEngine:
    typed = convert_to_fp16(network_to_onnx(net.eval(), Resolution(320, 200)))
    return build_engine_bytes(typed.SerializeToString(), EngineConfig(target=target, flavour="rtx"))


@pytest.mark.parametrize("kind", [Normalised, Attending])
def test_float32_islands_and_products_of_activations(kind):
    engine = built(kind(), "2080ti")
    assert engine.proof.shares()["fp16"] >= 0.9
    assert build._why_large(engine, resolve_target("2080ti")) is None  # it is not large


def test_why_an_engine_is_far_larger_than_its_network_is_said():
    turing, ampere = built(Depthwise(), "2080ti"), built(Depthwise(), "3090")
    assert len(turing.data) > 10 * len(ampere.data)  # the fact itself
    assert turing.groups == 1
    assert "grouped convolutions" in build._why_large(turing, resolve_target("2080ti"))
    assert build._why_large(ampere, resolve_target("3090")) is None
