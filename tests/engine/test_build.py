"""Engines, built for real where TensorRT-RTX is installed, and everything that can go wrong on the way."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser

from deblur_deploy.config import EngineConfig, PlanConfig, ShapeConfig
from deblur_deploy.core.artifact import Artifact, Draft, NetworkSpec, load_artifact, new_step, write_artifact
from deblur_deploy.core.errors import ArtifactError, BuildError, ConfigError, MissingDependencyError
from deblur_deploy.core.images import ImageSpec, Resolution
from deblur_deploy.engine import build as build_module
from deblur_deploy.engine import build_child
from deblur_deploy.engine import flavour as flavour_module
from deblur_deploy.engine import targets as targets_module
from deblur_deploy.engine.build import build_engine, build_engine_bytes
from deblur_deploy.export.to_onnx import network_to_onnx
from deblur_deploy.graph.retype import convert_to_fp16
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.runtime.nvidia import Gpu, count_nvidia_gpus

SIZE = Resolution(64, 48)


@pytest.fixture(scope="module")
def float_network() -> onnx.ModelProto:
    torch.manual_seed(0)
    net = SRN(SRNConfig.from_base(8, (1, 1, 1))).eval()
    torch.nn.init.normal_(net.deform.deform.conv_offset.weight, std=0.05)
    return network_to_onnx(net, SIZE)


@pytest.fixture(scope="module")
def half_network(float_network: onnx.ModelProto) -> onnx.ModelProto:
    return convert_to_fp16(float_network)


SIZED = ImageSpec(height=SIZE.height, width=SIZE.width)


def onnx_artifact(out: Path, payload: bytes, image: ImageSpec = SIZED) -> Artifact:
    def write(path: Path) -> None:
        path.write_bytes(payload)

    return write_artifact(
        out, Draft("onnx", "model.onnx", write, NetworkSpec("srn", {}), image, new_step("export-onnx", {}, None, {}))
    )


def one_layer(body: str, domain: str = "", shape: str = "1,3,8,8") -> bytes:
    """A float32 network on x (1, 3, 8, 8) that starts with a convolution; ``shape`` is its output's."""
    opsets = '"": 19' + (f', "{domain}": 1' if domain else "")
    head = f"<ir_version: 9, opset_import: [{opsets}]> g (float[1,3,8,8] x) => (float[{shape}] y)"
    model = parser.parse_model(f"{head} {{ a = Conv(x, w) {body} }}")
    model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w"))
    if "o)" in body:
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 2, 8, 8), np.float32), "o"))
    model.graph.node[-1].name = "the_culprit"
    return model.SerializeToString()


@pytest.fixture
def fake_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A module that takes the place of TensorRT, in the builder's process too; tests write what it does."""
    folder = tmp_path / "fake"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return folder / "tensorrt.py"


@pytest.mark.rtx
def test_float16_engine_proves_float16(half_network: onnx.ModelProto, tmp_path: Path) -> None:
    source = onnx_artifact(tmp_path / "source", half_network.SerializeToString())
    build_engine(source, EngineConfig(target="2080ti"), tmp_path / "out")
    engine = load_artifact(tmp_path / "out")
    assert (engine.kind, engine.stage, engine.path.name) == ("engine", "export-trt", "model.engine")
    assert (engine.network, engine.image) == (source.network, source.image)
    assert engine.path.stat().st_size > 100_000

    figures = engine.figures
    assert (figures["target"], figures["capability"], figures["flavour"]) == ("RTX 2080 Ti", "7.5", "rtx")
    assert figures["flavour_version"].startswith("1.")
    assert figures["build_seconds"] > 0
    assert figures["precision"]["fp16"] >= 0.9
    assert sum(figures["precision"].values()) == pytest.approx(1)
    assert figures["layers"] > 50
    # Every layer with weights is accounted for, the deformable convolution's inner one included.
    assert "unproven" not in figures["compute_layers"].values()
    assert sum("DeformConv2d" in name for name in figures["compute_layers"]) == 3


@pytest.mark.rtx
def test_float32_engine_proves_float32_and_hash_is_reproducible(float_network: onnx.ModelProto) -> None:
    payload = float_network.SerializeToString()
    config = EngineConfig(target="sm75", precision="fp32", workspace_bytes=1 << 30, optimization_level=2)
    built, again = (build_engine_bytes(payload, config) for _ in range(2))
    assert built.proof.shares().get("fp16", 0.0) < 0.05
    assert built.proof.shares()["fp32"] >= 0.95
    assert built.network_sha256 == again.network_sha256
    assert built.network_sha256 != hashlib.sha256(payload).hexdigest()  # local functions were inlined


@pytest.mark.rtx
def test_portable_engine_builds(half_network: onnx.ModelProto) -> None:
    built = build_engine_bytes(half_network.SerializeToString(), EngineConfig(target="portable"))
    assert built.proof.shares()["fp16"] >= 0.9


@pytest.mark.rtx
def test_float32_file_is_no_float16_engine(float_network: onnx.ModelProto, tmp_path: Path) -> None:
    source = onnx_artifact(tmp_path / "source", float_network.SerializeToString())
    with pytest.raises(BuildError, match=r"fp16 was asked for, but only 0\.0%.*/Conv.* \(fp32\)"):
        build_engine(source, EngineConfig(), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.rtx
@pytest.mark.parametrize(
    ("body", "domain", "shape", "named"),
    [
        ("y = Det(a)", "", "1,3", r"'the_culprit' \(Det\): the operator is not supported"),
        ("y = com.example.Blur(a)", "com.example", "1,3,8,8", r"'the_culprit' \(Blur\): the operator is not supported"),
        (
            "y = DeformConv<pads = [0,0,0,0]>(a, w, o)",
            "",
            "1,3,8,8",
            r"'the_culprit' \(DeformConv\): the operator is not",
        ),
        ("y = MatMul(a, a)", "", "1,3,8,8", "the_culprit"),  # SM75 has no float32 matrix product in TensorRT-RTX
    ],
)
def test_operator_that_cannot_be_built_is_named(body: str, domain: str, shape: str, named: str) -> None:
    with pytest.raises(BuildError, match=named):
        build_engine_bytes(one_layer(body, domain, shape), EngineConfig(precision="fp32"))


@pytest.mark.rtx
def test_failed_build_leaves_the_older_engine(tmp_path: Path) -> None:
    old = onnx_artifact(tmp_path / "out", b"older artifact")
    source = onnx_artifact(tmp_path / "source", one_layer("y = Det(a)", shape="1,3"))
    with pytest.raises(BuildError):
        build_engine(source, EngineConfig(precision="fp32"), tmp_path / "out")
    assert load_artifact(tmp_path / "out") == old


@pytest.mark.rtx
@pytest.mark.parametrize(("card", "hint"), [("h100", "--flavour tensorrt"), ("v100", "8.6")])
def test_card_that_tensorrt_rtx_does_not_have(half_network: onnx.ModelProto, card: str, hint: str) -> None:
    with pytest.raises(BuildError, match="builds no engines for") as caught:
        build_engine_bytes(half_network.SerializeToString(), EngineConfig(target=card, flavour="rtx"))
    assert hint in caught.value.hint


@pytest.mark.rtx
def test_damaged_bytes_are_refused(half_network: onnx.ModelProto) -> None:
    payload = half_network.SerializeToString()
    renamed = payload.replace(b"restored", b"restore\xff", 1)
    for damaged in (b"", b"not onnx", payload[: len(payload) // 2], renamed):
        with pytest.raises(BuildError, match="not a valid ONNX network"):
            build_engine_bytes(damaged, EngineConfig())


def free_network() -> bytes:
    """A float16 network whose batch, height and width are free; its convolutions are ``first`` and ``second``."""
    head = '<ir_version: 9, opset_import: ["": 19]> g (float16[batch,3,height,width] x)'
    body = "{ a = Conv<pads = [1,1,1,1]>(x, w) b = Relu(a) y = Conv<pads = [1,1,1,1]>(b, v) }"
    model = parser.parse_model(f"{head} => (float16[batch,8,height,width] y) {body}")
    rng = np.random.default_rng(0)
    for name, shape in (("w", (16, 3, 3, 3)), ("v", (8, 16, 3, 3))):
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float16), name))
    model.graph.node[0].name, model.graph.node[-1].name = "first", "second"
    return model.SerializeToString()


@pytest.mark.rtx
@pytest.mark.parametrize(
    ("shapes", "ends"),
    [
        (ShapeConfig(res=("64x48",)), [((1, 3, 48, 64), (1, 3, 48, 64))]),
        (
            ShapeConfig(res=("64x48", "96x64"), batch=(2, 2)),
            [((2, 3, 48, 64), (2, 3, 48, 64)), ((2, 3, 64, 96), (2, 3, 64, 96))],
        ),
        (ShapeConfig(min_res="32x32", max_res="128x96", batch=(1, 4)), [((1, 3, 32, 32), (4, 3, 96, 128))]),
    ],
)
def test_free_sizes_become_profiles(shapes: ShapeConfig, ends: list[Any]) -> None:
    built = build_engine_bytes(free_network(), EngineConfig(shapes=shapes))

    assert [(profile.min, profile.max) for profile in built.profiles] == ends
    batch, _, height, width = ends[0][1]
    assert built.proof.macs == {"first": batch * height * width * 432, "second": batch * height * width * 1152}
    assert built.proof.types == {"first": "fp16", "second": "fp16"}  # in every profile


@pytest.mark.rtx
def test_an_engine_for_one_size_says_so(tmp_path: Path) -> None:
    for name, shapes, size in (
        ("one", ShapeConfig(res=("64x48",)), (48, 64)),
        ("range", ShapeConfig(min_res="32x32", max_res="64x48"), (None, None)),
    ):
        source = onnx_artifact(tmp_path / f"{name}-source", free_network(), ImageSpec())
        engine = build_engine(source, EngineConfig(shapes=shapes), tmp_path / name)
        assert (engine.image.height, engine.image.width) == size
        assert [profile["input"] for profile in engine.figures["profiles"]] == ["x"]


@pytest.mark.rtx
def test_open_sizes_need_a_size(half_network: onnx.ModelProto) -> None:
    model = onnx.ModelProto.FromString(half_network.SerializeToString())
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    with pytest.raises(ConfigError, match="any size"):
        build_engine_bytes(model.SerializeToString(), EngineConfig())


@pytest.mark.rtx
def test_out_of_workspace_says_how_much_there_was() -> None:
    config = EngineConfig(shapes=ShapeConfig(res=("64x48",)), workspace_bytes=1)
    with pytest.raises(BuildError, match="workspace") as caught:
        build_engine_bytes(free_network(), config)
    assert "1 bytes" in caught.value.hint
    assert "--workspace" in caught.value.hint


@pytest.mark.rtx
def test_options_that_tensorrt_rtx_lacks_are_refused_at_once() -> None:
    for config in (
        EngineConfig(plan=PlanConfig(timing_cache="kernels.cache")),
        EngineConfig(plugin="libdeblur_plugin.so"),
        EngineConfig(precision="int8"),
        EngineConfig(precision="bf16"),
        EngineConfig(precision="fp8", target="sm86"),
    ):
        with pytest.raises(BuildError, match="TensorRT-RTX"):
            build_engine_bytes(b"never read", config)


@pytest.mark.rtx
def test_8_bit_on_turing_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(BuildError, match=r"no int8 convolutions on RTX 2080 Ti \(SM75\)") as caught:
        build_engine_bytes(b"never read", EngineConfig(precision="int8"))
    assert "--fp16" in caught.value.hint


@pytest.mark.rtx
@pytest.mark.skipif(bool(count_nvidia_gpus()), reason="with a GPU, weights can be stripped")
def test_weights_that_cannot_be_stripped_here_are_refused_before_the_build() -> None:
    config = EngineConfig(shapes=ShapeConfig(res=("64x48",)), plan=PlanConfig(strip_weights=True))
    with pytest.raises(BuildError, match="--strip-weights: TensorRT-RTX needs the CUDA driver"):
        build_engine_bytes(b"never read", config)


@pytest.mark.rtx
@pytest.mark.skipif(bool(count_nvidia_gpus()), reason="with a GPU, weights can be stripped")
def test_what_is_refused_for_want_of_a_gpu_is_what_the_builder_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a later TensorRT-RTX builds it without one: then the refusal has to go."""
    monkeypatch.setattr(build_module, "check_plan", lambda *_, **__: None)
    config = EngineConfig(shapes=ShapeConfig(res=("64x48",)), plan=PlanConfig(strip_weights=True))
    with pytest.raises(BuildError, match=r"could not build the engine: .*CUDA_SUCCESS"):
        build_engine_bytes(free_network(), config)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_builder_that_dies_takes_nothing_with_it(fake_tensorrt: Path, tmp_path: Path, name: str) -> None:
    fake_tensorrt.write_text(f"import os, signal\nos.kill(os.getpid(), signal.{name})\n")
    source = onnx_artifact(tmp_path / "source", one_layer("y = Relu(a)"))
    with pytest.raises(BuildError, match=f"ended by {name}") as caught:
        build_engine(source, EngineConfig("current", "tensorrt", plugin="none"), tmp_path / "out")
    assert "memory ran out" in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fake", "source"]


def test_crash_of_the_builder_is_an_error_with_its_last_words(
    fake_tensorrt: Path, float_network: onnx.ModelProto, tmp_path: Path
) -> None:
    crash = "import os, sys\nprint('assertion failed in tactic 7', file=sys.stderr, flush=True)\nos.abort()\n"
    fake_tensorrt.write_text(crash)
    source = onnx_artifact(tmp_path / "source", float_network.SerializeToString())
    with pytest.raises(BuildError, match=r"(?s)ended by SIGABRT.*assertion failed in tactic 7"):
        build_engine(source, EngineConfig("current", "tensorrt", plugin="none"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_flavour_that_cannot_be_loaded_is_a_missing_dependency(
    fake_tensorrt: Path, float_network: onnx.ModelProto
) -> None:
    fake_tensorrt.write_text("raise ImportError('libnvinfer.so.10 is not there')\n")
    with pytest.raises(MissingDependencyError, match=r"libnvinfer\.so\.10") as caught:
        build_engine_bytes(float_network.SerializeToString(), EngineConfig("current", "tensorrt", plugin="none"))
    assert caught.value.hint == "pip install 'deblur-deploy[trt]'"


def test_without_any_flavour_there_is_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, float_network: onnx.ModelProto, tmp_path: Path
) -> None:
    monkeypatch.setattr(flavour_module, "find_spec", lambda _: None)
    source = onnx_artifact(tmp_path / "source", float_network.SerializeToString())
    with pytest.raises(MissingDependencyError) as caught:
        build_engine(source, EngineConfig(), tmp_path / "out")
    assert caught.value.hint == "pip install 'deblur-deploy[rtx]'"
    assert not (tmp_path / "out").exists()


def test_interruption_ends_the_builder(fake_tensorrt: Path, tmp_path: Path) -> None:
    pid_file, network = tmp_path / "pid", tmp_path / "network.onnx"
    network.write_bytes(one_layer("y = Relu(a)"))
    # A builder deep in native code does not see the interruption.
    fake_tensorrt.write_text(
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(120)\n"
    )
    script = (
        "import pathlib\n"
        "from deblur_deploy.config import EngineConfig\n"
        "from deblur_deploy.engine.build import build_engine_bytes\n"
        f"network = pathlib.Path({str(network)!r}).read_bytes()\n"
        "build_engine_bytes(network, EngineConfig('current', 'tensorrt', plugin='none'))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as parent:
        deadline = time.monotonic() + 60
        while not (pid_file.exists() and pid_file.read_text()):
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        parent.send_signal(signal.SIGINT)
        assert parent.wait(timeout=30) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_unknown_card_is_refused_before_anything_runs(tmp_path: Path) -> None:
    source = onnx_artifact(tmp_path / "source", b"never read")
    with pytest.raises(ConfigError, match="2081"):
        build_engine(source, EngineConfig(target="2081 ti"), tmp_path / "out")


def test_a_card_that_is_not_here_is_refused_before_the_full_tensorrt_starts(fake_tensorrt: Path) -> None:
    fake_tensorrt.write_text("raise ImportError('was started')\n")
    with pytest.raises(BuildError, match="builds for the GPU it runs on and cannot build for GTX 1060"):
        build_engine_bytes(b"never read", EngineConfig("gtx 1060", "tensorrt", plugin="none"))


def test_engines_are_built_from_onnx(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"weights")

    step = new_step("import", {}, None, {})
    source = write_artifact(
        tmp_path / "source", Draft("checkpoint", "weights", write, NetworkSpec("srn", {}), ImageSpec(), step)
    )
    with pytest.raises(ArtifactError, match="is a checkpoint"):
        build_engine(source, EngineConfig(), tmp_path / "out")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("workspace_bytes", 0),
        ("optimization_level", 6),
        ("optimization_level", -1),
        ("flavour", "trt"),
        ("precision", "int4"),
    ],
)
def test_settings_check_themselves(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{field} is {value!r}"):
        EngineConfig(**{field: value})


@pytest.mark.parametrize(
    ("flavour", "gpus", "inspected", "expected"),
    [
        ("rtx", 1, '{"Layers": []}', "Layers:\nlisted"),
        ("tensorrt", 1, '{"Layers": []}', '{"Layers": []}'),  # its own list is for people
        ("tensorrt", 1, "", "Layers:\nlisted"),  # where the inspector fails
        ("tensorrt", 0, '{"Layers": []}', "Layers:\nlisted"),
    ],
)
def test_the_full_tensorrt_is_asked_through_its_inspector(
    monkeypatch: pytest.MonkeyPatch, flavour: Any, gpus: int, inspected: str, expected: str
) -> None:
    inspector = SimpleNamespace(get_engine_information=lambda _: inspected)
    loaded = SimpleNamespace(create_engine_inspector=lambda: inspector)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda _: loaded)
    formats = SimpleNamespace(JSON="JSON")
    module = SimpleNamespace(__version__="11.4", Runtime=lambda _: runtime, LayerInformationFormat=formats)
    monkeypatch.setattr(build_child, "count_nvidia_gpus", lambda: gpus)
    logger = SimpleNamespace(layers="Layers:\nlisted", last_error="")

    asked = flavour_module.Flavour(flavour, module)
    assert build_child._list_layers(asked, logger, b"engine", PlanConfig()) == expected


def test_the_builders_process_finds_a_package_that_is_not_installed(tmp_path: Path) -> None:
    """``-S`` leaves out whatever is installed, ``-P`` the folder that it is started in."""
    script = "import importlib.util; print(importlib.util.find_spec('deblur_deploy').origin)"
    command = [sys.executable, "-S", "-P", "-c", script]
    environment = build_module._child_environment()
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(ended.stdout.strip()) == Path(build_module.deblur_deploy.__file__)


@pytest.mark.rtx
@pytest.mark.parametrize(
    ("capability", "precision", "complaint"),
    [
        ("9.0", "fp32", r"builds no engines for NVIDIA H200 \(SM90\)"),
        ("7.5", "int8", r"no int8 convolutions on NVIDIA H200 \(SM75\)"),
        ("8.6", "int8", None),
        ("13.0", "fp32", None),  # newer than any that has a name: the builder knows
    ],
)
def test_the_card_at_hand_is_refused_before_any_work_where_it_is_not_supported(
    monkeypatch: pytest.MonkeyPatch, skip_unsupported: Any, capability: str, precision: Any, complaint: str | None
) -> None:
    """And only that skips the tests of engines on a GPU: every other failure to build is a failure."""
    monkeypatch.setattr(targets_module, "find_gpu", lambda: Gpu("NVIDIA H200", capability, "13.0"))
    config = EngineConfig(target="current", flavour="rtx", precision=precision)
    if complaint is None:
        skip_unsupported(config)
        return
    with pytest.raises(BuildError, match=complaint):
        build_module.check_engine_config(config)
    with pytest.raises(pytest.skip.Exception, match="not supported"):
        skip_unsupported(config)


@pytest.mark.parametrize("said", [None, "", "{}"])
def test_an_engine_that_nothing_is_learnt_of_is_refused(monkeypatch: pytest.MonkeyPatch, said: str | None) -> None:
    runtime = SimpleNamespace(engine_host_code_allowed=False)
    inspector = SimpleNamespace(get_engine_information=lambda _: said)
    runtime.deserialize_cuda_engine = lambda _: (
        None if said is None else SimpleNamespace(create_engine_inspector=lambda: inspector)
    )
    formats = SimpleNamespace(JSON="JSON")
    module = SimpleNamespace(__version__="11.4", Runtime=lambda _: runtime, LayerInformationFormat=formats)
    monkeypatch.setattr(build_child, "count_nvidia_gpus", lambda: 1)
    arguments = (flavour_module.Flavour("tensorrt", module), SimpleNamespace(last_error="no memory"), b"engine")
    with pytest.raises(BuildError, match="no memory" if said is None else "no information about the layers") as caught:
        build_child._inspect(*arguments, PlanConfig(version_compatible=True))
    assert "not proven" in caught.value.hint
    assert runtime.engine_host_code_allowed
