"""Operators that ONNX has no form for: one sentence with the operator and the line of the network that uses it."""

from __future__ import annotations

import inspect

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deblur_deploy.core.errors import ExportError
from deblur_deploy.core.images import Resolution
from deblur_deploy.export.trace import trace, trace_any_size


class OneScale(nn.Module):
    """What a generator has to have beside its layers."""

    arch = "one-scale"

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        return [self(blurred)]


class Fourier(OneScale):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:])


class Folding(OneScale):
    def forward(self, x: Tensor) -> Tensor:
        windows = F.unfold(x, 4, stride=4)
        return F.fold(windows, x.shape[-2:], 4, stride=4)


class Bessel(OneScale):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def line_of(network: type[nn.Module], text: str) -> str:
    """Where this file has a text in the forward of a network, as file:line."""
    lines, first = inspect.getsourcelines(network.forward)
    (line,) = [first + index for index, line in enumerate(lines) if text in line]
    return f"{__file__}:{line}"


@pytest.mark.parametrize("any_size", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize(
    ("network", "operator", "text"),
    [(Fourier, "fft_rfft2", "rfft2"), (Folding, "col2im", "F.fold"), (Bessel, "special_bessel_j0", "bessel_j0")],
)
def test_the_operator_and_its_line_are_named(
    network: type[OneScale], operator: str, text: str, any_size: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError) as caught:
        trace_any_size(network()) if any_size else trace(network(), Resolution(64, 32))  # type: ignore[arg-type]
    assert f"ONNX has no form for {operator}" in caught.value.message
    assert f"({line_of(network, text)})" in caught.value.message
    assert "\n" not in caught.value.message
    assert capsys.readouterr().out == ""


class Unpooling(OneScale):
    """Fails in the exporter's pass, though not when it is called."""

    def forward(self, x: Tensor) -> Tensor:
        y, places = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(y, places, 2)


def test_code_that_fails_while_it_is_traced_is_named_by_its_line() -> None:
    with pytest.raises(ExportError, match="the network runs, but cannot be written as ONNX: ") as caught:
        trace(Unpooling(), Resolution(64, 32))  # type: ignore[arg-type]
    assert f"({line_of(Unpooling, 'max_unpool2d')})" in caught.value.message


class KernelOfTheInputsWidth(OneScale):
    def forward(self, x: Tensor) -> Tensor:
        kernel = torch.ones(1, 1, 3, 3).repeat(x.shape[1], 1, 1, 1) / 9
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1])


def test_what_holds_for_one_size_alone_is_told_to_be_exported_so() -> None:
    trace(KernelOfTheInputsWidth(), Resolution(64, 32))  # type: ignore[arg-type]
    with pytest.raises(ExportError) as caught:
        trace_any_size(KernelOfTheInputsWidth())  # type: ignore[arg-type]
    assert "kernel of unknown shape" in caught.value.message
    assert "Caused by" not in caught.value.message
    assert "for one size, without --dynamic" in caught.value.hint


class Reflecting(OneScale):
    """Pads by more pixels than a tiny picture has."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, (4, 4, 4, 4), mode="reflect"), 9, stride=1)


def test_a_network_that_needs_some_pixels_is_traced_for_every_size() -> None:
    model = trace_any_size(Reflecting())  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for height, width in ((9, 17), (40, 24)):
        x = np.random.default_rng(0).random((1, 3, height, width), np.float32)
        (found,) = session.run(None, {session.get_inputs()[0].name: x})
        np.testing.assert_allclose(found, Reflecting()(torch.from_numpy(x)).numpy(), atol=1e-6)


class OnlyLarge(OneScale):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 99, stride=1)


def test_a_size_that_the_network_does_not_take_is_told_as_such() -> None:
    with pytest.raises(ExportError, match="cannot be traced at 64x32") as caught:
        trace(OnlyLarge(), Resolution(64, 32))  # type: ignore[arg-type]
    assert caught.value.hint is not None
    assert "larger --res" in caught.value.hint
