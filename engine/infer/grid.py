"""From the voxels of a scan to those that the network sees and back, some planes at a time."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from data.augment import to_device, window
from data.samples import NetworkGrid
from data.warp import low_pass, low_pass_radius, resample

SLAB_VOXELS = 1 << 22  # of a box that are interpolated or labelled at a time


def slabs(planes: int, plane_voxels: float) -> list[slice]:
    """Divide planes into slabs of at most ``SLAB_VOXELS`` voxels, and at least one plane."""
    step = max(1, int(SLAB_VOXELS / plane_voxels))
    return [slice(start, min(planes, start + step)) for start in range(0, planes, step)]


def onto_grid(image: np.ndarray, grid: NetworkGrid, hu_window: tuple[float, float], device: torch.device) -> Tensor:
    """Window a box and resample it to the grid of the network.

    Args:
        image: int16 HU, shape (D, H, W).
        grid: What the network sees. Beyond the box lie zeros.
        hu_window: As in ``Sampling``.
        device: Where to compute.

    Returns:
        float32 in [0, 1], shape (1, 1, *grid.shape).
    """
    depth, height, width = grid.shape
    factor, parts = grid.factor[0], []
    halo = 1 + low_pass_radius(factor)  # planes that smoothing and interpolation need more on either side
    for planes in slabs(depth, image[0].size * max(1.0, factor)):
        first = min(max(0, math.floor(planes.start * factor) - halo), len(image) - 1)
        last = math.ceil(planes.stop * factor) + halo
        volume = window(to_device(image[first:last], device), hu_window)
        start = (planes.start * factor - first, 0.0, 0.0)
        part = NetworkGrid((planes.stop - planes.start, height, width), grid.factor, start)
        parts.append(resample(low_pass(volume[None, None], grid.factor), part))
    return torch.cat(parts, dim=2)


def back_in_slabs(on_grid: Tensor, grid: NetworkGrid, shape: Sequence[int]) -> Iterator[tuple[slice, Tensor]]:
    """Interpolate what the network computed on its grid at the voxels of the box.

    Args:
        on_grid: float32, shape (1, 1, *grid.shape).
        grid: That of ``onto_grid``.
        shape: Of the box, (D, H, W).

    Yields:
        Planes of the box, and the values of their voxels, shape (planes, H, W), on the device of ``on_grid``.
    """
    depth, height, width = shape
    z, y, x = (1 / f for f in grid.factor)
    for planes in slabs(depth, height * width):
        own_grid = NetworkGrid((planes.stop - planes.start, height, width), (z, y, x), (planes.start * z, 0.0, 0.0))
        yield planes, resample(on_grid, own_grid, beyond="border")[0, 0]
