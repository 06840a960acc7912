"""Where a pancreas is thick, and could therefore be taken for one with a tumour."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from data.cases.case import Case
from data.scans.boxes import Box, Index3D, enlarge, triple

STEP_MM = 3.0  # between the voxels whose depth is computed; of all voxels of a clinical scan it would take seconds
THICKEST_OF = 24  # voxels of the gland of which the deepest is drawn


def draw_thick_place(case: Case, pancreas: Box, rng: np.random.Generator) -> Index3D:
    """Draw a voxel (z, y, x) of a pancreas, the deepest in it of ``THICKEST_OF`` random ones.

    Args:
        case: The case.
        pancreas: Box of its pancreas.
        rng: Draws the voxels.

    Raises:
        InputError: If the case is damaged.
    """
    voxels, depths = _depths(case, pancreas)
    drawn = rng.integers(len(voxels), size=THICKEST_OF)
    return triple(map(int, voxels[drawn[depths[drawn].argmax()]]))


def thickest_place(case: Case, pancreas: Box) -> Box:
    """Return the box of the largest ball that fits into a pancreas, as far as it lies in the scan.

    Args:
        case: The case.
        pancreas: Box of its pancreas.

    Raises:
        InputError: If the case is damaged.
    """
    voxels, depths = _depths(case, pancreas)
    deepest = int(depths.argmax())
    return box_around(triple(map(int, voxels[deepest])), [float(depths[deepest])] * 3, case)


def box_around(voxel: Index3D, half_mm: Sequence[float], case: Case) -> Box:
    """Return the box with these half sides (z, y, x) in mm around a voxel of a case, as far as it lies in the scan."""
    half = [side / mm for side, mm in zip(half_mm, case.spacing, strict=True)]
    return enlarge(Box(voxel, triple(i + 1 for i in voxel)), half, half, case.shape)


def _depths(case: Case, pancreas: Box) -> tuple[np.ndarray, np.ndarray]:
    """Return voxels of the pancreas with its tumour, (N, 3), and how deep in it they lie in mm, (N,).

    They are those of a grid of about ``STEP_MM``, or all if that grid misses the gland.
    """
    gland = np.asarray(case.label()[pancreas.slices]) > 0
    steps = [max(1, int(STEP_MM / mm)) for mm in case.spacing]
    coarse = gland[tuple(slice(step // 2, None, step) for step in steps)]
    offset = [step // 2 for step in steps]
    if not coarse.any():
        coarse, steps, offset = gland, [1, 1, 1], [0, 0, 0]
    spacing = [step * mm for step, mm in zip(steps, case.spacing, strict=True)]
    # What lies beyond the box is not pancreas.
    depth = ndimage.distance_transform_edt(np.pad(coarse, 1), spacing)[1:-1, 1:-1, 1:-1]
    inside = np.argwhere(coarse)
    return inside * steps + offset + pancreas.start, depth[coarse]
