"""Where the body lies in a scan: the air around it and the table under it need no place on the disk."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from data.scans.boxes import Box, bounding_box, union, whole

TISSUE_ABOVE = -300  # HU: denser than air, lung and most of a mattress
STEP_MM = 4.0  # the body is looked for on a grid about as coarse as this
THIN_MM = 8.0  # what is thinner, such as a table's shell, is no body
PART = 0.1  # of the largest piece: two legs are body, a hand beside it may be left out
MARGIN_MM = 10.0


def body_box(image: np.ndarray, spacing: Sequence[float], must_hold: Box | None = None) -> Box:
    """The box of the body, with a margin of 10 mm, inside the scan; the whole scan where no body stands out.

    Args:
        image: int16 HU (D, H, W). spacing: (z, y, x) mm.
        must_hold: a box that the result holds too, such as that of the label.
    """
    steps = tuple(max(1, int(STEP_MM / s)) for s in spacing)
    tissue = image[tuple(slice(None, None, step) for step in steps)] > TISSUE_ABOVE
    found = bounding_box(_large_pieces(tissue, [s * step for s, step in zip(spacing, steps, strict=True)]))
    if found is None:
        return whole(image.shape)
    start, stop = [], []
    for first, last, step, mm, size in zip(*found, steps, spacing, image.shape, strict=True):
        margin = int(np.ceil(MARGIN_MM / mm))
        start.append(max(0, (first - 1) * step + 1 - margin))  # the body may begin right after the voxel before
        stop.append(min(size, last * step + margin))
    box = Box(tuple(start), tuple(stop))
    return union(box, must_hold) if must_hold else box


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """The largest connected piece of a mask of any shape, as a mask; empty where the mask is."""
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (pieces == sizes.argmax()) & mask


def _large_pieces(tissue: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The mask (D, H, W) without thin and small things."""
    disc = np.ones((1, *(max(1, 2 * round(THIN_MM / s / 2) + 1) for s in spacing[1:])), bool)
    pieces, count = ndimage.label(ndimage.binary_opening(tissue, disc))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    return (sizes >= max(1.0, PART * sizes.max()))[pieces]
