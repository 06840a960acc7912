"""Statistics over cases: mean, spread and uncertainty, and the paired comparison of two runs; and over trainings.

Undefined values (NaN) are left out and counted. An interval over cases is NaN where it would mislead: for fewer than
FEWEST_CASES cases, and where every resample gives the same figure, which says nothing about how sure it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 9999
CONFIDENCE = 0.95
# Cases for which an interval over cases is given. Of normally distributed values, the percentile interval of fewer than
# 10 holds the true mean in less than 90 % of all samples instead of 95 % (of 3 in 75 %, of 5 in 85 %).
FEWEST_CASES = 10
NO_INTERVAL = f"There is no interval for fewer than {FEWEST_CASES} cases, nor where all cases have the same value."
FEWEST_TRAININGS = 3  # of an arm for which an interval over trainings is given
MOST_EXACT_PAIRS = 18  # whose sign patterns are all looked at


@dataclass(frozen=True)
class Summary:
    """One metric over cases.

    Attributes:
        mean: Mean of the defined values; NaN if there are none.
        sd: Their standard deviation, with n - 1 in the denominator; NaN if n < 2.
        n: Number of defined values.
        excluded: Number of values that are NaN.
        low: Lower bound of the bootstrap 95 % interval of the mean; NaN if there is none (``bootstrap_interval``).
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
        low: Lower bound of the bootstrap 95 % interval of the mean difference; NaN if there is none
            (``bootstrap_interval``).
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

    Args:
        values: Defined values, shape (n,).
        seed: Seed or generator.

    Returns:
        Lower and upper bound; (NaN, NaN) for fewer than FEWEST_CASES values, or if all are equal.
    """
    if values.size < FEWEST_CASES or np.ptp(values) == 0:
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


def sign_flip_p(differences: Mapping[str, Sequence[float]], seed: int | np.random.Generator = 0) -> float:
    """Test whether two arms differ, by flipping the signs of pairs of trainings.

    A pair is one training of each arm with the same seed and the same held-out domain. Without a difference between the
    arms, either could have been called the first one, in each pair for itself. The statistic is the mean over the
    domains of the mean over their pairs, so that a domain with fewer pairs counts as much as the others.

    Args:
        differences: Ours - theirs of each pair, by domain. Every pair is of trainings of its own.
        seed: Seed or generator, used if there are more than MOST_EXACT_PAIRS pairs.

    Returns:
        The two-sided p: over all sign patterns, or over RESAMPLES random ones and the observed one. NaN without pairs.

    Raises:
        ValueError: If a domain has no pair, or a difference is not finite: a pair that cannot be computed has to be
            made again, because leaving it out would favour one arm.

    References:
        Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology 9, 2010 (why the observed pattern
        is counted).
    """
    if not differences:
        return np.nan
    groups = [np.asarray(values, float) for values in differences.values()]
    if not all(group.ndim == 1 and group.size and np.isfinite(group).all() for group in groups):
        raise ValueError("every domain needs pairs of trainings, each with a finite difference")
    weighted = np.concatenate([group / (group.size * len(groups)) for group in groups])
    if weighted.size <= MOST_EXACT_PAIRS:
        totals = np.zeros(1)
        for term in weighted:  # all 2 ** n sums with their signs
            totals = np.concatenate([totals - term, totals + term])
    else:
        signs = np.random.default_rng(seed).choice((-1.0, 1.0), (RESAMPLES, weighted.size))
        totals = np.append(signs @ weighted, weighted.sum())
    # Sums of the same numbers in another order may differ in the last digit, but are equally extreme.
    tolerance = 1e-12 * np.abs(weighted).sum()
    return float(np.mean(np.abs(totals) >= abs(weighted.sum()) - tolerance))


def hierarchical_interval(
    differences: Mapping[str, np.ndarray],
    patients: Mapping[str, Sequence[str]] | None = None,
    seed: int | np.random.Generator = 0,
) -> tuple[float, float, float]:
    """Compute the mean difference of two arms and its interval, with trainings and patients drawn anew.

    In each resample, the pairs of trainings are drawn with replacement within their domain. So are the patients, each
    the same number of times in all domains and trainings in which it was evaluated; patients of the same domains are
    drawn together. The domains are not drawn: the result holds for these.

    Args:
        differences: Ours - theirs by domain, shape (pairs of trainings, patients). NaN where a value is undefined.
        patients: Names of the columns by domain, each once in a domain. None if all have the same patients in the same
            order.
        seed: Seed or generator.

    Returns:
        Mean over the domains, and the lower and upper bound of its 95 % percentile interval. The bounds are NaN if a
        domain has fewer than FEWEST_TRAININGS pairs or fewer than two patients.

    Raises:
        ValueError: If there is no domain, or the columns do not fit the names.
    """
    groups = {domain: np.asarray(values, float) for domain, values in differences.items()}
    names = patients or {domain: [str(n) for n in range(group.shape[-1])] for domain, group in groups.items()}
    fits = all(group.ndim == 2 and group.shape[1] == len(names[domain]) for domain, group in groups.items())
    if not groups or not fits or (patients is None and len({group.shape[1] for group in groups.values()}) > 1):
        raise ValueError("every domain needs an array (pairs of trainings, patients), with a name for each patient")
    rng = np.random.default_rng(seed)
    # A mean with weights, so that a resample is a product of matrices: how often a pair and a patient are in it.
    whole = [_weighted_means(np.ones((1, len(g))), g, np.ones((1, g.shape[1])))[0] for g in groups.values()]
    mean = float(np.mean(whole))
    if min(len(group) for group in groups.values()) < FEWEST_TRAININGS or min(map(len, names.values())) < 2:
        return mean, np.nan, np.nan
    domains_of: dict[str, tuple[str, ...]] = {}
    for domain in groups:
        for name in names[domain]:
            domains_of[name] = (*domains_of.get(name, ()), domain)
    times: dict[str, np.ndarray] = {}
    for where in dict.fromkeys(domains_of.values()):
        together = [name for name, domains in domains_of.items() if domains == where]
        drawn = rng.multinomial(len(together), np.full(len(together), 1 / len(together)), RESAMPLES)
        times |= dict(zip(together, drawn.T, strict=True))
    means = np.zeros(RESAMPLES)
    for domain, group in groups.items():
        pairs = rng.multinomial(len(group), np.full(len(group), 1 / len(group)), RESAMPLES)
        drawn_patients = np.stack([times[name] for name in names[domain]], axis=1)
        means += _weighted_means(pairs, group, drawn_patients) / len(groups)
    low, high = percentile_bounds(means[:, None])[:, 0]
    return mean, float(low), float(high)


def _weighted_means(pairs: np.ndarray, values: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Return the mean of the defined values, weighted by weights of pairs (n, p) and patients (n, q): shape (n,)."""
    defined = ~np.isnan(values)
    total = np.einsum("np,pq,nq->n", pairs, np.where(defined, values, 0.0), patients, optimize=True)
    count = np.einsum("np,pq,nq->n", pairs, defined.astype(float), patients, optimize=True)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Correct p values for the number of tests, so that the chance of any false positive is at most the level.

    Args:
        p: The p value of each test by its name.

    Returns:
        The corrected p values by name, in the order of ``p``.

    Raises:
        ValueError: If a p value is not between 0 and 1.

    References:
        Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    if not all(0 <= value <= 1 for value in p.values()):
        raise ValueError("p values lie between 0 and 1")
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p}


def paired_power(effect: float, deviation: float, pairs: int) -> float:
    """Compute the power of a two-sided test at 5 % of the mean of normally distributed differences.

    Args:
        effect: The true mean difference.
        deviation: Standard deviation between the trainings of one arm and domain.
        pairs: Number of pairs of trainings.

    Returns:
        The probability that the mean of the pairs is significantly different from 0, by Student's t.
    """
    freedom = pairs - 1
    noncentral = effect / (deviation * np.sqrt(2 / pairs))
    bound = stats.t.ppf(1 - (1 - CONFIDENCE) / 2, freedom)
    return float(stats.nct.sf(bound, freedom, noncentral) + stats.nct.cdf(-bound, freedom, noncentral))


def _finite_or_nan(values: Iterable[float]) -> np.ndarray:
    numbers = np.fromiter(values, dtype=float)
    if np.isinf(numbers).any():
        raise ValueError("an infinite value cannot be summarised; give NaN where a metric is undefined")
    return numbers
