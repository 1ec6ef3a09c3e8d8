"""Figures with their units."""

from __future__ import annotations

from deblur_deploy.core.units import format_bytes, format_ms


def test_figures_have_the_unit_that_fits() -> None:
    assert [format_bytes(count) for count in (438_183, 99_999, 0)] == ["0.44 MB", "100.0 kB", "0.0 kB"]
    assert [format_ms(value) for value in (79.3, 9.96, 0.04)] == ["79 ms", "10.0 ms", "0.0 ms"]
