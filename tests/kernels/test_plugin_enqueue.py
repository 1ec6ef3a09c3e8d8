"""The plugin's ``enqueue`` on the processor: packing and convolving, linear and with channels last in eights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kernel_cases import SWEEP, Form, build_emulator, case_of

KINDS = [("f16", "nhwc"), ("f16", "nchw"), ("f32", "nchw")]


def without_activation(problem: Any) -> Any:
    return replace(problem, geometry=replace(problem.geometry, relu=0))


@pytest.mark.parametrize(("element", "layout"), KINDS)
@pytest.mark.parametrize("seed", SWEEP)
def test_enqueue_gives_the_exact_result(  # noqa: PLR0913
    emulator, draw_problem, assert_close, record_property, seed, element, layout
):
    problem = without_activation(draw_problem(seed, element))
    record_property("cases", 1)

    assert_close(emulator.solve(problem, Form(layout, plugin=True)), problem.exact(), element)


@pytest.mark.parametrize(("element", "layout"), KINDS)
def test_enqueue_touches_nothing_outside_its_buffers(  # noqa: PLR0913
    sanitized_emulator, draw_problem, assert_close, record_property, element, layout
):
    """The workspace is as large as ``getWorkspaceSize`` says, and not a byte larger."""
    for seed in (1, 3, 9):
        problem = without_activation(draw_problem(seed, element))
        found = sanitized_emulator.solve(problem, Form(layout, plugin=True))
        assert_close(found, problem.exact(), element)
        record_property("cases", 1)


@pytest.mark.parametrize("out_channels", [1, 7, 9, 21, 65, 127])
def test_channels_that_are_only_room_become_zero(emulator, make_problem, assert_close, out_channels):
    """The next layer may read them; NaN times a weight of zero would be NaN."""
    problem = make_problem("f16", channels=9, size=(5, 7), out_channels=out_channels)
    case = case_of(problem, Form("nhwc", plugin=True))

    (elements,) = emulator.run([case], "0")
    pixels = elements.reshape(-1, case.geometry.y_pitch)
    assert case.geometry.y_pitch % 8 == 0
    assert np.isfinite(pixels).all()
    assert not pixels[:, out_channels:].any()
    assert_close(pixels[:, :out_channels].T.reshape(1, -1, 5, 7).astype(np.float64), problem.exact(), "f16")


@pytest.mark.parametrize("room", [1, 3, 8, 70])
@pytest.mark.parametrize("element", ["f16", "f32"])
def test_any_room_behind_the_channels_becomes_zero(emulator, make_problem, assert_close, element, room):
    problem = make_problem(element, channels=5, size=(3, 4), out_channels=13)

    assert_close(emulator.solve(problem, Form("nhwc", pad=room)), problem.exact(), element)


def test_a_bias_goes_through_a_clone_and_an_attached_copy(emulator, make_problem, assert_close):
    problem = replace(make_problem("f16", channels=8, size=(4, 5), out_channels=8), bias=torch.arange(8.0).half())

    assert_close(emulator.solve(problem, Form("nchw", plugin=True)), problem.exact(), "f16")


def test_what_does_not_fit_is_refused_before_it_reaches_the_kernel(emulator, make_problem):
    problem = make_problem("f16", channels=8, size=(4, 5), out_channels=8)
    good = case_of(problem, Form("nchw", plugin=True))

    for change in ({"batch": 70_000}, {"height": 2**16, "width": 2**16}, {"out_height": 2**16, "out_width": 2**15}):
        ended = emulator.try_to_run([replace(good, geometry=replace(good.geometry, **change))], "0")
        assert ended.returncode == 3
        assert b"the plugin refuses its shapes" in ended.stderr


def test_it_compiles_against_tensorrts_own_headers_too(tensorrt_headers, make_problem, assert_close, tmp_path):
    """So the stand-in for the headers leaves out nothing that the plugin needs."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to run the kernel on the processor")
    real = build_emulator(compiler, tmp_path, "-O1", tensorrt=tensorrt_headers)
    problem = make_problem("f16", channels=9, size=(5, 6), out_channels=11)

    assert_close(real.solve(problem, Form("nhwc", plugin=True)), problem.exact(), "f16")
