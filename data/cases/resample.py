"""A scan cropped and resampled as a ``Preparation`` says, and where the result lies in the scan."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data.cases.preparation import Preparation
from data.scans.body import body_box
from data.scans.boxes import Box, whole_box
from data.scans.grid import Part

Spacing = tuple[float, float, float]


class Fitted(NamedTuple):
    """image: int16 HU (D, H, W). spacing: (z, y, x) mm. part: where it lies in the scan, None for the whole scan."""

    image: np.ndarray
    spacing: Spacing
    part: Part | None


def apply_preparation(
    image: np.ndarray, spacing: Spacing, preparation: Preparation, must_hold: Box | None = None
) -> Fitted:
    """Crop and resample a scan (int16 HU, (D, H, W)); labels follow with ``Grid.take``.

    The outer faces of the crop stay where they are, so the spacing of the result is that of the preparation up to
    the rounding of the shape.

    Args:
        must_hold: a box that the crop holds too, such as that of the label.
    """
    box = body_box(image, spacing, must_hold) if preparation.crop == "body" else whole_box(image.shape)
    shape = fitted_shape(box.shape, spacing, preparation)
    if box.shape == shape == image.shape:
        return Fitted(image, tuple(spacing), None)
    reached = tuple(s * old / new for s, old, new in zip(spacing, box.shape, shape, strict=True))
    return Fitted(linear(image[box.slices], shape), reached, Part(*box, shape))


def fitted_shape(shape: Sequence[int], spacing: Spacing, preparation: Preparation) -> tuple[int, int, int]:
    """The shape (D, H, W) that voxels of the ``spacing`` (z, y, x) mm have once resampled."""
    wanted = preparation.spacing or spacing
    return tuple(max(1, round(n * s / w)) for n, s, w in zip(shape, spacing, wanted, strict=True))


def linear(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The image (D, H, W) resampled to ``shape`` with its outer faces kept: trilinear, rounded to its own type.

    Nothing is smoothed first: like any linear resampling to much larger voxels it keeps the noise.
    """
    if image.shape == tuple(shape):
        return image
    zoom = [new / old for new, old in zip(shape, image.shape, strict=True)]
    return ndimage.zoom(image, zoom, output=image.dtype, order=1, mode="nearest", grid_mode=True)
