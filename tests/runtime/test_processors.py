"""The same picture on every processor: what a runtime leaves to the processor is pinned, or found out and avoided.

oneDNN, inside OpenVINO and PyTorch, can be told to do without the newer instruction sets; so one machine stands for
several. Without VNNI, INT8 convolutions cut off sums of large products.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from deblur_deploy.core import denormals, processor
from deblur_deploy.core.artifact import Artifact, NetworkSpec, Step
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.runtime import ort, ov
from deblur_deploy.runtime.eager import TorchRunner
from deblur_deploy.runtime.ov import computes_bf16, multiplies_int8_exactly
from deblur_deploy.runtime.runner import open_runner

TESTS = Path(__file__).parent.parent
LIMITS = {"AVX2": "avx2", "AVX512_CORE": "avx512"}
"""oneDNN's names of instruction sets without VNNI and bfloat16, and those of PyTorch's own kernels."""

QUICK = (
    "runtime/test_runner.py::test_onnx_runtimes_agree_with_torch",
    "runtime/test_runner.py::test_bfloat16_runs_where_the_processor_has_it",
    "graph/test_for_openvino.py::test_the_projects_own_node_is_the_same_operator",
    "graph/test_for_openvino.py::test_a_bias_used_twice_is_copied_and_changes_nothing",
    "runtime/test_processors.py::test_the_largest_int8_numbers_are_multiplied_exactly",
    "runtime/test_processors.py::test_a_reduced_range_is_multiplied_exactly_in_int8",
    "export/test_quantized_export.py::test_runtimes_give_the_picture_of_fake_quantization[int8-openvino]",
)
THOROUGH = ("runtime", "network/test_deform_conv.py", "export/test_precision.py", "graph/test_frames.py")

x86_only = pytest.mark.skipif(
    platform.machine() != "x86_64" or not torch.cpu._is_avx512_supported(), reason="needs a processor with AVX-512"
)


def run_limited(isa: str, tests: tuple[str, ...]) -> str:
    """The last lines of pytest in a process whose libraries do without the newer instruction sets."""
    limits = {"ONEDNN_MAX_CPU_ISA": isa, "ATEN_CPU_CAPABILITY": LIMITS[isa]}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    for test in ("on_processors_without_vnni", "without_exact_int8_arithmetic_openvino_computes_in_float32"):
        command += ["--deselect", f"{Path(__file__)}::test_{test}"]  # they set what is limited here themselves
    command += [str(TESTS / test) for test in tests]
    ran = subprocess.run(command, env=os.environ | limits, capture_output=True, text=True, cwd=TESTS.parent)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-1000:]
    return ran.stdout[-400:]


@x86_only
@pytest.mark.parametrize("isa", LIMITS)
def test_on_processors_without_vnni(isa: str) -> None:
    assert all((TESTS / test).exists() for test in THOROUGH)  # which the slow test runs, and files move
    assert "passed" in run_limited(isa, QUICK)


@x86_only
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("isa", LIMITS)
def test_all_numerical_tests_on_processors_without_vnni(isa: str) -> None:
    assert "passed" in run_limited(isa, THOROUGH)


@pytest.mark.parametrize("isa", [*LIMITS, "avx2_vnni", "AVX512_CORE_VNNI"])
@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_limit_on_onednn_is_one_on_bfloat16(monkeypatch: pytest.MonkeyPatch, name: str, isa: str) -> None:
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, isa)
    assert not computes_bf16()


def write_artifact_of(model: onnx.ModelProto, path: Path) -> Artifact:
    onnx.save(model, path)
    steps = (Step("probe", {}, {}, None, "", {}),)
    return Artifact("onnx", path, "0" * 64, NetworkSpec("probe", {}, None), ImageSpec(), steps)


def primitives(runner: ov.OpenVINORunner) -> list[str]:
    """What OpenVINO computes each operator with."""
    operators = runner._compiled.get_runtime_model().get_ordered_ops()
    return [op.get_rt_info()["primitiveType"].astype(str) for op in operators]


def largest_int8_model(signed: bool) -> onnx.ModelProto:
    """A quantized convolution whose products are the largest that there are; from pictures of 0 to 1."""
    kind, top = (np.int8, 127) if signed else (np.uint8, 255)
    constants = {
        "kernel": np.full((3, 3, 3, 3), 127, np.int8),
        "one": np.float32(1 / 127),
        "step": np.float32(1 / top),
        "zero": kind(0),
        "zero8": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["kernel", "one", "zero8"], ["w"]),
        helper.make_node("Conv", ["d", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3, None, None]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "largest", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_the_largest_int8_numbers_are_multiplied_exactly(tmp_path: Path, runtime: str, signed: bool) -> None:
    artifact = write_artifact_of(largest_int8_model(signed), tmp_path / "largest.onnx")
    with open_runner(artifact, runtime, threads=1) as runner:
        found = runner.infer(np.ones((1, 3, 16, 16), np.float32))
    np.testing.assert_allclose(found[0, :, 1:-1, 1:-1], 27.0, rtol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_without_exact_int8_arithmetic_openvino_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exact: bool
) -> None:
    monkeypatch.setattr(ov, "multiplies_int8_exactly", lambda: exact)
    artifact = write_artifact_of(largest_int8_model(True), tmp_path / "largest.onnx")
    with ov.OpenVINORunner(artifact, threads=1) as runner:
        kinds = primitives(runner)
        found = runner.infer(np.ones((1, 3, 16, 16), np.float32))
    in_int8 = any(kind.endswith("_I8") for kind in kinds)
    if not exact:
        assert not in_int8
        np.testing.assert_allclose(found[0, :, 1:-1, 1:-1], 27.0, rtol=1e-5)
    elif multiplies_int8_exactly():  # other processors have slow integer kernels of their own, or none
        assert in_int8


def reduced_model(signed: bool, operator: str, settings: dict[str, Any]) -> tuple[onnx.ModelProto, NDArray[np.int8]]:
    """A quantized convolution of 16 to 16 channels with codes within ±64, some channels full of them; from codes."""
    kind = np.int8 if signed else np.uint8
    side, groups = settings["kernel_shape"][0], settings.get("group", 1)
    kernel = np.random.default_rng(0).integers(-64, 65, (16, 16 // groups, side, side)).astype(np.int8)
    kernel[:4], kernel[4:8] = 64, -64
    constants = {"kernel": kernel, "one": np.float32(1), "zero": kind(0), "zero8": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["kernel", "one", "zero8"], ["w"]),
        helper.make_node(operator, ["d", "w"], ["y"], **settings),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, None, None]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "reduced", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), kernel


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    ("operator", "settings"),
    [
        ("Conv", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("Conv", {"kernel_shape": [3, 3], "strides": [2, 2]}),
        ("Conv", {"kernel_shape": [3, 3], "dilations": [2, 2]}),
        ("Conv", {"kernel_shape": [1, 1]}),
        ("Conv", {"kernel_shape": [3, 3], "group": 16}),
        ("ConvTranspose", {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ],
    ids=["3x3", "strided", "dilated", "1x1", "depthwise", "transposed"],
)
def test_a_reduced_range_is_multiplied_exactly_in_int8(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, signed: bool, operator: str, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(ov, "multiplies_int8_exactly", lambda: False)
    model, kernel = reduced_model(signed, operator, settings)
    low, high = (-128, 127) if signed else (0, 255)
    picture = np.random.default_rng(1).integers(low, high + 1, (1, 16, 14, 14)).astype(np.float32)
    picture[..., :7], picture[..., 7:9] = high, low
    apply = torch.conv2d if operator == "Conv" else torch.conv_transpose2d
    arguments: dict[str, Any] = {"stride": settings.get("strides", 1), "padding": settings.get("pads", [0])[0]}
    arguments |= {"dilation": settings.get("dilations", 1), "groups": settings.get("group", 1)}
    expected = apply(torch.from_numpy(picture).double(), torch.from_numpy(kernel).double(), **arguments)
    with ov.OpenVINORunner(write_artifact_of(model, tmp_path / "reduced.onnx"), threads=1) as runner:
        found = runner._compiled(picture)[0]
        kinds = primitives(runner)
    assert any(kind.lower().endswith("_i8") for kind in kinds)
    np.testing.assert_array_equal(found, expected.numpy())


def test_without_exact_int8_arithmetic_onnxruntime_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ort, "adds_int8_exactly", lambda: False)
    artifact = write_artifact_of(largest_int8_model(True), tmp_path / "largest.onnx")
    options = ort.session_options(1)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(artifact.path, options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "Conv" in kinds
    assert "QLinearConv" not in kinds
    with open_runner(artifact, "onnxruntime", threads=1) as runner:
        found = runner.infer(np.ones((1, 3, 16, 16), np.float32))
    np.testing.assert_allclose(found[0, :, 1:-1, 1:-1], 27.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("machine", "sets", "exact"),
    [
        ("x86_64", {"avx2"}, False),
        ("x86_64", {"avx2", "avx512f", "avx512bw"}, False),
        ("x86_64", {"avx2", "avx_vnni"}, True),
        ("x86_64", {"avx512f", "avx512_vnni"}, True),
        ("x86_64", set(), True),
        ("aarch64", {"asimd"}, True),
    ],
)
def test_which_processors_cut_off_sums_of_int8_products(
    monkeypatch: pytest.MonkeyPatch, machine: str, sets: set[str], exact: bool
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "instruction_sets", lambda: frozenset(sets))
    assert processor.adds_int8_exactly() is exact


class Vanishing(nn.Sequential):
    """Makes 1e-40 out of every 1 and 0.01 out of that; zero where denormal numbers are taken for it."""

    def __init__(self) -> None:
        layers = [nn.Conv2d(3, 3, 1, bias=False) for _ in range(3)]
        for layer, factor in zip(layers, (1e-20, 1e-20, 1e38), strict=True):
            layer.weight.data = torch.eye(3).view(3, 3, 1, 1) * factor
        super().__init__(*layers)


def vanishing_model() -> onnx.ModelProto:
    weights = [layer.weight.detach().numpy() for layer in Vanishing()]
    nodes = [helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(3)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3, None, None]) for name in ("x0", "x3")]
    constants = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "vanishing", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def large_frame() -> NDArray[np.float32]:
    return np.ones((1, 3, 256, 512), np.float32)


needs_mode = pytest.mark.skipif(denormals._math_library() is None, reason="the processor's mode is not known")


@needs_mode
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_onnx_runtimes_take_denormal_numbers_for_zero(tmp_path: Path, runtime: str) -> None:
    with open_runner(write_artifact_of(vanishing_model(), tmp_path / "v.onnx"), runtime, threads=2) as runner:
        assert not np.any(runner.infer(large_frame()))
    tiny = np.full(8, 1e-20, np.float32)
    assert np.all(tiny * tiny > 0)  # and the process that asked computes as before


@needs_mode
@pytest.mark.parametrize("runtime", ["torch", "torch-channels-last"])
def test_pytorch_takes_denormal_numbers_for_zero(runtime: str) -> None:
    before = torch.get_num_threads()
    try:
        with TorchRunner(Vanishing().eval(), ImageSpec(), runtime, threads=2) as runner:
            for _ in range(2):  # the second time, PyTorch's threads of the caller have just worked without the mode
                torch.set_num_threads(3)
                with torch.inference_mode():
                    assert np.any(Vanishing()(torch.from_numpy(large_frame())).numpy())
                assert not np.any(runner.infer(large_frame()))
    finally:
        torch.set_num_threads(before)
    tiny = np.full(8, 1e-20, np.float32)
    assert np.all(tiny * tiny > 0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_thread_pools_follow_the_cores_that_the_process_may_use(onnx_file: Artifact) -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        "import os, sys; os.sched_setaffinity(0, {int(sys.argv[2])})\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from deblur_deploy import load_artifact, open_runner\n"
        "from deblur_deploy.runtime.ort import session_options\n"
        "for name in ('onnxruntime', 'openvino'):\n"
        "    with open_runner(load_artifact(Path(sys.argv[1])), name) as runner:\n"
        "        runner.infer(np.zeros((1, 3, 36, 50), np.float32))\n"
        "        kept = [os.sched_getaffinity(int(task.name)) for task in Path('/proc/self/task').iterdir()]\n"
        "        assert all(cores == {int(sys.argv[2])} for cores in kept), kept\n"
        "        if name == 'openvino':\n"
        "            print(runner._compiled.get_property('INFERENCE_NUM_THREADS'))\n"
        "print(session_options().intra_op_num_threads)\n"
    )
    command = [sys.executable, "-c", code, str(onnx_file.directory), str(one)]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert printed.split() == ["1", "1"]
