"""Boxes on the voxel grid: around a mask, enlarged in mm, rounded outwards, always inside the scan.

A box is half open, ``start <= index < stop`` per axis (z, y, x), so that its last voxel is never lost and its
shape is ``stop - start``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Index3D = tuple[int, int, int]


class Box(NamedTuple):
    """Voxel indices ``start`` (inclusive) to ``stop`` (exclusive), each (z, y, x)."""

    start: Index3D
    stop: Index3D

    @property
    def shape(self) -> Index3D:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index an array with it: ``array[box.slices]``."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def contains(self, other: "Box") -> bool:
        return all(a <= c and d <= b for a, b, c, d in zip(*self, *other, strict=True))


def whole(shape: Sequence[int]) -> Box:
    """The box of a whole array."""
    return Box((0, 0, 0), tuple(int(n) for n in shape))


def bounding_box(mask: np.ndarray) -> Box | None:
    """The smallest box around the non-zero voxels of ``mask`` (D, H, W); None where there are none."""
    start, stop = [], []
    for axis in range(3):
        filled = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if filled.size == 0:
            return None
        start.append(int(filled[0]))
        stop.append(int(filled[-1]) + 1)
    return Box(tuple(start), tuple(stop))


def enlarge(box: Box, low: Sequence[float], high: Sequence[float], shape: Sequence[int], multiple: int = 8) -> Box:
    """Move the faces of ``box`` outwards, round its shape up to ``multiple`` and keep it inside the scan.

    Args:
        box: what to enlarge.
        low, high: voxels (z, y, x) by which the lower and upper faces move outwards; negative moves inwards, but
            never further than a quarter of the box from either side, so that its middle half always stays inside.
        shape: the scan's shape; the result lies inside it.
        multiple: each side is a multiple of this wherever the scan is long enough, else the whole axis
            (the reader pads it).
    """
    start, stop = [], []
    for a, b, below, above, size in zip(*box, low, high, shape, strict=True):
        most = (b - a) / 4
        first = max(0, int(np.floor(a - max(below, -most))))
        last = min(size, int(np.ceil(b + max(above, -most))))
        length = min(size, -(-(last - first) // multiple) * multiple)
        first = min(max(0, first - (length - (last - first)) // 2), size - length)
        start.append(first)
        stop.append(first + length)
    return Box(tuple(start), tuple(stop))


def centred(shape: Sequence[int], size: Sequence[int]) -> Box:
    """The box of at most ``size`` voxels about the centre of a scan of ``shape``."""
    length = [min(int(n), int(s)) for n, s in zip(shape, size, strict=True)]
    start = tuple((int(n) - m) // 2 for n, m in zip(shape, length, strict=True))
    return Box(start, tuple(a + m for a, m in zip(start, length, strict=True)))


def union(first: Box, second: Box) -> Box:
    """The smallest box that holds both."""
    return Box(tuple(map(min, first.start, second.start)), tuple(map(max, first.stop, second.stop)))
