"""The labels of a prepared case, and the window of Hounsfield units in which networks and pictures see its image."""

import numpy as np

from data.scans.boxes import Box, bounding_box, triple

PANCREAS, TUMOUR = 1, 2  # 0 is background
TARGETS = ("pancreas", "tumour")  # what a stage segments; the pancreas includes its tumour
HU_WINDOW = (-100.0, 240.0)  # lower and upper end, HU


def target_mask(label: np.ndarray, target: str) -> np.ndarray:
    """Extract the binary mask of a target.

    Args:
        label: Labels 0/1/2, any shape.
        target: "pancreas", which includes the tumour, or "tumour".

    Returns:
        uint8 mask (0 or 1) of the same shape.
    """
    return (label == TUMOUR if target == "tumour" else label > 0).astype(np.uint8)


def label_boxes(label: np.ndarray) -> tuple[Box | None, Box | None]:
    """Return the bounding boxes of the pancreas with its tumour and of the tumour alone.

    Args:
        label: Labels 0/1/2, shape (D, H, W).

    Returns:
        Both boxes; None for what is not labelled.
    """
    outer = bounding_box(label)
    inner = outer and bounding_box(label[outer.slices] == TUMOUR)
    if outer is None or inner is None:
        return outer, None
    start, stop = (triple(a + b for a, b in zip(outer.start, corner, strict=True)) for corner in inner)
    return outer, Box(start, stop)


def codes_in(array: np.ndarray) -> np.ndarray:
    """List the codes that a label (uint8, shape (D, H, W)) holds, in ascending order."""
    # Plane by plane, because np.bincount converts its input to eight bytes per voxel.
    return np.flatnonzero(sum(np.bincount(plane.ravel(), minlength=256) for plane in array))
