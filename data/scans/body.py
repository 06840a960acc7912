"""The patient's body in a scan. The air around it and the table below it need not be stored."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from data.scans.boxes import Box, bounding_box, triple, union, whole_box

TISSUE_ABOVE_HU = -300  # denser than air, lung and most of a mattress
SEARCH_STEP_MM = 4.0  # the body is searched on a subsampled scan, about as coarse as this
THIN_MM = 8.0  # thinner structures, such as the shell of the table, do not belong to the body
MIN_COMPONENT_SHARE = 0.1  # of the largest component: two legs belong to the body, a hand beside it need not
MARGIN_MM = 10.0


def body_box(image: np.ndarray, spacing: Sequence[float], must_hold: Box | None = None) -> Box:
    """Find the bounding box of the patient's body, with a margin of 10 mm.

    Args:
        image: CT scan in HU, shape (D, H, W).
        spacing: Voxel spacing (z, y, x) in mm.
        must_hold: Box that the result has to contain, such as that of the label.

    Returns:
        The box, inside the scan; the whole scan if no body is found.
    """
    steps = tuple(max(1, int(SEARCH_STEP_MM / s)) for s in spacing)
    tissue = image[tuple(slice(None, None, step) for step in steps)] > TISSUE_ABOVE_HU
    body = _large_components(tissue, [s * step for s, step in zip(spacing, steps, strict=True)])
    found = bounding_box(body)
    if found is None:
        return whole_box(image.shape)
    start, stop = [], []
    for first, last, step, mm, size in zip(*found, steps, spacing, image.shape, strict=True):
        margin = int(np.ceil(MARGIN_MM / mm))
        # The body may begin anywhere between the first sample that shows it and the sample before.
        start.append(max(0, (first - 1) * step + 1 - margin))
        stop.append(min(size, last * step + margin))
    box = Box(triple(start), triple(stop))
    return union(box, must_hold) if must_hold else box


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected component of a mask with any number of axes, as a mask; it is empty if that is."""
    components, _ = ndimage.label(mask)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return (components == sizes.argmax()) & mask


def _large_components(tissue: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Remove thin structures and small components from a mask (D, H, W)."""
    plate = np.ones((1, *(max(1, 2 * round(THIN_MM / s / 2) + 1) for s in spacing[1:])), bool)
    components, count = ndimage.label(ndimage.binary_opening(tissue, plate))
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    sizes[0] = 0
    return (sizes >= max(1.0, MIN_COMPONENT_SHARE * sizes.max()))[components]
