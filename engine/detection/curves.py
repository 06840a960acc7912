"""ROC, precision-recall and FROC curves, with weights, so that a bootstrap computes all resamples at once.

    AUROC   the probability that a positive scan has a higher score than a negative one; ties count one half
    AP      sum over the thresholds t of (R(t) - R(t')) P(t), with the recall R, the precision P and the next higher
            threshold t'; of scans by their score, or of candidates by their confidence
    FROC    sensitivity for lesions against the mean number of false positives per scan, over all scans; at x false
            positives it is the highest sensitivity at a threshold with at most x

A figure is NaN where it is not defined: AUROC without a positive or without a negative scan, AP and FROC without a
positive one.

References:
    Bandos et al., Biometrics 65, 2009, 247-256 (FROC).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.detection.match import ScanDetection


class Curve(NamedTuple):
    """Two sums over everything whose score is at least a threshold, at each threshold from the highest on.

    Attributes:
        thresholds: The different scores in descending order, shape (k,).
        hits: Sum of the weights of what is positive, shape (..., k).
        false: Sum of the weights of what is not.
    """

    thresholds: np.ndarray
    hits: np.ndarray
    false: np.ndarray


def cumulate(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> Curve:
    """Sum the weights of what has at least a score.

    Args:
        scores: Shape (n,).
        positive: Boolean, shape (n,).
        weights: Shape (..., n), such as how often each is drawn in a resample.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True)) if scores.size else np.zeros(0, int)
    sums = [np.cumsum((weights * kind)[..., order], axis=-1)[..., ends] for kind in (positive, ~positive)]
    return Curve(scores[order][ends], *sums)


def auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Compute the area under the ROC curve.

    Args:
        scores: Shape (n,).
        positive: Boolean, shape (n,).
        weights: Shape (..., n); None for the same weight of all.

    Returns:
        Shape (...); NaN where the weights of all positive or all negative ones are 0.
    """
    curve = cumulate(scores, positive, np.ones(scores.shape) if weights is None else weights)
    hits, false = (np.concatenate([np.zeros_like(sums[..., :1]), sums], -1) for sums in (curve.hits, curve.false))
    area = np.sum((false[..., 1:] - false[..., :-1]) * (hits[..., 1:] + hits[..., :-1]) / 2, axis=-1)
    return divide(area, hits[..., -1:].sum(-1) * false[..., -1:].sum(-1))


def average_precision(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None, wanted: np.ndarray | None = None
) -> np.ndarray:
    """Compute the average precision.

    Args:
        scores: Shape (n,).
        positive: Boolean, shape (n,).
        weights: Shape (..., n); None for the same weight of all.
        wanted: Weight of all that should be found, shape (...), if some of it has no score; None for that of the
            positive ones.

    Returns:
        Shape (...); NaN where nothing should be found.
    """
    curve = cumulate(scores, positive, np.ones(scores.shape) if weights is None else weights)
    wanted = curve.hits[..., -1:].sum(-1) if wanted is None else wanted
    gained = np.diff(curve.hits, axis=-1, prepend=0.0)
    precision = curve.hits / np.maximum(curve.hits + curve.false, 1e-12)
    return divide(np.sum(gained * precision, axis=-1), wanted)


class Findings(NamedTuple):
    """The candidates and the lesions of many scans, flat.

    Attributes:
        confidence: Of the candidates that hit a lesion or are a false positive, shape (n,).
        is_hit: Boolean: which of them hit one.
        scan: The scan of each.
        diameters: Of the lesions in mm, shape (m,).
        found: The confidence of the candidate that hits each; 0 if none does.
        lesion_scan: The scan of each.
    """

    confidence: np.ndarray
    is_hit: np.ndarray
    scan: np.ndarray
    diameters: np.ndarray
    found: np.ndarray
    lesion_scan: np.ndarray


def flatten(scans: Sequence[ScanDetection]) -> Findings:
    """Collect the candidates and lesions of scans."""
    lesions = [(n, lesion) for n, scan in enumerate(scans) for lesion in scan.lesions]
    rows = [(lesion.confidence, True, n) for n, lesion in lesions if lesion.confidence > 0]
    rows += [(confidence, False, n) for n, scan in enumerate(scans) for confidence in scan.false_positives]
    return Findings(
        confidence=np.array([row[0] for row in rows], float),
        is_hit=np.array([row[1] for row in rows], bool),
        scan=np.array([row[2] for row in rows], int),
        diameters=np.array([lesion.diameter_mm for _, lesion in lesions], float),
        found=np.array([lesion.confidence for _, lesion in lesions], float),
        lesion_scan=np.array([n for n, _ in lesions], int),
    )


def froc(flat: Findings, weights: np.ndarray) -> Curve:
    """Return the FROC curve: ``hits`` is the sensitivity for lesions, ``false`` the false positives per scan.

    Args:
        flat: Findings and lesions.
        weights: Of the scans, shape (..., scans).
    """
    curve = cumulate(flat.confidence, flat.is_hit, weights[..., flat.scan])
    wanted = weights[..., flat.lesion_scan].sum(-1, keepdims=True)
    return Curve(curve.thresholds, divide(curve.hits, wanted), divide(curve.false, weights.sum(-1, keepdims=True)))


def sensitivity_at(curve: Curve, false_positives: float) -> np.ndarray:
    """Return the highest sensitivity of a FROC curve with at most so many false positives per scan, shape (...)."""
    allowed = np.where(curve.false <= false_positives, curve.hits, 0.0)
    return allowed.max(axis=-1, initial=0.0)


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; NaN where the denominator is 0."""
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)
