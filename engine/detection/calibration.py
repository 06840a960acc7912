"""Calibration: whether the voxels that get a probability of 0.7 belong to the target in 70 % of the cases.

The voxels are counted in bins of their probability. In a calibrated network, the share of target voxels in a bin is the
mean probability of the bin. The expected calibration error is the mean difference between both, weighted by the number
of voxels (Naeini et al., AAAI 2015; Guo et al., ICML 2017):

    ECE = sum over the bins b of n_b / N |positives_b / n_b - mean probability_b|

Most voxels of a box have a probability near 0 and are background, so that this error is small for any network. The one
over the voxels with a probability of at least 0.1, which leaves out the first bin, says more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 10  # of the same width, from 0 to 1


@dataclass(frozen=True)
class Reliability:
    """Voxels in bins of their probability.

    Attributes:
        voxels: Number of voxels, shape (BINS,).
        positives: Number of those that belong to the target.
        probability: Sum of their probabilities.
    """

    voxels: np.ndarray
    positives: np.ndarray
    probability: np.ndarray

    @staticmethod
    def of(probability: np.ndarray, target: np.ndarray) -> "Reliability":
        """Count the voxels of a box.

        Args:
            probability: In [0, 1], any shape.
            target: Mask of the target, of the same shape.
        """
        bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1).ravel()
        weights = (None, (np.asarray(target) != 0).ravel().astype(float), probability.ravel().astype(float))
        return Reliability(*(np.bincount(bins, w, minlength=BINS).astype(float) for w in weights))

    @staticmethod
    def sum_of(parts: Iterable["Reliability"]) -> "Reliability":
        """Add the counts of several boxes, at least one."""
        rows = [(part.voxels, part.positives, part.probability) for part in parts]
        return Reliability(*(np.sum(column, axis=0) for column in zip(*rows, strict=True)))

    def to_json(self) -> dict[str, list[float]]:
        """Return the counts as JSON can store them."""
        return {name: getattr(self, name).tolist() for name in ("voxels", "positives", "probability")}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> "Reliability":
        """Invert ``to_json``.

        Raises:
            TypeError: If the fields are others.
            ValueError: If they do not hold a number for each bin.
        """
        columns = {name: np.array(values, float) for name, values in fields.items()}
        if any(column.shape != (BINS,) for column in columns.values()):
            raise ValueError(f"not {BINS} bins")
        return Reliability(**columns)

    def error(self, first_bin: int = 0) -> float:
        """Return the expected calibration error over the bins from ``first_bin`` on; NaN if they have no voxels."""
        voxels, positives, probability = (
            column[first_bin:] for column in (self.voxels, self.positives, self.probability)
        )
        return float(np.abs(positives - probability).sum() / voxels.sum()) if voxels.sum() else np.nan
