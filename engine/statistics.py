"""Statistics over cases: mean, spread and uncertainty, and the paired comparison of two runs.

Undefined values (NaN) are left out and counted.
"""

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
        mean: Mean of the defined values; NaN if there are none.
        sd: Their standard deviation, with n - 1 in the denominator; NaN if n < 2.
        n: Number of defined values.
        excluded: Number of values that are NaN.
        low: Lower bound of the bootstrap 95 % interval of the mean; NaN if n < 2.
        high: Upper bound.
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
        mean_difference: Mean of ours - theirs over the cases where both values are defined; NaN if there are none.
        low: Lower bound of the bootstrap 95 % interval of the mean difference; NaN if n < 2.
        high: Upper bound.
        p: p-value of the two-sided Wilcoxon signed-rank test; 1 if all differences are zero, NaN if n = 0.
        n: Number of cases where both values are defined.
        excluded: Cases of both runs where at least one of the values is NaN.
        only_ours: Cases that their run does not have.
        only_theirs: Cases that our run does not have.
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
    """Summarise the values of one metric over cases.

    Args:
        values: One value per case; NaN where the metric is undefined.
        seed: Seed or generator of the bootstrap.

    Raises:
        ValueError: If a value is infinite, which no metric of this project can be.
    """
    numbers = _finite_or_nan(values)
    defined = numbers[~np.isnan(numbers)]
    low, high = bootstrap_interval(defined, seed)
    return Summary(
        mean=float(defined.mean()) if defined.size else np.nan,
        sd=float(defined.std(ddof=1)) if defined.size > 1 else np.nan,
        n=int(defined.size),
        excluded=int(numbers.size - defined.size),
        low=low,
        high=high,
    )


def compare(ours: Mapping[str, float], theirs: Mapping[str, float], seed: int | np.random.Generator = 0) -> Comparison:
    """Compare two runs case by case.

    Args:
        ours: The values of one metric by the name of the case; NaN where it is undefined.
        theirs: Those of the other run.
        seed: Seed or generator of the bootstrap.

    Raises:
        ValueError: If a value is infinite.
    """
    shared = sorted(ours.keys() & theirs.keys())
    difference = _finite_or_nan(ours[key] for key in shared) - _finite_or_nan(theirs[key] for key in shared)
    defined = difference[~np.isnan(difference)]
    low, high = bootstrap_interval(defined, seed)
    p = np.nan
    if defined.size:
        p = float(stats.wilcoxon(defined).pvalue) if np.any(defined) else 1.0
    return Comparison(
        mean_difference=float(defined.mean()) if defined.size else np.nan,
        low=low,
        high=high,
        p=p,
        n=int(defined.size),
        excluded=tuple(key for key, value in zip(shared, difference, strict=True) if np.isnan(value)),
        only_ours=tuple(sorted(ours.keys() - theirs.keys())),
        only_theirs=tuple(sorted(theirs.keys() - ours.keys())),
    )


def bootstrap_interval(values: np.ndarray, seed: int | np.random.Generator) -> tuple[float, float]:
    """Compute the bootstrap 95 % interval of the mean by the percentile method.

    The BCa method is not used because it is undefined if all values are equal, which happens with perfect or missed
    cases.

    Args:
        values: Defined values, shape (n,).
        seed: Seed or generator.

    Returns:
        Lower and upper bound; (NaN, NaN) for fewer than two values.
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


def bootstrap_weights(groups: np.ndarray, seed: int | np.random.Generator) -> np.ndarray:
    """Draw groups of cases, such as the scans of a patient, with replacement.

    Args:
        groups: The group of each case, numbers from 0 on, shape (n,).
        seed: Seed or generator.

    Returns:
        How often each case is in each resample, integers of shape (RESAMPLES, n).
    """
    count = int(groups.max()) + 1
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)[:, groups]


def percentile_bounds(resampled: np.ndarray) -> np.ndarray:
    """Return the bounds of the 95 % interval by the percentile method, shape (2, n), for the figures of each resample.

    Args:
        resampled: Shape (resamples, n). A figure that is NaN in a resample leaves it out.
    """
    tail = (1 - CONFIDENCE) / 2
    bounds = np.full((2, resampled.shape[1]), np.nan)
    for number, column in enumerate(resampled.T):
        defined = column[~np.isnan(column)]
        if defined.size:
            bounds[:, number] = np.quantile(defined, (tail, 1 - tail))
    return bounds


def _finite_or_nan(values: Iterable[float]) -> np.ndarray:
    numbers = np.fromiter(values, dtype=float)
    if np.isinf(numbers).any():
        raise ValueError("an infinite value cannot be summarised; give NaN where a metric is undefined")
    return numbers
