"""Whether what a manifest says of a case fits together; manifests of earlier versions have no checksum."""

import unicodedata
from pathlib import Path

import numpy as np

from data.scans.boxes import Box, Index3D, whole_box
from data.scans.grid import Grid, Vector3D

SPACING_TOLERANCE = 1e-4  # relative difference between the spacing and that of the grid


def check_consistency(
    *, shape: Index3D, spacing: Vector3D, grid: Grid, pancreas_box: Box | None, tumour_box: Box | None
) -> None:
    """Check the geometry of a case, which its manifest records in several ways.

    Args:
        shape: Shape (D, H, W) of image and label.
        spacing: Their spacing (z, y, x) in mm.
        grid: The grid of the scan's file, with the part that was prepared.
        pancreas_box: Bounding box of pancreas and tumour.
        tumour_box: Bounding box of the tumour.

    Raises:
        ValueError: If two of them contradict each other.
    """
    if shape != grid.prepared_shape or min(shape) < 1:
        raise ValueError(f"its shape is {shape}, that of its grid {grid.prepared_shape}")
    of_grid, _, _ = grid.prepared_grid().lps_frame()
    if not np.allclose(spacing, of_grid, rtol=SPACING_TOLERANCE, atol=0) or not min(spacing) > 0:
        raise ValueError(f"its voxels have {spacing} mm, those of its grid {of_grid} mm")
    for outer, inner in ((whole_box(shape), pancreas_box), (pancreas_box, tumour_box)):
        if inner and not (outer and outer.contains(inner) and min(inner.shape) > 0):
            raise ValueError("the boxes around its labels do not fit")


def check_place(folder: Path, centre: str, name: str) -> None:
    """Check that a manifest lies in the folder of its case.

    Raises:
        ValueError: If it does not.
    """
    # macOS writes accented letters as two characters, so that a store that was copied there and back has other names.
    here, recorded = f"{folder.parent.name}/{folder.name}", f"{centre}/{name}"
    if unicodedata.normalize("NFC", here) != unicodedata.normalize("NFC", recorded):
        raise ValueError(f"it is the manifest of {recorded}")
