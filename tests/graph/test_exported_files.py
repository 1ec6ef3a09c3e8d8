"""Exported files stay what they were, byte for byte of their structure: passes may change, and files may not grow."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from importlib.metadata import version

import onnx
import pytest
import torch

from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.sources import shipped
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.network.checkpoint import load_network
from deblur_deploy.network.deblurgan_v2 import DeblurGANv2Inception, DeblurGANv2MobileNet
from deblur_deploy.network.dmphn import DMPHN
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.mimo_unet import MIMOUNet, MIMOUNetPlus
from deblur_deploy.network.nafnet import NAFNet
from deblur_deploy.network.restormer import Restormer
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.network.srn_cvpr18 import SRNCVPR18

SHIPPED = ("srn-base", "srn-demo", "srn-base-p70-int8", "srn-base-p50-int8", "srn-demo-p70-int8")


def shipped_network(name: str) -> Generator:
    return load_network(load_artifact(shipped("models") / name))


NETWORKS: dict[str, Callable[[], Generator]] = {
    "srn": lambda: SRN(SRNConfig.from_base(8, (1, 1, 1))),
    "deblurgan-v2-mobilenet": DeblurGANv2MobileNet,
    "deblurgan-v2-inception": DeblurGANv2Inception,
    "mimo-unet": MIMOUNet,
    "mimo-unet-plus": MIMOUNetPlus,
    "nafnet": NAFNet.example,
    "dmphn": DMPHN.example,
    "restormer": Restormer.example,
    **{name: functools.partial(shipped_network, name) for name in SHIPPED},
}
RECORDED = {
    "srn": (399_444, 142, "a0f841591fc2376bbf1d11eec11f41cf8232aa1d99f3bee9230414a64d057b42"),
    "deblurgan-v2-mobilenet": (8_372_691, 188, "460621f4de0dcf9fafa30c8542018a0893cb1e5a6ca00ab2f6251e0c28f70d6a"),
    "deblurgan-v2-inception": (143_270_172, 711, "16d755b1aaa437bd3917fbca53c6c721b6bf98667a7705bdb996351d16b6be64"),
    "mimo-unet": (27_230_792, 250, "8fb0f867e6029ee33cb4adaa63519ab9ccc90011f94d498e66c7427480c491b0"),
    "mimo-unet-plus": (64_459_678, 538, "00ee670a1c9adbd915e632a0670d70b655a7eb649cd7bc5fcb3508456e00dfe8"),
    "srn-base": (12_809_041, 262, "2fcc9ceb465b109a1ef3162e8a590354f00e9495661f460f4945121a0c0bc439"),
    "srn-demo": (7_240_970, 262, "804119c4c8a8a33685c74b8f1f04ecf36648921d9a1d6142075820fe20bace2b"),
    "srn-base-p70-int8": (653_844, 512, "99530ba7bd3b8ca87dc207cb20c61ba4b742b10b9c2aa7af6f743c1e45071fcc"),
    "srn-base-p50-int8": (371_842, 512, "4b40d12d402e92a807f66f4025581337f826c25444197aae9988872d2db9b0d1"),
    "srn-demo-p70-int8": (418_621, 512, "145cc09c2a7a3cc0ac0779d19ddb6932adc476847fb2fc1e29498128f6033dbf"),
    "nafnet": (68_320_711, 1317, "6edd12ae6e80ec2232f2b7cd39ca817037f90d099a7a7834b5ab7c4cc8038120"),
    "dmphn": (21_722_508, 316, "99dad8f6779342536da8789192adb0b9cf3962516d45f0b752eee9f6d4a02178"),
    "restormer": (104_510_763, 2448, "1d4f9690fd3c6af7a9e577020240d1291e854528e479e238165732f78906e81e"),
}
"""Bytes, nodes and structure of the files at 60x44; of the first five as when every pass was the package's own."""

QUICK = ("srn", "srn-demo", "srn-demo-p70-int8")

RECORDED_WITH = {"torch": "2.13", "onnx": "1.23"}
"""Releases whose exporter wrote them: another one may write the same network in another order."""


def structure(model: onnx.ModelProto) -> str:
    """sha256 of everything in a file but the values of its tensors."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for item in bare.graph.initializer:
        item.ClearField("raw_data")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


@pytest.mark.slow
def test_a_file_with_equal_nodes_is_smaller_than_it_was() -> None:
    torch.manual_seed(0)
    model = network_to_onnx(SRNCVPR18().eval(), Resolution(60, 44))
    assert (model.ByteSize(), len(model.graph.node)) <= (27_545_248, 289)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NETWORKS]
)
def test_a_file_is_what_it_was(name: str) -> None:
    torch.manual_seed(0)
    model = network_to_onnx(NETWORKS[name]().eval(), Resolution(60, 44))
    size, nodes, digest = RECORDED[name]
    found = {library: ".".join(version(library).split(".")[:2]) for library in RECORDED_WITH}
    if found != RECORDED_WITH:
        pytest.skip(f"recorded with {RECORDED_WITH}, and this is {found}")
    assert (model.ByteSize(), len(model.graph.node)) == (size, nodes)
    assert structure(model) == digest
