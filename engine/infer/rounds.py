"""A stage looks at a scan in rounds: in a box, and then around what it has found there."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data.samples import Sampling, fits_patch, mask_box
from data.scans.boxes import Box
from data.scans.grid import volume_ml

# Volumes are in ml, so that they mean the same for any voxel size; as voxels they are given for a clinical voxel of
# 0.8 x 0.8 x 2 mm.

# A later round of a stage is discarded if its mask is smaller than this (80 voxels): its box has lost the target.
MIN_ROUND_ML = 0.1
# Two rounds agree if their masks have at least this Dice: their boxes are then nearly the same, and so would be the
# result of another round.
CONVERGED_DICE = 0.92


class Round(NamedTuple):
    """One look of a stage at a scan.

    Attributes:
        mask: The mask that it found, of the whole scan, shape (D, H, W).
        box: Where it looked.
    """

    mask: np.ndarray
    box: Box


def segment_in_rounds(
    segment: Callable[[Box], np.ndarray], box: Box, spacing: tuple[float, float, float], sampling: Sampling
) -> Round:
    """Segment in a box, and again around the mask that results, as often as the sampling has rounds.

    It stops early if the box or the mask no longer changes, or if the box would be larger than what the network sees at
    a time, as around a mask that fills everything. The last round counts, or the one before if that lost the target.

    Args:
        segment: Returns the mask of the whole scan, shape (D, H, W), that is found in a box.
        box: Of the first round.
        spacing: Voxel spacing (z, y, x) in mm.
        sampling: Of the stage.
    """
    last = Round(segment(box), box)
    for _ in range(sampling.rounds - 1):
        next_box = mask_box(last.mask, spacing, sampling)
        if next_box is None or next_box == last.box or not fits_patch(next_box, spacing, sampling):
            break
        previous, last = last, Round(segment(next_box), next_box)
        if volume_ml(last.mask, spacing) < MIN_ROUND_ML:
            return previous
        if _dice(last.mask, previous.mask) >= CONVERGED_DICE:
            break
    return last


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice of two boolean masks; 0 if both are empty."""
    common = sum(np.count_nonzero(a & b) for a, b in zip(first, second, strict=True))  # a plane at a time
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * int(common) / max(1, int(total))
