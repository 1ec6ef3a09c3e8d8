"""Figures of timing samples, by the formulas of trtexec, so that both can stand in one table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BOOTSTRAP_DRAWS = 2000


@dataclass(frozen=True)
class Latency:
    """Quantiles of the time of one inference, in milliseconds."""

    median: float
    p90: float
    p95: float
    p99: float


def summarize(samples_ms: Sequence[float]) -> Latency:
    """The quantiles that are reported, of at least one sample."""
    p90, p95, p99 = (percentile(samples_ms, percent) for percent in (90, 95, 99))
    return Latency(statistics.median(samples_ms), p90, p95, p99)


@dataclass(frozen=True)
class Spread:
    """What trtexec prints of a time, in milliseconds."""

    min: float
    max: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float


def spread(samples_ms: Sequence[float]) -> Spread:
    """The figures that trtexec prints, of at least one sample."""
    quantiles = summarize(samples_ms)
    return Spread(
        min(samples_ms),
        max(samples_ms),
        statistics.fmean(samples_ms),
        quantiles.median,
        quantiles.p90,
        quantiles.p95,
        quantiles.p99,
    )


def variation_percent(samples: Sequence[float]) -> float:
    """Coefficient of variation in percent: the deviation over all samples, as a share of their mean.

    Source: TensorRT, ``samples/common/sampleReporting.cpp``, ``findCoeffOfVariance``.
    """
    mean = statistics.fmean(samples)
    return 100 * statistics.pstdev(samples, mean) / mean if mean else 0.0


def percentile(samples: Sequence[float], percent: float) -> float:
    """Percentile as trtexec has it: ``sorted[max(N - 1 - int((1 - percent / 100) * N), 0)]``.

    In float32, as there: in float64, ``(1 - 0.9) * 10`` is just below 1, and the 90th percentile of ten samples
    would be the largest instead of the second largest.

    Args:
        samples: At least one.
        percent: 0 to 100.

    Source: TensorRT, ``samples/common/sampleReporting.cpp``, ``findPercentile``.
    """
    count = len(samples)
    excluded = int((np.float32(1) - np.float32(percent) / np.float32(100)) * np.float32(count))
    return sorted(samples)[max(count - 1 - excluded, 0)]


def is_stable(windows: Sequence[Sequence[float]], needed: int, tolerance: float) -> bool:
    """Whether the medians of the last windows agree, which is when Triton's tools accept a figure.

    Args:
        windows: Samples of each window of time, in the order they were taken.
        needed: How many windows in a row must agree; one alone agrees with nothing and is never stable.
        tolerance: How far each may be from their mean, as a share of it.
    """
    if needed < 2 or len(windows) < needed or not all(windows[-needed:]):
        return False
    medians = [statistics.median(window) for window in windows[-needed:]]
    mean = statistics.fmean(medians)
    return all(abs(median - mean) <= tolerance * mean for median in medians)


def median_ratio_interval(
    numerator: Sequence[float], denominator: Sequence[float], seed: int = 0
) -> tuple[float, float]:
    """95 % confidence interval of the ratio of two medians, by the percentile bootstrap.

    Both sides are drawn anew with replacement, independently of each other. Slow drift makes neighbouring samples
    similar, and the interval then comes out too narrow; interleaving and the test for stability guard against
    that.

    Source: Efron and Tibshirani, *An Introduction to the Bootstrap*, chapter 13.
    """
    rng = np.random.default_rng(seed)
    ratios = _resampled_medians(numerator, rng) / _resampled_medians(denominator, rng)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def _resampled_medians(samples: Sequence[float], rng: np.random.Generator) -> NDArray[np.float64]:
    """Medians of samples drawn anew, without drawing each: thousands of samples times thousands of draws take seconds.

    The k-th smallest of n uniform numbers follows Beta(k, n - k + 1) (David and Nagaraja, *Order Statistics*, section
    2.1), and ``floor(n * u)`` makes it the k-th smallest of n drawn indices.
    """
    values = np.sort(np.asarray(samples, dtype=np.float64))
    count = len(values)
    middle = (count + 1) // 2
    lower = rng.beta(middle, count - middle + 1, _BOOTSTRAP_DRAWS)
    upper = lower
    if count % 2 == 0:
        # The next one up is the least of the count - middle numbers that are left above.
        upper = lower + (1 - lower) * rng.beta(1, count - middle, _BOOTSTRAP_DRAWS)
    below, above = (np.minimum((count * u).astype(np.intp), count - 1) for u in (lower, upper))
    medians: NDArray[np.float64] = (values[below] + values[above]) / 2
    return medians
