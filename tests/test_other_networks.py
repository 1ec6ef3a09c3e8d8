"""Networks other than the one that is shipped, each on the whole way from a checkpoint to an engine and a latency."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from deblur_deploy.bench.entries import all_entries
from deblur_deploy.bench.measure import BenchConfig, measure
from deblur_deploy.compress.prune import prune
from deblur_deploy.compress.quantize import plan_scheme, qat
from deblur_deploy.config import (
    EngineConfig,
    ExportConfig,
    FitConfig,
    PrecisionConfig,
    PruneConfig,
    QatConfig,
    ShakeConfig,
    TuningConfig,
)
from deblur_deploy.core.artifact import Artifact, new_step
from deblur_deploy.core.images import Resolution, save_rgb
from deblur_deploy.engine.build import build_engine
from deblur_deploy.export.precision import lower_precision
from deblur_deploy.export.to_onnx import export_onnx, network_to_onnx
from deblur_deploy.infer.restore import RestoreConfig, Restorer, deblur
from deblur_deploy.network.checkpoint import import_checkpoint, load_network, save_network, spec_of
from deblur_deploy.network.cost import measure_cost
from deblur_deploy.network.deblurgan_v2 import DeblurGANv2Config, DeblurGANv2Inception, DeblurGANv2MobileNet
from deblur_deploy.network.dmphn import DMPHN, DMPHNConfig
from deblur_deploy.network.fake_quant import enabled_quantizers
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.mimo_unet import MIMOUNet, MIMOUNetPlus
from deblur_deploy.network.nafnet import NAFBlock, NAFNet, NAFNetConfig
from deblur_deploy.network.own_network import OwnConfig, OwnNetwork
from deblur_deploy.network.restormer import Restormer, RestormerConfig
from deblur_deploy.network.srn_cvpr18 import SRNCVPR18, SRNCVPR18Config
from deblur_deploy.runtime.runner import open_runner

pytestmark = pytest.mark.rtx

FLOAT_BOUND = 1e-4
INT8_BOUNDS = {"onnxruntime": 5e-4, "openvino": 2e-3}
"""How far a layer of a file may be from PyTorch's for the same input: in float by the largest difference over the
largest value; in INT8 by root mean squares, for there a value at the edge between two codes may fall to either side.
onnxruntime computes the file as it is written, OpenVINO as it has rearranged it."""

LEVELS = 5
"""What a network adds to a picture or makes of it, as a standard deviation in steps of 8 bits."""

LIFT = 3.0
"""What a normalisation adds, in standard deviations, where it has weights: nearly all of what it gives is then between
the ends of ReLU and ReLU6.

As a network starts, with 0, ReLU takes half of each channel away and the next normalisation widens what is left, so
that a difference grows by a fifth in every layer: after fifty of them a single code that falls to the other side, as
where a runtime sums in another order, has moved the whole picture."""

OWN = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    '''Every layer and operation that pruning follows beyond those of the networks here.'''

    def __init__(self, width=24):
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.Sequential(nn.Conv2d(width, 2 * width, 4, 2, 1), nn.InstanceNorm2d(2 * width), nn.LeakyReLU(0.2))
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(2 * width, 2 * width, 3),
            nn.BatchNorm2d(2 * width),
            nn.PReLU(2 * width),
        )
        self.up = nn.ConvTranspose2d(2 * width, width, 4, 2, 1)
        self.fuse = nn.Sequential(
            nn.Conv2d(2 * width + 3, width, 3, padding=1),
            nn.InstanceNorm2d(width, affine=True, track_running_stats=True),
        )
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x):
        fine = F.relu(self.enter(x))
        coarse = self.down(fine)
        coarse = F.instance_norm(coarse + self.body(coarse))
        return x + self.last(F.silu(self.fuse(torch.cat([x, fine, self.up(coarse)], dim=1))))
"""

WHOLE_PICTURE: dict[str, Callable[[], Generator]] = {
    "nafnet": lambda: NAFNet(NAFNetConfig(8, (1, 1), 1, (1, 1))),
    "dmphn": lambda: DMPHN(DMPHNConfig(2)),
    "restormer": lambda: Restormer(RestormerConfig(8, (1, 1, 1, 1), 1, (1, 1, 2, 2))),
}
"""Networks that attend to the whole picture, or part it: in their published structure, narrow or of fewer levels."""

NETWORKS: dict[str, Callable[[], Generator]] = {
    "srn-cvpr18 color": lambda: SRNCVPR18(SRNCVPR18Config("color")),
    "srn-cvpr18 gray": lambda: SRNCVPR18(SRNCVPR18Config("gray")),
    "srn-cvpr18 lstm": lambda: SRNCVPR18(SRNCVPR18Config("lstm")),
    "mimo-unet": MIMOUNet,
    "mimo-unet-plus": MIMOUNetPlus,
    "deblurgan-v2-mobilenet image": lambda: DeblurGANv2MobileNet(DeblurGANv2Config("image")),
    "deblurgan-v2-mobilenet folded": lambda: DeblurGANv2MobileNet(DeblurGANv2Config("folded")),
    "deblurgan-v2-inception": DeblurGANv2Inception,
    "own": lambda: OwnNetwork("others_network:Net", OwnConfig(multiple_of=2)),
    **WHOLE_PICTURE,
}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Generator]]:
    """Makes one of the networks with random weights, the same every time."""
    (tmp_path / "others_network.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def make_network(name: str) -> Generator:
        torch.manual_seed(0)
        net = NETWORKS[name]().eval()
        for layer in net.modules():
            if isinstance(layer, nn.InstanceNorm2d) and layer.affine:
                nn.init.constant_(layer.bias, LIFT)
            if isinstance(layer, NAFBlock):  # which adds nothing before it is trained
                nn.init.constant_(layer.beta, 0.3)
                nn.init.constant_(layer.gamma, 0.3)
        return net

    yield make_network
    sys.modules.pop("others_network", None)


@pytest.fixture
def tuning(photo: NDArray[np.uint8], tmp_path: Path) -> TuningConfig:
    """One step on one crop: what is tested is that it can be done."""
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "drawn.png", photo[:144, :144])
    folder = str(tmp_path / "photos")
    fit = FitConfig(1, batch=1, crop=64, lr=1e-6, lr_final=1e-7, warmup=0, ema_decay=0)
    return TuningConfig(folder, folder, ShakeConfig(length_px=(3.0, 6.0)), fit)


def go_the_whole_way(net: Generator, tuning: TuningConfig, size: Resolution, folder: Path) -> dict[str, Artifact]:
    """Every stage, one after the other; artifacts by their names."""
    step = new_step("import", {}, None, measure_cost(net))
    source = save_network(folder / "source", net, spec_of(net), step)
    pruned = prune(source, PruneConfig(keep=0.5, tuning=tuning, importance="l2"), folder / "pruned")
    pruned = with_small_signals(pruned, random_frame(size), folder / "small")
    quantized = qat(pruned, QatConfig(tuning=tuning, calibration_images=1), folder / "quantized")
    onnx_file = export_onnx(quantized, ExportConfig(size.width, size.height), folder / "onnx")
    half = lower_precision(onnx_file, PrecisionConfig(), folder / "half")
    engine = build_engine(half, EngineConfig("sm75", flavour="rtx"), folder / "engine")
    return {artifact.directory.name: artifact for artifact in (source, pruned, quantized, onnx_file, half, engine)}


def with_small_signals(pruned: Artifact, frame: NDArray[np.float32], folder: Path) -> Artifact:
    """The network with its last convolution scaled, so that it moves a picture as far as one that is trained does.

    Random weights behind a normalisation give a picture of full contrast, and every rounding with it.
    """
    net = load_network(pruned)
    last, given = outputs_of_layers(net, frame)[0][-1]
    assert isinstance(last, nn.Conv2d)
    with torch.no_grad():
        last.weight *= LEVELS / 255 / given.std()
    return save_network(folder, net, spec_of(net), pruned.history[-1], pruned.history[:-1])


def check(made: dict[str, Artifact], size: Resolution) -> None:
    """What holds for every network that has gone the whole way."""
    assert made["small"].figures["params"] < 0.5 * made["source"].figures["params"]
    assert made["onnx"].figures["precision"]["int8"] > 0.5
    assert made["half"].figures["precision"]["fp16"] > 0.9
    assert made["engine"].figures["precision"]["fp16"] >= 0.9
    assert made["engine"].figures["capability"] == "7.5"
    quick = BenchConfig(size, duration_ms=0, warmup_ms=0, min_iterations=1, windows=1, max_windows=1)
    rows = measure(all_entries(made[name] for name in ("onnx", "half", "engine")), quick).rows
    measured = {(Path(row.artifact).name, row.runtime) for row in rows if row.latency_ms is not None}
    assert {(name, runtime) for name in ("onnx", "half") for runtime in ("onnxruntime", "openvino")} <= measured


def check_pictures(made: dict[str, Artifact], size: Resolution) -> None:
    """The INT8 file gives the picture of the network that it was made from."""
    frame = random_frame(size)
    simulated = levels_of(made["quantized"], "torch", frame)
    for runtime in INT8_BOUNDS:
        apart = np.abs(levels_of(made["onnx"], runtime, frame) - simulated)
        assert (apart <= 1).mean() >= 0.999, runtime


def check_layers(made: dict[str, Artifact], size: Resolution) -> None:
    """Every layer of the float file and of the INT8 file is PyTorch's, and a scale that is wrong by a tenth is seen."""
    frame = random_frame(size)
    net = load_network(made["small"])
    largest, _ = errors_of_layers(outputs_of_layers(net, frame), network_to_onnx(net, size), frame)
    assert max(largest) <= FLOAT_BOUND
    right = outputs_of_layers(load_network(made["quantized"]), frame)
    model = onnx.load(made["onnx"].path)
    for runtime, bound in INT8_BOUNDS.items():
        _, mean_square = errors_of_layers(right, model, frame, runtime)
        assert max(mean_square) <= bound, runtime
    scales = names_of_scales(model)
    spoil(model, scales[len(scales) // 2])
    _, mean_square = errors_of_layers(right, model, frame)
    assert max(mean_square) > INT8_BOUNDS["onnxruntime"]


def random_frame(size: Resolution) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((1, 3, size.height, size.width), dtype=np.float32)


def levels_of(artifact: Artifact, runtime: str, frame: NDArray[np.float32]) -> NDArray[np.float32]:
    with open_runner(artifact, runtime, threads=1) as runner:
        return np.rint(np.clip(runner.infer(frame), 0, 1) * 255)


Outputs = list[tuple[nn.Module, Tensor]]


def outputs_of_layers(net: Generator, frame: NDArray[np.float32]) -> tuple[Outputs, Tensor]:
    """Every run of a convolution that the picture depends on, in order, with what it gave; and the picture."""
    given: Outputs = []

    def note(layer: nn.Module, taken: tuple[Tensor, ...], output: Tensor) -> None:
        if not isinstance(layer, nn.BatchNorm2d):
            given.append((layer, output))
        elif net_is_float:  # the file of a float network has it in the convolution before it
            assert taken[0] is given[-1][1]
            given[-1] = (given[-1][0], output)

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
    net_is_float = not any(True for _ in enabled_quantizers(net))
    hooks = [layer.register_forward_hook(note) for layer in net.modules() if isinstance(layer, kinds)]
    # Estimates of coarser scales are not part of the file, nor is what only they need. SRN's do go on to the finer
    # scales, but as a rule without gradients.
    with mock.patch.object(Tensor, "detach", lambda tensor: tensor):
        restored = net.forward_scales(torch.from_numpy(frame))[-1]
        gradients = torch.autograd.grad(restored.sum(), [output for _, output in given], allow_unused=True)
    for hook in hooks:
        hook.remove()
    used = [
        (layer, output.detach()) for (layer, output), found in zip(given, gradients, strict=True) if found is not None
    ]
    return used, restored.detach()


def errors_of_layers(
    right: tuple[Outputs, Tensor], model: onnx.ModelProto, frame: NDArray[np.float32], runtime: str = "onnxruntime"
) -> tuple[list[float], list[float]]:
    """How far each convolution of a file is from PyTorch's where all before it gave what PyTorch's gave.

    So no layer can hide an error of another, and none grows on the way. The picture comes last.

    Returns:
        Largest difference over the largest value, and root mean square of the difference over that of the values.
    """
    layers, restored = right
    outputs = [output.numpy() for _, output in layers]
    model = onnx.ModelProto.FromString(model.SerializeToString())
    nodes = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    feeds, asked = {model.graph.input[0].name: frame}, []
    for node, output in zip(nodes, outputs, strict=True):
        name = node.output[0]
        node.output[0] = f"{name}.computed"
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, output.shape))
        model.graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, output.shape))
        feeds[name] = output
        asked.append(node.output[0])
    found = run(model, feeds, [*asked, model.graph.output[0].name], runtime)
    pairs = list(zip(found, [*outputs, restored.numpy()], strict=True))
    largest = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs]
    return largest, [float(np.sqrt(np.square(a - b).mean() / np.square(b).mean())) for a, b in pairs]


def run(
    model: onnx.ModelProto, feeds: Mapping[str, NDArray[np.float32]], asked: Sequence[str], runtime: str
) -> list[NDArray[np.float32]]:
    """What a model gives under these names, in onnxruntime as it is written or in OpenVINO as it likes it."""
    data = model.SerializeToString()
    if runtime == "openvino":
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        core = openvino.Core()
        results = core.compile_model(core.read_model(data), "CPU", settings)(dict(feeds))
        return [results[name] for name in asked]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    return session.run(asked, dict(feeds))  # type: ignore[no-any-return]


def names_of_scales(model: onnx.ModelProto) -> list[str]:
    """Initialisers that are the scale of a quantizer."""
    return list(dict.fromkeys(node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"))


def spoil(model: onnx.ModelProto, scale: str) -> None:
    """Make a scale too large by a tenth, in place."""
    (item,) = (item for item in model.graph.initializer if item.name == scale)
    item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * np.float32(1.1), scale))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_goes_the_whole_way(name, make, tuning, tmp_path):
    size = Resolution(256, 256)
    made = go_the_whole_way(make(name), tuning, size, tmp_path / "made")
    check(made, size)
    check_layers(made, size)
    check_pictures(made, size)


def test_a_network_of_ones_own_goes_the_whole_way(make, tuning, tmp_path):
    size = Resolution(50, 38)
    check(go_the_whole_way(make("own"), tuning, size, tmp_path / "made"), size)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["nafnet", "dmphn", pytest.param("restormer", marks=pytest.mark.slow)])
def test_networks_that_look_at_the_whole_picture_go_the_whole_way(name, make, tuning, photo, tmp_path):
    size = Resolution(64, 48)
    torch.save(make(name).state_dict(), tmp_path / "trained.pth")
    source = import_checkpoint(tmp_path / "trained.pth", name, tmp_path / "imported")
    made = go_the_whole_way(load_network(source), tuning, size, tmp_path / "made")
    check(made, size)
    check_pictures(made, size)
    check_tiles(made["small"], photo, tmp_path / "any-size")


def check_tiles(source: Artifact, photo: NDArray[np.uint8], folder: Path) -> None:
    """A picture is restored whole, as PyTorch does it; tiles that are asked for give that, or are said to differ."""
    any_size = export_onnx(source, ExportConfig(dynamic=True), folder)
    picture = photo[:130, :170]
    with open_runner(any_size, "onnxruntime", threads=1) as runner, open_runner(source, "torch", threads=1) as eager:
        whole, tiled = Restorer(runner, RestoreConfig()), Restorer(runner, RestoreConfig(tile=Resolution(96, 96)))
        restored = whole.restore(picture).astype(int)
        assert whole.plan(picture.shape[1], picture.shape[0]).tiles == 1
        assert (np.abs(restored - deblur(eager, picture)) <= 1).mean() >= 0.999
        difference = np.abs(tiled.restore(picture) - restored).max()
        assert tiled.plan(picture.shape[1], picture.shape[0]).tiles > 1
        assert "of 255 levels" in tiled.seams or difference <= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["own", *WHOLE_PICTURE])
def test_int8_engines_are_proven(name, make, tuning, tmp_path):
    net = make(name)
    source = save_network(tmp_path / "source", net, spec_of(net), new_step("import", {}, None, measure_cost(net)))
    everything = QatConfig(tuning=tuning, calibration_images=1, include=plan_scheme(net, QatConfig()).exempt)
    onnx_file = export_onnx(qat(source, everything, tmp_path / "quantized"), ExportConfig(256, 256), tmp_path / "onnx")
    engine = build_engine(onnx_file, EngineConfig("sm86", flavour="rtx", precision="int8"), tmp_path / "engine")
    assert engine.figures["precision_by_kind"]["convolution"]["int8"] >= 0.9


def test_every_wrong_scale_of_a_file_is_seen(make, tuning, tmp_path):
    size = Resolution(48, 32)
    frame = random_frame(size)
    own = make("own")
    source = save_network(tmp_path / "source", own, spec_of(own), new_step("import", {}, None, measure_cost(own)))
    quantized = qat(source, QatConfig(tuning=tuning, calibration_images=1), tmp_path / "quantized")
    net = load_network(quantized)
    right, model = outputs_of_layers(net, frame), network_to_onnx(net, size)
    assert max(errors_of_layers(right, model, frame)[1]) <= INT8_BOUNDS["onnxruntime"]
    scales = names_of_scales(model)
    assert len(scales) >= 8

    for scale in scales:
        wrong = onnx.ModelProto.FromString(model.SerializeToString())
        spoil(wrong, scale)
        assert max(errors_of_layers(right, wrong, frame)[1]) > INT8_BOUNDS["onnxruntime"], scale
