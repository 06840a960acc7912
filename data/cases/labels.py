"""The labels of a prepared case: 0 background, 1 pancreas, 2 tumour."""

import numpy as np

PANCREAS, TUMOUR = 1, 2
HU_WINDOW = (-100.0, 240.0)  # what the network sees of a case, and what pictures show


def target_mask(label: np.ndarray, target: str) -> np.ndarray:
    """Labels 0/1/2 -> uint8 mask of "pancreas" (1 or 2) or "tumour" (2)."""
    return (label == TUMOUR if target == "tumour" else label > 0).astype(np.uint8)


def codes_in(array: np.ndarray) -> np.ndarray:
    """The codes, in rising order, that a label (uint8, (D, H, W)) holds."""
    # Plane by plane: counting widens what it reads to eight bytes a voxel.
    return np.flatnonzero(sum(np.bincount(plane.ravel(), minlength=256) for plane in array))
