"""Crop and resample a scan as a ``Preparation`` says, and record which part of the scan the result covers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data.cases.preparation import Preparation
from data.scans.body import body_box
from data.scans.boxes import Box, whole_box
from data.scans.grid import Part

Spacing = tuple[float, float, float]


class PreparedImage(NamedTuple):
    """The image of a prepared case.

    Attributes:
        image: int16 HU, shape (D, H, W).
        spacing: Voxel spacing (z, y, x) in mm.
        part: The part of the scan that the image covers, or None for the whole scan as it was.
    """

    image: np.ndarray
    spacing: Spacing
    part: Part | None


def apply_preparation(
    image: np.ndarray, spacing: Spacing, preparation: Preparation, must_hold: Box | None = None
) -> PreparedImage:
    """Crop and resample a scan; ``Grid.to_prepared`` does the same to its label.

    The outer faces of the crop stay where they are. The resulting spacing is therefore that of the preparation only up
    to the rounding of the shape.

    Args:
        image: int16 HU, shape (D, H, W).
        spacing: Voxel spacing (z, y, x) in mm.
        preparation: How to crop and resample.
        must_hold: A box that the crop has to contain, such as the bounding box of the label.

    Returns:
        The prepared image; the very array ``image`` if nothing changes.
    """
    box = body_box(image, spacing, must_hold) if preparation.crop == "body" else whole_box(image.shape)
    shape = resampled_shape(box.shape, spacing, preparation)
    if box.shape == shape == image.shape:
        return PreparedImage(image, spacing, None)
    z, y, x = (s * old / new for s, old, new in zip(spacing, box.shape, shape, strict=True))
    return PreparedImage(resample_linear(image[box.slices], shape), (z, y, x), Part(*box, shape))


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], preparation: Preparation) -> tuple[int, int, int]:
    """Compute the shape (D, H, W) that an array has after resampling.

    Args:
        shape: Shape (D, H, W) before.
        spacing: Voxel spacing (z, y, x) in mm before.
        preparation: Gives the spacing after.
    """
    wanted = preparation.spacing or spacing
    depth, height, width = (max(1, round(n * s / w)) for n, s, w in zip(shape, spacing, wanted, strict=True))
    return depth, height, width


def resample_linear(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resample an image to another shape by trilinear interpolation, with its outer faces kept in place.

    The image is not smoothed first, so its noise stays even if the new voxels are much larger.

    Args:
        image: Shape (D, H, W).
        shape: Shape of the result.

    Returns:
        The resampled image, rounded to the type of ``image``; the very array ``image`` if it has this shape.
    """
    if image.shape == tuple(shape):
        return image
    zoom = [new / old for new, old in zip(shape, image.shape, strict=True)]
    return ndimage.zoom(image, zoom, output=image.dtype, order=1, mode="nearest", grid_mode=True)
