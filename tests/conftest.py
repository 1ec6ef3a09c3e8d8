"""Fixtures that every test may use, and the reasons for which marked tests are skipped."""

from __future__ import annotations

import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deblur_deploy.config import EngineConfig
from deblur_deploy.core.artifact import Artifact, Draft, NetworkSpec, new_step, write_artifact
from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.network.checkpoint import save_network, spec_of
from deblur_deploy.network.deblurgan_v2 import DeblurGANv2MobileNet
from deblur_deploy.network.deform_conv import DeformConv2dPack
from deblur_deploy.network.generator import Generator
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.network.temporal import make_temporal


def pytest_configure() -> None:
    """Let Ctrl-C work in the processes that tests start, also where the tests run in the background.

    A shell starts background jobs with SIGINT ignored, and children inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, and say what it lacks."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("trt") and find_spec("tensorrt") is None:
        pytest.skip("needs the full TensorRT: pip install 'deblur-deploy[trt]'")
    if item.get_closest_marker("rtx") and find_spec("tensorrt_rtx") is None:
        pytest.skip("needs TensorRT-RTX: pip install tensorrt-rtx-cu13")
    if item.get_closest_marker("tf") and find_spec("tensorflow") is None:
        pytest.skip("needs TensorFlow: pip install 'deblur-deploy[tf]'")


@pytest.fixture(scope="session")
def _drawn_photo() -> NDArray[np.uint8]:
    """Large shapes, thin lines and fine grain on a gradient: something at every scale that a blur destroys."""
    height, width = 160, 208
    rng = np.random.default_rng(20_240)
    y, x = np.mgrid[:height, :width]
    picture = np.stack([60 + 80 * x / width, 90 + 60 * y / height, 140 - 70 * x / width], axis=-1)
    for _ in range(40):
        center_y, center_x = rng.uniform(0, height), rng.uniform(0, width)
        radius_y, radius_x = rng.uniform(2, 30, 2)
        color = rng.uniform(10, 245, 3)
        box = (np.abs(y - center_y) < radius_y) & (np.abs(x - center_x) < radius_x)
        ellipse = np.hypot((y - center_y) / radius_y, (x - center_x) / radius_x) < 1
        picture[ellipse if rng.random() < 0.5 else box] = color
    for _ in range(12):
        slope, start = rng.uniform(-1, 1), rng.uniform(0, height)
        picture[np.abs(y - start - slope * x) < 1] = rng.uniform(10, 245, 3)
    picture += rng.normal(0, 3, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture
def photo(_drawn_photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small photograph made by code: (160, 208, 3) uint8, the same in every run."""
    return _drawn_photo.copy()


@pytest.fixture
def write_film() -> Callable[..., Path]:
    """Writes a film: ``write_film(path, pictures, codec, **fields of its frames)``; FFV1 loses nothing of RGB."""
    av = pytest.importorskip("av", reason="needs PyAV: pip install 'deblur-deploy[video]'")

    def write(path: Path, pictures: list[NDArray[np.uint8]], codec: str = "ffv1", **fields: int) -> Path:
        with av.open(str(path), "w") as writer:
            stream = writer.add_stream(codec, rate=25)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
            for name, value in fields.items():
                setattr(stream.codec_context, name, value)
            for picture in pictures:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
                for name, value in fields.items():
                    setattr(frame, name, value)
                writer.mux(stream.encode(frame))
            writer.mux(stream.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def tensorrt_stubs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Libraries with the names that the full TensorRT's Python bindings ask for, so that they can be imported."""
    bindings = find_spec("tensorrt_bindings")
    if bindings is None or bindings.origin is None:
        pytest.skip("needs TensorRT's Python bindings: pip install tensorrt-cu13-bindings")
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc for the stub of TensorRT's library")
    module = (Path(bindings.origin).parent / "tensorrt.so").read_bytes()
    names = sorted({name.decode() for name in re.findall(rb"libnv(?:infer|infer_plugin|onnxparser)\.so\.\d+", module)})
    assert len(names) == 3
    folder, source = tmp_path_factory.mktemp("stubs"), Path(__file__).parent / "kernels" / "tensorrt_stub.c"
    for name in names:
        options = ["-shared", "-fPIC", f"-Wl,-soname,{name}", str(source), "-o", str(folder / name)]
        subprocess.run([compiler, *options], check=True, timeout=60)
    return [str(folder / name) for name in names]


@pytest.fixture(scope="session")
def skip_unsupported() -> Callable[[EngineConfig], None]:
    """Skips a test where this machine's card or software cannot build such an engine, not where a build fails."""

    def check(config: EngineConfig) -> None:
        from deblur_deploy.engine.build import check_engine_config

        try:
            check_engine_config(config)
        except DeblurDeployError as err:
            pytest.skip(f"not supported here: {err.message}")

    return check


SmallFilesOnly = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def small_files_only() -> SmallFilesOnly:
    """Within its context no file may grow beyond 10 kB: the system refuses to write on, as where a disk is full.

    A context and not the whole test: pytest's own output may go to a file that is longer already.
    """

    @contextmanager
    def limited() -> Iterator[None]:
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, usual[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)

    return limited


@pytest.fixture
def tiny_config() -> SRNConfig:
    """The smallest SRN that still has every part."""
    return SRNConfig.from_base(8, (1, 1, 1))


@pytest.fixture
def deblurgan_state() -> dict[str, Tensor]:
    """Weights of a DeblurGAN-v2 with the statistics that training gathers; these are not those of any picture."""
    torch.manual_seed(0)
    net = DeblurGANv2MobileNet()
    state = net.state_dict()
    for name, layer in net.named_modules():
        if isinstance(layer, nn.InstanceNorm2d):
            state[f"{name}.running_mean"] = torch.full((layer.num_features,), 0.1)
            state[f"{name}.running_var"] = torch.full((layer.num_features,), 0.5)
    return state


Soften = Callable[[nn.Module], None]


@pytest.fixture(scope="session")
def soften() -> Soften:
    """Gives a random network small signals: one that keeps them large also keeps every rounding error large."""

    def soften_network(net: nn.Module) -> None:
        for name, layer in net.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and not name.endswith("conv_offset"):
                layer.reset_parameters()
            elif isinstance(layer, DeformConv2dPack):
                layer.weight.data *= 0.4

    return soften_network


class TinyNetwork(Generator):
    """Two scales, a deformable convolution, a transposed one, a join, and the residual."""

    arch = "tiny"
    multiple_of = 4
    smallest_side = 8

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.deform = DeformConv2dPack(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1)
        self.head = nn.Conv2d(8, 3, 3, padding=1)
        nn.init.normal_(self.deform.conv_offset.weight, std=0.3)

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        half = F.avg_pool2d(blurred, 2)
        fine = F.relu(self.enter(blurred))
        coarse = F.relu(self.deform(F.relu(self.down(fine))))
        joined = torch.cat([fine, self.up(coarse)], dim=1)
        enlarged = F.interpolate(half, scale_factor=2.0, mode="bilinear", align_corners=False)
        return [half, enlarged + self.head(joined)]


@pytest.fixture(scope="session")
def tiny() -> TinyNetwork:
    """The network; it is shared and must not be changed."""
    torch.manual_seed(0)
    return TinyNetwork().eval()


Draw = Callable[[int, int, int], NDArray[np.uint8]]


@pytest.fixture(scope="session")
def draw_frames() -> Draw:
    """Makes camera frames of noise, (N, H, W, 3), from batch, height and width."""

    def draw(batch: int, height: int, width: int) -> NDArray[np.uint8]:
        return np.random.default_rng(5).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)

    return draw


Save = Callable[[onnx.ModelProto, ImageSpec], Artifact]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Makes an ONNX artifact of a model."""

    def save_model(model: onnx.ModelProto, image: ImageSpec) -> Artifact:
        def write(path: Path) -> None:
            onnx.save(model, path)

        out = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        step = new_step("export-onnx", {}, None, {})
        return write_artifact(out, Draft("onnx", "model.onnx", write, NetworkSpec("tiny", {}), image, step))

    return save_model


@pytest.fixture(scope="session")
def temporal_artifact(tmp_path_factory: pytest.TempPathFactory, soften: Soften) -> Artifact:
    """A temporal network on whose results the frame before shows."""
    torch.manual_seed(4)
    net = make_temporal(SRN(SRNConfig.from_base(8, (1, 1, 1))))
    soften(net)
    torch.nn.init.normal_(net.head.weight, std=0.05)
    torch.nn.init.normal_(net.levels[0].enter.weight[:, 6:], std=0.1)
    out = tmp_path_factory.mktemp("temporal") / "checkpoint"
    return save_network(out, net.eval(), spec_of(net), new_step("train", {}, None, {}))


@pytest.fixture(scope="session")
def film_frames(_drawn_photo: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Five frames of a film, (96, 128, 3) uint8: a window that moves over a photograph."""
    return [np.ascontiguousarray(_drawn_photo[3 * i : 3 * i + 96, 4 * i : 4 * i + 128]) for i in range(5)]
