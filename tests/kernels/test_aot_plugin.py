"""The plugin without a library, against TensorRT's own Python package on a stub of its library, and against its PTX."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest

from deblur_deploy.core.errors import BuildError, MissingDependencyError
from deblur_deploy.kernels import resources
from deblur_deploy.kernels.aot_plugin import ATTRIBUTES, NAME, NAMESPACE, plugin_ptx, register_aot_plugin
from deblur_deploy.kernels.compiler import kernel_sources
from deblur_deploy.kernels.geometry import ENTRIES, THREADS, Geometry, choose_entry
from deblur_deploy.kernels.resources import ARCHITECTURES, assemble, find_ptxas

HERE = Path(__file__).parent
GEOMETRY = list(Geometry.__dataclass_fields__)

CASES = [
    {
        "element": element,
        "layout": layout,
        "offset_element": offset_element,
        "x": [2, 48, 9, 11],
        "weight": [out_channels, 16, 3, 2],
        "offset": [2, 24, 5, 10],
        "attributes": {
            "strides": [2, 1],
            "pads": [1, 0, 1, 0],
            "dilations": [1, 1],
            "kernel_shape": [3, 2],
            "group": 3,
            "offset_group": 2,
        },
    }
    for element, layout, offset_element, out_channels in (
        ("HALF", "LINEAR", "HALF", 21),
        ("HALF", "HWC8", "FLOAT", 300),
        ("FLOAT", "LINEAR", "FLOAT", 21),
    )
]


@pytest.fixture(scope="module")
def answers(tensorrt_stubs):
    """What the plugin tells TensorRT in each case."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs NVRTC: pip install 'deblur-deploy[cuda]'")
    command = [sys.executable, str(HERE / "aot_probe.py"), *tensorrt_stubs]
    ended = subprocess.run(command, input=json.dumps(CASES), capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def geometry_of(case) -> Geometry:
    attributes, in_eights = case["attributes"], lambda channels: -(-channels // 8) * 8
    (batch, channels, *size), (out_channels, *_), (*_, out_h, out_w) = case["x"], case["weight"], case["offset"]
    return Geometry(
        batch, channels, *size, out_channels, out_h, out_w, *attributes["kernel_shape"], *attributes["strides"],
        *attributes["pads"][:2], *attributes["dilations"], attributes["group"], attributes["offset_group"],
        in_eights(channels), in_eights(out_channels), int(case["offset_element"] == "HALF"), 0, 0,
    )  # fmt: skip


@pytest.mark.parametrize("index", range(len(CASES)))
def test_grid_and_arguments_are_those_of_the_kernel(answers, index):
    case, answer = CASES[index], answers[index]
    geometry = geometry_of(case)
    element, layout = ("f16" if case["element"] == "HALF" else "f32"), ("nhwc" if case["layout"] == "HWC8" else "nchw")
    entry = choose_entry(element, layout, geometry.out_channels // geometry.groups)

    assert answer["name"] == entry.name
    assert answer["arguments"] == [getattr(geometry, name) for name in GEOMETRY]
    assert tuple(answer["grid"]) == entry.grid(geometry)
    assert answer["block"] == [THREADS, 1, 1]
    assert answer["shared_bytes"] == 0
    assert answer["shape"] == [2, geometry.out_channels, 5, 10]
    assert answer["dtype"] == case["element"]


@pytest.mark.parametrize("index", range(len(CASES)))
def test_the_ptx_takes_inputs_integers_and_output(answers, index):
    """And nothing hidden: TensorRT passes these arguments and no others."""
    ptx, name = answers[index]["ptx"], answers[index]["name"]
    (parameters,) = re.findall(rf"\.visible \.entry {name}\((.*?)\)", ptx, re.DOTALL)
    kinds = re.findall(r"\.param \.(\w+)", parameters)

    assert kinds == ["u64"] * 3 + ["u32"] * len(GEOMETRY) + ["u64"]
    assert ptx.count(".visible .entry") == 1
    assert re.search(r"^\.version 7\.0$", ptx, re.MULTILINE)
    assert re.search(r"^\.target sm_75$", ptx, re.MULTILINE)
    assert "\0" not in ptx
    assert ".extern" not in ptx


def test_the_plain_entry_points_build_the_struct_in_its_order():
    source = kernel_sources()["deform_conv.cu"].partition("#ifdef DEFORM_CONV_FLAT")[2]
    source = re.sub(r"\s*\\\n\s*", " ", source)
    signature = re.search(r"const void\* offset, (.*?), Tile::Type\* y\)", source)[1]
    struct = re.search(r"DeformConvGeometry geometry\{(.*?)\};", source)[1]

    assert [part.removeprefix("int ") for part in re.split(r",\s*", signature)] == GEOMETRY
    assert re.split(r",\s*", struct.strip()) == GEOMETRY


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_entry_points_ptx_is_assembled_within_the_limits(arch):
    """What the driver does when an engine is loaded, for every card; two blocks fit a multiprocessor here too."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs NVRTC: pip install 'deblur-deploy[cuda]'")
    try:
        find_ptxas()
    except MissingDependencyError as err:
        pytest.skip(f"{err.message}; {err.hint}")
    for entry in ENTRIES:
        (used,) = assemble(plugin_ptx(entry), arch).values()
        assert used.fits_twice, used


def test_what_the_assembler_refuses_is_named():
    try:
        find_ptxas()
    except MissingDependencyError as err:
        pytest.skip(f"{err.message}; {err.hint}")
    with pytest.raises(BuildError, match=r"ptxas refuses the PTX for sm_86: .*fatal"):
        assemble(b".version 7.0\n.target sm_75\nnonsense", "sm_86")


def test_without_the_assembler_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="ptxas, which is not installed") as caught:
        find_ptxas()
    assert "nvidia-cuda-nvcc" in caught.value.hint


def test_types_and_layouts_are_those_of_the_library(answers):
    found = {(tuple(types), tuple(layouts)) for types, layouts in answers[0]["combinations"]}

    linear, eights = ("LINEAR",) * 4, ("HWC8", "LINEAR", "LINEAR", "HWC8")
    assert found == {
        (("FLOAT",) * 4, linear),
        *((("HALF", "HALF", offset, "HALF"), layouts) for offset in ("HALF", "FLOAT") for layouts in (linear, eights)),
    }


def test_the_attributes_are_those_of_the_onnx_node(answers):
    onnx_function = pytest.importorskip("deblur_deploy.graph.deform_op")
    function = onnx_function.deform_conv_function((3, 3), 1)

    assert (function.domain, function.name) == (NAMESPACE, NAME)
    assert list(ATTRIBUTES) == answers[0]["attributes"] == answers[0]["aot_attributes"]
    assert set(ATTRIBUTES) == set(function.attribute)
    assert list(function.input) == ["X", "W", "offset"]


def test_every_attribute_is_an_array():
    """Of one number too: TensorRT up to 11.1 calls ``int`` on what it reads, which NumPy 2.4 refuses for an array."""
    for annotation in ATTRIBUTES.values():
        assert typing.get_origin(annotation) is np.ndarray
        assert typing.get_args(typing.get_args(annotation)[1]) == (np.int32,)
    with pytest.raises(TypeError, match="0-dimensional"):
        int(np.array([1], np.int32))


def test_without_tensorrt_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)

    with pytest.raises(MissingDependencyError, match=r"deblur-deploy\[trt\]"):
        register_aot_plugin()
