"""The kernel's arithmetic, on the processor, against the exact result: every entry point over a random sweep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from kernel_cases import SWEEP, Form

from deblur_deploy.kernels.geometry import ENTRIES, choose_entry


@pytest.mark.parametrize("element", ["f32", "f16"])
@pytest.mark.parametrize("seed", SWEEP)
def test_the_result_is_exact_to_the_type(  # noqa: PLR0913
    emulator, draw_problem, assert_close, record_property, seed, element
):
    problem = draw_problem(seed, element)
    exact = problem.exact()

    for layout in ("nhwc", "nchw"):
        record_property("cases", 1)
        found = emulator.solve(problem, Form(layout, packed=seed % 2 == 0, pad=seed % 3 * 4))
        assert_close(found, exact, element)


def test_the_sweep_meets_every_entry_point_and_every_kind_of_problem(draw_problem):
    problems = [draw_problem(seed, element) for element in ("f32", "f16") for seed in SWEEP]
    geometries = [problem.geometry for problem in problems]

    met = {
        choose_entry(problem.element, layout, problem.geometry.out_channels // problem.geometry.groups)
        for problem in problems
        for layout in ("nhwc", "nchw")
    }
    assert met == set(ENTRIES)
    for field in ("stride_h", "stride_w", "dilation_h", "dilation_w", "pad_h", "groups", "offset_groups", "batch"):
        assert max(getattr(geometry, field) for geometry in geometries) > 1
    assert any(geometry.channels // geometry.offset_groups % 32 for geometry in geometries)
    assert any(geometry.height % 2 and geometry.width % 2 for geometry in geometries)
    assert any(problem.offset.abs().max() > 20 + max(problem.x.shape[2:]) for problem in problems)
    assert {geometry.relu for geometry in geometries} == {geometry.half_offset for geometry in geometries} == {0, 1}
    assert {problem.bias is None for problem in problems} == {True, False}


@pytest.mark.parametrize("seed", [2, 6])
@pytest.mark.parametrize("element", ["f32", "f16"])
def test_the_order_in_which_threads_run_makes_no_difference(emulator, draw_problem, seed, element):
    problem = draw_problem(seed, element)

    for layout in ("nhwc", "nchw"):
        forward = emulator.solve(problem, Form(layout))
        assert np.array_equal(emulator.solve(problem, Form(layout), reverse=True), forward)


@pytest.mark.parametrize("element", ["f32", "f16"])
def test_nothing_outside_an_array_is_touched(sanitized_emulator, draw_problem, assert_close, element):
    for seed in (1, 3, 9):
        problem = draw_problem(seed, element)
        for layout in ("nhwc", "nchw"):
            found = sanitized_emulator.solve(problem, Form(layout, packed=seed == 3, pad=seed % 2))
            assert_close(found, problem.exact(), element)


@pytest.mark.parametrize("element", ["f32", "f16"])
def test_offsets_that_are_no_numbers_read_zeros(emulator, make_problem, assert_close, element):
    problem = make_problem(element, channels=8, size=(5, 7), out_channels=8)
    offset = problem.offset.float()
    offset[0, 0, 0, 0], offset[0, 1, 1, 1], offset[0, 2, 2, 2], offset[0, 3, 3, 3] = np.nan, np.inf, -np.inf, 1e30
    strange = replace(problem, offset=offset)
    far = replace(problem, offset=torch.where(offset.abs() < 1e9, offset, torch.tensor(1e6)))

    for layout in ("nhwc", "nchw"):
        assert_close(emulator.solve(strange, Form(layout)), far.exact(), element)


def test_a_corner_outside_the_image_does_not_spread_what_is_no_number(emulator, make_problem, assert_close):
    """Zero times infinity would: a corner that is not there is not read, whatever the border holds."""
    problem = make_problem("f32", channels=4, size=(6, 6), out_channels=4, kernel=1)
    problem.x[..., 0, :] = np.inf
    problem = replace(problem, offset=problem.offset * 3)
    exact = problem.exact()
    readable = np.isfinite(exact)

    found = emulator.solve(problem, Form("nhwc"))
    assert 0.2 < readable.mean() < 0.9
    assert (np.isfinite(found) == readable).all()
    assert_close(found[readable], exact[readable], "f32")


def test_a_far_pixel_keeps_the_fraction_of_its_offset(emulator, make_problem):
    """At column 4000 the coordinate has 12 bits before the point: added up in float32, the offset would lose them."""
    problem = make_problem("f32", channels=4, size=(1, 4096), out_channels=4, kernel=1)
    offset = torch.zeros_like(problem.offset)
    offset[0, 1] = 0.3 + 1e-5
    problem = replace(problem, offset=offset)
    exact = problem.exact()

    error = np.abs(emulator.solve(problem, Form("nhwc")) - exact)[..., 4000:4095].max() / np.abs(exact).max()
    assert error < 1e-6


def test_an_ordinary_convolution_is_the_case_of_no_offsets(emulator, make_problem):
    problem = make_problem("f32", channels=40, size=(9, 11), out_channels=70, kernel=3)
    still = replace(problem, offset=torch.zeros_like(problem.offset))

    plain = torch.nn.functional.conv2d(problem.x.double(), problem.weight.double(), padding=1).numpy()
    assert np.abs(emulator.solve(still, Form("nhwc", packed=True)) - plain).max() < 1e-5 * np.abs(plain).max()
