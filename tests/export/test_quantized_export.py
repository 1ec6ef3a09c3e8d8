"""Quantized files: the same picture in every runtime, real 8-bit weights, and an eighth of the float file's size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from deblur_deploy.cli.export_onnx_command import report_difference
from deblur_deploy.compress.plan import prune_network
from deblur_deploy.compress.quantize import calibration_frames, plan_scheme, quantize_network, round_float_weights
from deblur_deploy.config import ExportConfig, PruneConfig, QatConfig
from deblur_deploy.core.artifact import Artifact, new_step
from deblur_deploy.core.images import ImageSpec, Resolution, to_batch
from deblur_deploy.core.sources import shipped_generator
from deblur_deploy.export.fidelity import comparing
from deblur_deploy.export.to_onnx import export_onnx, network_to_onnx
from deblur_deploy.graph.shrink import bytes_by_category
from deblur_deploy.network.checkpoint import load_network, save_network, spec_of
from deblur_deploy.network.fake_quant import default_exemptions
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.runtime.runner import open_runner

SIZE = Resolution(80, 64)
RUNTIMES = ("onnxruntime", "openvino")
SCHEMES = {
    "int8": QatConfig(),
    "int8 weights": QatConfig(weights_only=True),
    "int8 all layers": QatConfig(include=("head", "levels.0.enter")),
    "fp8": QatConfig(format="fp8"),
    "fp8 weights": QatConfig(format="fp8", weights_only=True),
}

Frame = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A fake-quantized network and its ONNX artifact."""

    net: torch.nn.Module
    onnx: Artifact


Export = Callable[[str], Exported]


@pytest.fixture(scope="module")
def exported(
    _drawn_photo: NDArray[np.uint8],
    tmp_path_factory: pytest.TempPathFactory,
    soften: Callable[[torch.nn.Module], None],
) -> Export:
    """Makes each scheme once, on a small network whose weights move the picture."""
    made: dict[str, Exported] = {}

    def export(name: str) -> Exported:
        if name not in made:
            torch.manual_seed(4)
            net = SRN(SRNConfig.from_base(8, (1, 1, 1))).eval()
            soften(net)
            # The picture moves by up to 30 levels of 255; a larger head would magnify each FP8 step of the features,
            # an eighth of a value, to two levels where OpenVINO adds up in another order and rounds the other way.
            torch.nn.init.normal_(net.head.weight, std=0.02)
            torch.nn.init.normal_(net.deform.deform.conv_offset.weight, std=0.05)
            torch.nn.init.normal_(net.recurrent.gate.weight, std=0.2)
            scheme = dataclasses.asdict(plan_scheme(net, SCHEMES[name]))
            spec = dataclasses.replace(spec_of(net), quantization=scheme)
            quantize_network(net, scheme, [to_batch(_drawn_photo)])
            round_float_weights(net)
            folder = tmp_path_factory.mktemp("exported")
            checkpoint = save_network(folder / "net", net, spec, new_step("qat", {}, None, {}))
            made[name] = Exported(net, export_onnx(checkpoint, ExportConfig(SIZE.width, SIZE.height), folder / "onnx"))
        return made[name]

    return export


def share_within_one_level(net: torch.nn.Module, artifact: Artifact, runtime: str, frames: list[Frame]) -> float:
    """Share of the 8-bit values in which a runtime and PyTorch differ by one or not at all."""
    shares = []
    with open_runner(artifact, runtime, threads=1) as runner:
        for frame in frames:
            with torch.no_grad():
                expected = net(torch.from_numpy(frame)).numpy()
            levels = [np.rint(np.clip(picture, 0, 1) * 255) for picture in (expected, runner.infer(frame))]
            shares.append(float((np.abs(levels[0] - levels[1]) <= 1).mean()))
    return min(shares)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_runtimes_give_the_picture_of_fake_quantization(exported: Export, photo, scheme: str, runtime: str) -> None:
    made = exported(scheme)
    frames = [to_batch(photo[:64, :80]), to_batch(photo[-64:, -80:])]

    assert share_within_one_level(made.net, made.onnx, runtime, frames) >= 0.999


@pytest.mark.parametrize("scheme", SCHEMES)
def test_hard_pictures_are_as_near_as_quantization_lets_them_be(exported: Export, scheme: str) -> None:
    figures = exported(scheme).onnx.figures

    assert figures["network_difference"].keys() == set(RUNTIMES)
    for runtime, apart in figures["network_difference"].items():
        assert apart <= figures["network_difference_allowed"][runtime]
    assert figures["infinite_inside"] == {}


class Chain(Generator):
    """Three convolutions, of which the one in the middle is quantized: it alone sees what the first gives."""

    arch = "test"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 3, 3, padding=1),
        )

    def forward_scales(self, blurred: torch.Tensor) -> list[torch.Tensor]:
        return [blurred + self.layers(blurred)]


def narrow_ranges(model: onnx.ModelProto) -> None:
    """Let the quantizers of activations end at a tenth of what they should."""
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for item in model.graph.initializer:
        if item.name in scales:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * np.float32(0.1), item.name))


def make_infinite(model: onnx.ModelProto) -> None:
    """Give the first convolution a bias of infinity, which the quantizer behind it makes finite."""
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    first.input[2] = "infinite"
    model.graph.initializer.append(numpy_helper.from_array(np.full(8, np.inf, np.float32), "infinite"))


@pytest.mark.parametrize("size", [SIZE, Resolution(320, 160)], ids=["alone", "two on a sheet"])
@pytest.mark.parametrize("change", [narrow_ranges, make_infinite])
def test_a_file_that_is_quantized_otherwise_is_said(
    save, photo, change: Callable[[onnx.ModelProto], None], size: Resolution
) -> None:
    net = Chain().eval()
    scheme = dataclasses.asdict(plan_scheme(net, QatConfig()))
    quantize_network(net, scheme, [to_batch(photo[:64, :80])])
    model = network_to_onnx(net, size)
    change(model)
    artifact = save(model, ImageSpec(height=size.height, width=size.width))
    artifact = dataclasses.replace(artifact, network=dataclasses.replace(artifact.network, quantization=scheme))

    figures = comparing(net, ExportConfig(size.width, size.height))(artifact)

    assert figures["network_difference"].keys() == set(RUNTIMES)
    for runtime, apart in figures["network_difference"].items():
        assert apart > figures["network_difference_allowed"][runtime]
    said: list[str] = []
    report_difference(SimpleNamespace(say=said.append), SimpleNamespace(figures=figures))
    assert "quantization itself moves it by" in said[0]
    if change is make_infinite:  # by its picture, also where some share a sheet
        assert set(figures["infinite_inside"]) >= {"black", "white", "checkerboard"}
        assert "NaN or infinite values inside the file at '/layers/layers.0/Conv'" in said[-1]
    else:
        assert figures["infinite_inside"] == {}


def test_fp8_is_standard_onnx(exported: Export) -> None:
    model = onnx.load(exported("fp8").onnx.path)

    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain for entry in model.opset_import} == {"", "deblur"}
    types = {item.name: item.data_type for item in model.graph.initializer}
    quantizers = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {types[node.input[2]] for node in quantizers} == {TensorProto.FLOAT8E4M3FN}
    assert TensorProto.INT8 not in types.values()


@pytest.mark.parametrize("scheme", ["int8 weights", "fp8 weights"])
def test_weights_only_has_no_quantizer_on_activations(exported: Export, scheme: str) -> None:
    model = onnx.load(exported(scheme).onnx.path)

    kinds = {node.op_type for node in model.graph.node}
    assert "DequantizeLinear" in kinds
    assert "QuantizeLinear" not in kinds


def test_the_file_holds_a_byte_per_quantized_weight(exported: Export) -> None:
    made = exported("int8")
    sizes = bytes_by_category(onnx.load(made.onnx.path))

    exempt = default_exemptions(SRN(SRNConfig.from_base(8, (1, 1, 1))), torch.rand(1, 3, 32, 32))
    weights = {n: p.numel() for n, p in made.net.named_parameters() if n.endswith(".weight")}
    quantized = sum(size for name, size in weights.items() if name.removesuffix(".weight") not in exempt)
    halves = sum(weights.values()) - quantized
    assert quantized <= sizes["quantized weights"] <= quantized + 1000
    assert 2 * halves <= sizes["float16"] <= 2 * halves + 100


@pytest.mark.rtx
@pytest.mark.parametrize("scheme", ["int8", "int8 weights", "fp8"])
def test_tensorrt_rtx_reads_the_file(exported: Export, scheme: str) -> None:
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)

    parsed = parser.parse(exported(scheme).onnx.path.read_bytes())
    assert parsed, [str(parser.get_error(index)) for index in range(parser.num_errors)]


@pytest.fixture(scope="module")
def pruned_demo() -> SRN:
    """The shipped generator with 70 % of its channels, calibrated on three photographs and not fine-tuned."""
    net = load_network(shipped_generator())
    assert isinstance(net, SRN)
    pruned, _ = prune_network(net, PruneConfig(keep=0.7, importance="l2"))
    frames = [frame[:, :, :128, :160] for frame in calibration_frames(QatConfig(calibration_images=3))]
    quantize_network(pruned, dataclasses.asdict(plan_scheme(pruned, QatConfig())), frames)
    round_float_weights(pruned)
    return pruned


def export_demo(pruned: SRN, size: Resolution, folder: Path) -> Artifact:
    """The calibrated generator as an ONNX artifact."""
    scheme = dataclasses.asdict(plan_scheme(load_network(shipped_generator()), QatConfig()))
    spec = dataclasses.replace(spec_of(pruned), quantization=scheme)
    checkpoint = save_network(folder / "net", pruned, spec, new_step("qat", {}, None, {}))
    return export_onnx(checkpoint, ExportConfig(size.width, size.height), folder / "onnx")


def test_pruned_and_quantized_is_an_eighth_of_the_float_file(pruned_demo: SRN, tmp_path: Path) -> None:
    size = Resolution(64, 64)
    original = network_to_onnx(load_network(shipped_generator()), size)

    small = export_demo(pruned_demo, size, tmp_path)

    assert small.path.stat().st_size * 8 <= len(original.SerializeToString())


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_shipped_generator_gives_one_picture_everywhere(pruned_demo: SRN, tmp_path: Path, runtime: str) -> None:
    artifact = export_demo(pruned_demo, Resolution(320, 192), tmp_path)
    frames = [f[:, :, :192, :320].copy() for f in calibration_frames(QatConfig(calibration_images=5))[3:]]

    assert share_within_one_level(pruned_demo, artifact, runtime, frames) >= 0.999
