"""The Python side of the kernel's launch against the CUDA source."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace

import pytest

from deblur_deploy.kernels.compiler import kernel_sources
from deblur_deploy.kernels.geometry import ENTRIES, THREADS, Geometry, choose_entry


@pytest.fixture
def geometry(make_problem) -> Geometry:
    return make_problem("f16", channels=8, size=(10, 13), out_channels=130).geometry


def test_the_fields_are_those_of_the_struct_in_order():
    struct = re.search(r"struct DeformConvGeometry \{(.*?)\};", kernel_sources()["deform_conv.cu"], re.DOTALL)
    declared = re.findall(r"\w+(?=[,;])", re.sub(r"//.*", "", struct[1]))

    assert declared == [field.name for field in dataclasses.fields(Geometry)]


def test_the_struct_is_packed_as_32_bit_integers(geometry):
    packed = geometry.packed()

    assert len(packed) == 4 * len(dataclasses.fields(Geometry))
    assert packed[:8] == b"\x01\0\0\0\x08\0\0\0"


def test_entry_points_and_tiles_are_those_of_the_source():
    source = kernel_sources()["deform_conv.cu"]
    entries = re.findall(r"^ENTRY\((\w+), (\w+), (true|false)\)", source, re.MULTILINE)

    assert [f"-DDEFORM_CONV_ENTRY={','.join(entry)}" for entry in entries] == [entry.definition for entry in ENTRIES]
    for entry in ENTRIES[:4]:
        assert f"using {entry.tile.name} = TensorCoreTile<{entry.tile.pixels}, {entry.tile.outputs}>;" in source
    assert f"kThreads = {THREADS};" in kernel_sources()["tiles.cuh"]


@pytest.mark.parametrize(
    ("element", "outputs", "name", "grid"),
    [
        ("f16", 64, "deform_conv2d_f16_nchw_narrow", (2, 1, 1)),
        ("f16", 65, "deform_conv2d_f16_nchw_wide", (3, 1, 1)),
        ("f16", 129, "deform_conv2d_f16_nchw_wide", (3, 2, 1)),
        ("f32", 129, "deform_conv2d_f32_nchw", (3, 3, 1)),
    ],
)
def test_the_grid_covers_pixels_and_outputs(geometry, element, outputs, name, grid):
    entry = choose_entry(element, "nchw", outputs)

    assert entry.name == name
    assert entry.grid(replace(geometry, out_channels=outputs)) == grid
    grouped = replace(geometry, out_channels=3 * outputs, groups=3, batch=2)
    assert entry.grid(grouped) == (grid[0], 3 * grid[1], 2)


@pytest.mark.parametrize("change", [{"batch": 70_000}, {"groups": 70_000, "out_channels": 70_000}, {"height": 2**28}])
def test_what_is_too_large_for_a_launch_is_seen(geometry, change):
    assert geometry.fits()
    assert not replace(geometry, **change).fits()
