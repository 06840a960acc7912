"""Mean, spread and uncertainty over cases, and the paired comparison of two runs. Undefined values are counted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 9999
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """One metric over cases.

    Attributes:
        mean, sd: over the ``n`` defined values; sd with n - 1 in the denominator. NaN where too few are defined.
        n, excluded: how many values are defined, and how many were NaN and left out.
        low, high: bootstrap 95 % interval of the mean; NaN where n < 2.
    """

    mean: float
    sd: float
    n: int
    excluded: int
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two runs over the same cases.

    Attributes:
        mean_difference: ours - theirs over the ``n`` cases where both are defined.
        low, high: bootstrap 95 % interval of the mean difference; NaN where n < 2.
        p: two-sided Wilcoxon signed-rank test; 1 where all differences are zero, NaN where n = 0.
        excluded: cases of both runs where either value is NaN.
        only_ours, only_theirs: cases of one run alone.
    """

    mean_difference: float
    low: float
    high: float
    p: float
    n: int
    excluded: tuple[str, ...]
    only_ours: tuple[str, ...]
    only_theirs: tuple[str, ...]


def summarise(values: Iterable[float], seed: int | np.random.Generator = 0) -> Summary:
    """Mean, standard deviation and bootstrap interval of the values that are not NaN; the others are counted.

    Raises ValueError for an infinite value, which no metric here can be.
    """
    values = _finite_or_nan(values)
    defined = values[~np.isnan(values)]
    low, high = bootstrap_interval(defined, seed)
    return Summary(
        mean=float(defined.mean()) if defined.size else np.nan,
        sd=float(defined.std(ddof=1)) if defined.size > 1 else np.nan,
        n=int(defined.size),
        excluded=int(values.size - defined.size),
        low=low,
        high=high,
    )


def compare(ours: Mapping[str, float], theirs: Mapping[str, float], seed: int | np.random.Generator = 0) -> Comparison:
    """Compare two runs case by case; ``ours`` and ``theirs`` give one metric by case name."""
    shared = sorted(ours.keys() & theirs.keys())
    difference = _finite_or_nan(ours[key] for key in shared) - _finite_or_nan(theirs[key] for key in shared)
    defined = difference[~np.isnan(difference)]
    low, high = bootstrap_interval(defined, seed)
    return Comparison(
        mean_difference=float(defined.mean()) if defined.size else np.nan,
        low=low,
        high=high,
        p=_wilcoxon(defined),
        n=int(defined.size),
        excluded=tuple(key for key, value in zip(shared, difference, strict=True) if np.isnan(value)),
        only_ours=tuple(sorted(ours.keys() - theirs.keys())),
        only_theirs=tuple(sorted(theirs.keys() - ours.keys())),
    )


def bootstrap_interval(values: np.ndarray, seed: int | np.random.Generator) -> tuple[float, float]:
    """The percentile bootstrap 95 % interval of the mean; (NaN, NaN) for fewer than two values.

    Percentile, not BCa: BCa is undefined where all values are equal, which perfect or missed cases are.
    """
    if values.size < 2:
        return np.nan, np.nan
    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _wilcoxon(difference: np.ndarray) -> float:
    if difference.size == 0:
        return np.nan
    return float(stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0


def _finite_or_nan(values: Iterable[float]) -> np.ndarray:
    values = np.fromiter(values, dtype=float)
    if np.isinf(values).any():
        raise ValueError("an infinite value cannot be summarised; give NaN where a metric is undefined")
    return values
