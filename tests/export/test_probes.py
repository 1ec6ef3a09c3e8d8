"""Sheets of pictures on which exported networks are compared, and which networks may take them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from deblur_deploy.core.images import Resolution
from deblur_deploy.export.probes import probe_pictures, probe_sheets
from deblur_deploy.graph.locality import is_local

HARD = {"black", "white", "flat gray", "letterboxed photograph", "checkerboard", "saturated noise"}


@pytest.mark.parametrize(
    ("size", "sheets", "part"),
    [
        (Resolution(640, 360), 1, (180, 160)),
        (Resolution(1283, 720), 1, (360, 320)),
        (Resolution(360, 640), 2, (320, 180)),
        (Resolution(320, 100), 8, (100, 320)),
    ],
)
def test_every_picture_is_on_one_sheet(draw_frames, size, sheets, part):
    photos = list(draw_frames(2, 400, 500))
    found = probe_sheets(photos, size, together=True)
    assert len(found) == sheets
    assert {sheet.picture.shape for sheet in found} == {(size.height, size.width, 3)}
    alone = probe_pictures(photos, Resolution(part[1], part[0]))
    height, width = part
    names: list[str] = []
    for sheet in found:
        taken = np.zeros((1, size.height, size.width, 1), np.uint8)
        for name in sheet.parts:
            names.append(name)
            sheet.cut(name, taken)[:] += 1
            rows, columns = sheet.parts[name]
            inside = [
                side if isinstance(side.start, int) else slice(0, length)
                for side, length in ((rows, height), (columns, width))
            ]
            (top, bottom), (left, right) = (
                (each.start % length, (each.stop - 1) % length + 1) for each, length in zip(inside, part, strict=True)
            )
            assert {top, height - bottom, left, width - right} <= {0, 32}
            expected = alone[name][top:bottom, left:right]
            np.testing.assert_array_equal(sheet.cut(name, sheet.picture[None])[0], expected)
        assert taken.max() == 1  # they do not overlap
        assert len(sheet.parts) == 1 or taken[0, 0, 0, 0] == taken[0, 0, width - 33, 0] == 1 > taken[0, 0, width, 0]
    assert sorted(names) == sorted({"photograph 1", "photograph 2"} | HARD)


@pytest.mark.parametrize("size", [Resolution(640, 360), None])
def test_networks_that_see_the_whole_picture_get_each_alone(draw_frames, size):
    photos = list(draw_frames(2, 400, 500))
    found = probe_sheets(photos, size, together=size is None)
    whole = probe_pictures(photos, size)
    assert len(found) == len(whole) == 8
    for sheet, (name, picture) in zip(found, whole.items(), strict=True):
        assert list(sheet.parts) == [name]
        np.testing.assert_array_equal(sheet.cut(name, sheet.picture[None])[0], picture)


def test_floats_are_cut_as_frames_are(draw_frames):
    (sheet,) = probe_sheets(list(draw_frames(1, 400, 500)), Resolution(640, 360), together=True)
    floats = np.float32(sheet.picture.transpose(2, 0, 1)[None])
    for name in sheet.parts:
        cut = sheet.cut(name, floats)
        np.testing.assert_array_equal(cut[0].transpose(1, 2, 0), sheet.cut(name, sheet.picture[None])[0])


@pytest.mark.parametrize(
    ("kind", "domain", "window", "local"),
    [
        ("Relu", "", None, True),
        ("Conv", "", [3, 3], True),
        ("DeformConv2d", "deblur", None, True),
        ("AveragePool", "", [2, 2], True),
        ("AveragePool", "", [45, 80], False),
        ("GlobalAveragePool", "", None, False),
        ("ReduceMean", "", None, False),
        ("InstanceNormalization", "", None, False),
        ("MatMul", "", None, False),
        ("Softmax", "", None, False),
        ("Anything", "of.others", None, False),
        ("Relu", "of.others", None, False),
    ],
)
def test_operators_that_see_the_whole_picture_are_told_apart(kind, domain, window, local):
    nodes = [helper.make_node("Sigmoid", ["x"], ["y"])]
    nodes.append(helper.make_node(kind, ["y"], ["z"], domain=domain, **({"kernel_shape": window} if window else {})))
    assert is_local(helper.make_model(helper.make_graph(nodes, "g", [], []))) is local
