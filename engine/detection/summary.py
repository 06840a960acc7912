"""The figures of detection over scans with their intervals, and the choice of the operating point.

Intervals are those of a bootstrap over patients by the percentile method: all scans of a patient are drawn together.
Resamples in which a figure is not defined are left out of its interval. There is no interval for fewer than
FEWEST_CASES patients, nor where all resamples have the same figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.detection.curves import auroc, average_precision, divide, flatten, froc, sensitivity_at
from engine.detection.match import ScanDetection
from engine.statistics import FEWEST_CASES, bootstrap_weights, percentile_bounds

FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # per scan
SIZES_MM = {"<20 mm": (0.0, 20.0), "20-40 mm": (20.0, 40.0), ">40 mm": (40.0, np.inf)}  # from the first to the second
CHUNK = 1000  # resamples at a time: the sums over all candidates of a resample take memory


@dataclass(frozen=True)
class Estimate:
    """A figure with the bounds of its 95 % interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """As it is read: the figure and its interval, as far as they are defined."""
        if np.isnan(self.value):
            return "-"
        return f"{self.value:.3f}" + ("" if np.isnan(self.low) else f" ({self.low:.3f} to {self.high:.3f})")


@dataclass(frozen=True)
class Sensitivity:
    """The share of lesions that are found; ``share`` is NaN without any."""

    lesions: int
    found: int
    share: Estimate


@dataclass(frozen=True)
class OperatingPoint:
    """What is decided when scans whose score is at least a threshold are called positive."""

    threshold: float
    sensitivity: Estimate
    specificity: Estimate


@dataclass(frozen=True)
class DetectionSummary:
    """Detection over scans.

    Attributes:
        scans: Number of scans.
        positive: Number of those with a tumour.
        lesions: Number of lesions.
        auroc: Of the scores of scans.
        ap: Of the scores of scans.
        lesion_ap: Of the confidences of candidates, as in PI-CAI.
        froc: Sensitivity for lesions by the number of false positives per scan.
        sizes: Sensitivity for lesions by their diameter, at ``size_threshold``.
        size_threshold: Candidates of at least this confidence count there: that of the operating point, or 0.
        operating_point: At the threshold that was chosen on the validation cases; None if there is none.
    """

    scans: int
    positive: int
    lesions: int
    auroc: Estimate
    ap: Estimate
    lesion_ap: Estimate
    froc: dict[float, Estimate]
    sizes: dict[str, Sensitivity]
    size_threshold: float
    operating_point: OperatingPoint | None


def summarise_detection(
    scans: Sequence[ScanDetection], threshold: float | None = None, seed: int = 0
) -> DetectionSummary:
    """Compute all figures with their intervals.

    Args:
        scans: At least one.
        threshold: Scans with at least this score are called positive; None if no threshold was chosen.
        seed: Of the bootstrap.
    """
    flat = flatten(scans)
    scores, positive = np.array([s.score for s in scans]), np.array([bool(s.lesions) for s in scans])
    least = threshold or 0.0
    called = scores >= least
    is_found = (flat.found >= least) & (flat.found > 0)
    size_masks = {name: (flat.diameters >= low) & (flat.diameters < high) for name, (low, high) in SIZES_MM.items()}

    def figures(weights: np.ndarray) -> np.ndarray:
        """All figures, shape (..., figures), for weights of the scans, shape (..., scans)."""
        of_lesions = weights[..., flat.lesion_scan]
        curve = froc(flat, weights)
        columns = [
            auroc(scores, positive, weights),
            average_precision(scores, positive, weights),
            average_precision(flat.confidence, flat.is_hit, weights[..., flat.scan], of_lesions.sum(-1)),
            *(np.where(of_lesions.sum(-1) > 0, sensitivity_at(curve, x), np.nan) for x in FALSE_POSITIVES),
            _share(weights, positive, called),
            _share(weights, ~positive, ~called),
            *(_share(of_lesions, mask, is_found) for mask in size_masks.values()),
        ]
        return np.stack(columns, -1)

    patients = np.unique([s.patient for s in scans], return_inverse=True)[1]
    values = figures(np.ones(len(scans)))
    drawn = bootstrap_weights(patients, seed)
    resampled = np.concatenate([figures(drawn[n : n + CHUNK].astype(float)) for n in range(0, len(drawn), CHUNK)])
    bounds = percentile_bounds(resampled) if patients.max() + 1 >= FEWEST_CASES else np.full((2, len(values)), np.nan)
    bounds[:, bounds[0] == bounds[1]] = np.nan
    estimates = iter(Estimate(*map(float, column)) for column in np.vstack([values, bounds]).T)
    summary = {name: next(estimates) for name in ("auroc", "ap", "lesion_ap")}
    curve_points = {x: next(estimates) for x in FALSE_POSITIVES}
    decided = {name: next(estimates) for name in ("sensitivity", "specificity")}
    sizes = {
        name: Sensitivity(int(mask.sum()), int((mask & is_found).sum()), next(estimates))
        for name, mask in size_masks.items()
    }
    return DetectionSummary(
        scans=len(scans),
        positive=int(positive.sum()),
        lesions=len(flat.diameters),
        froc=curve_points,
        sizes=sizes,
        size_threshold=least,
        operating_point=None if threshold is None else OperatingPoint(threshold, **decided),
        **summary,
    )


def choose_score_threshold(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """Choose the threshold of the score by Youden's index, sensitivity + specificity - 1.

    It lies in the middle between two neighbouring scores. Of equally good ones the lowest is taken, which misses fewest
    tumours.

    Args:
        scores: Of the validation scans, in [0, 1].
        positive: Which of them have a tumour.

    Returns:
        The threshold; None if all scans have one, or none has, or all scores are the same.
    """
    values, has = np.asarray(scores, float), np.asarray(positive, bool)
    levels = np.unique(values)
    if has.all() or not has.any() or len(levels) < 2:
        return None
    middles = (levels[1:] + levels[:-1]) / 2
    index = [np.mean(values[has] >= t) + np.mean(values[~has] < t) for t in middles]
    return float(middles[int(np.argmax(np.round(index, 9)))])


def _share(weights: np.ndarray, among: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Return the weight of ``which`` as a share of the weight ``among``, shape (...)."""
    return divide((weights * (among & which)).sum(-1), (weights * among).sum(-1))
