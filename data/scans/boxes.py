"""Boxes on the voxel grid: around a mask, enlarged in mm, rounded outwards, always inside the scan.

A box is half open, ``start <= index < stop`` on each axis (z, y, x). Its shape is therefore ``stop - start``, and the
last voxel of a structure is never lost.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")
Index3D = tuple[int, int, int]


def triple(values: Iterable[T]) -> tuple[T, T, T]:
    """Return the three values of an iterable, one for each axis. Raises ValueError if there are not three."""
    first, second, third = values
    return first, second, third


class Box(NamedTuple):
    """Voxel indices from ``start`` (inclusive) to ``stop`` (exclusive), each (z, y, x)."""

    start: Index3D
    stop: Index3D

    @property
    def shape(self) -> Index3D:
        """Number of voxels on each axis (z, y, x)."""
        return triple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box into an array: ``array[box.slices]``."""
        return triple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def contains(self, other: "Box") -> bool:
        """Return True if no voxel of ``other`` lies outside this box."""
        return all(a <= c and d <= b for a, b, c, d in zip(*self, *other, strict=True))


def whole_box(shape: Sequence[int]) -> Box:
    """Return the box of a whole array (D, H, W)."""
    return Box((0, 0, 0), triple(int(n) for n in shape))


def bounding_box(mask: np.ndarray) -> Box | None:
    """Return the smallest box around the non-zero voxels of a mask (D, H, W), or None if there are none."""
    start, stop = [], []
    for axis in range(3):
        filled = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if filled.size == 0:
            return None
        start.append(int(filled[0]))
        stop.append(int(filled[-1]) + 1)
    return Box(triple(start), triple(stop))


def filled_rows(plane: np.ndarray) -> slice:
    """Return the rows of a plane (H, W) from the first to the last one that is not all 0; none if all are."""
    rows = np.flatnonzero(plane.any(axis=1))
    return slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0)


def enlarge(
    box: Box, low: Sequence[float], high: Sequence[float], shape: Sequence[int], multiple: Sequence[float] = (1, 1, 1)
) -> Box:
    """Move the faces of a box outwards, round its shape up to a multiple and keep it inside the scan.

    Args:
        box: Box to enlarge.
        low: Voxels (z, y, x) by which the lower faces move outwards. Negative values move them inwards, but by no
            more than a quarter of the box, so that its middle half always stays inside.
        high: The same for the upper faces.
        shape: Shape of the scan (D, H, W).
        multiple: Each side of the result is a multiple of this length (z, y, x), rounded down to whole voxels, wherever
            the scan is long enough. Elsewhere the result spans the whole axis, and whoever reads it has to pad it.

    Returns:
        The enlarged box. It lies inside the scan.
    """
    start, stop = [], []
    for a, b, below, above, size, unit in zip(*box, low, high, shape, multiple, strict=True):
        most_inwards = (b - a) / 4
        first = max(0, int(np.floor(a - max(below, -most_inwards))))
        last = min(size, int(np.ceil(b + max(above, -most_inwards))))
        length = min(size, int(np.floor(np.ceil((last - first) / unit) * unit + 1e-6)))
        first = min(max(0, first - (length - (last - first)) // 2), size - length)
        start.append(first)
        stop.append(first + length)
    return Box(triple(start), triple(stop))


def union(first: Box, second: Box) -> Box:
    """Return the smallest box that contains both boxes."""
    return Box(triple(map(min, first.start, second.start)), triple(map(max, first.stop, second.stop)))
