"""The voxel grid of a scan's file and the way between it and the LPS array inside; needs numpy only."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations

import numpy as np


@dataclass(frozen=True)
class Part:
    """What of a scan's LPS array was prepared: its box ``start`` to ``stop`` (z, y, x), resampled to ``shape``."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]
    shape: tuple[int, int, int]

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True)
class Grid:
    """A file's own voxel grid, verbatim (SimpleITK's words: x, y, z; direction row by row, LPS world, mm).

    ``order[i]`` is the file axis that runs along axis i of the (x, y, z) LPS array, ``flips[i]`` whether it runs
    backwards. ``part`` is set where a case was cropped or resampled when it was prepared.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    part: Part | None = None

    @staticmethod
    def of(
        size: tuple[int, ...], spacing: tuple[float, ...], origin: tuple[float, ...], direction: tuple[float, ...]
    ) -> "Grid":
        """The grid of a file whose header says so; which axes run where is read from its direction."""
        axes = np.array(direction).reshape(3, 3)
        order = max(permutations(range(3)), key=lambda p: sum(abs(axes[i, p[i]]) for i in range(3)))
        flips = tuple(bool(axes[i, order[i]] < 0) for i in range(3))
        return Grid(size, spacing, origin, direction, order, flips)

    @staticmethod
    def plain(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> "Grid":
        """That of an LPS array (D, H, W) with spacing (z, y, x) mm which starts at the origin."""
        size, spacing = tuple(int(n) for n in reversed(shape)), tuple(float(s) for s in reversed(spacing))
        return Grid.of(size, spacing, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))

    def to_json(self) -> dict:
        fields = asdict(self)
        if self.part is None:
            del fields["part"]
        return fields

    @staticmethod
    def from_json(fields: dict) -> "Grid":
        """The inverse of ``to_json``, also after a way through JSON, which turns tuples into lists."""
        own = {key: tuple(value) for key, value in fields.items() if key != "part"}
        part = fields.get("part")
        return Grid(**own, part=part and Part(**{key: tuple(value) for key, value in part.items()}))

    def to_lps(self, array: np.ndarray) -> np.ndarray:
        """The file's array (z, y, x) as a contiguous LPS array (D, H, W), whole whatever ``part`` is."""
        return np.ascontiguousarray(array.T.transpose(self.order)[self._steps].T)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """The prepared array (``prepared_shape``) as the file's (z, y, x): nearest voxels, 0 outside the part."""
        return np.ascontiguousarray(self.in_file_order(self._put_back(array)))

    def in_file_order(self, array: np.ndarray) -> np.ndarray:
        """A view of a whole LPS array (D, H, W) with the file's axes (z, y, x)."""
        return array.T[self._steps].transpose(np.argsort(self.order)).T

    def prepared_grid(self) -> "Grid":
        """The grid that the prepared array lies on: this one, or, cropped or resampled, its part's own, in LPS."""
        if self.part is None:
            return self
        spacing, origin, direction = self.lps_frame()
        start, stop, shape = (np.array(values[::-1]) for values in (self.part.start, self.part.stop, self.part.shape))
        voxels = (stop - start) / shape  # of the scan, per voxel of the part; outer faces coincide
        axes, scanned = np.array(direction).reshape(3, 3), np.array(spacing[::-1])
        first = np.array(origin) + axes @ ((start + voxels / 2 - 0.5) * scanned)
        return Grid.of(tuple(shape.tolist()), tuple((voxels * scanned).tolist()), tuple(first.tolist()), direction)

    def to_prepared(self, array: np.ndarray) -> np.ndarray:
        """The part that was prepared, out of a whole LPS array of labels (D, H, W): nearest voxels."""
        return array if self.part is None else nearest(array[self.part.slices], self.part.shape)

    def _put_back(self, array: np.ndarray) -> np.ndarray:
        if self.part is None:
            return array
        whole = np.zeros(self.lps_shape, array.dtype)
        region = whole[self.part.slices]
        region[...] = nearest(array, region.shape)
        return whole

    @property
    def prepared_shape(self) -> tuple[int, int, int]:
        """Shape (D, H, W) of the array inside: of the part where there is one, else of the whole scan."""
        return self.part.shape if self.part else self.lps_shape

    @property
    def _steps(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)

    @property
    def orientation(self) -> str:
        """Where the file's axes point, by the nearest direction, such as LPS or RAS (towards right, front, head)."""
        letters = [("R" if f else "L", "A" if f else "P", "I" if f else "S")[i] for i, f in enumerate(self.flips)]
        return "".join(letters[self.order.index(axis)] for axis in range(3))

    @property
    def lps_shape(self) -> tuple[int, int, int]:
        return tuple(self.size[axis] for axis in reversed(self.order))

    def lps_frame(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
        """Spacing (z, y, x), origin (x, y, z) and direction (row by row) of the LPS array."""
        axes, order, flips = np.array(self.direction).reshape(3, 3), list(self.order), np.array(self.flips)
        spacing, size = np.array(self.spacing)[order], np.array(self.size)[order]
        origin = np.array(self.origin) + axes[:, order] @ (flips * spacing * (size - 1))
        direction = axes[:, order] * np.where(flips, -1.0, 1.0) + 0.0  # no -0.0
        return tuple(map(float, spacing[::-1])), tuple(map(float, origin)), tuple(map(float, direction.ravel()))


def nearest(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The array (D, H, W) resampled to ``shape`` with the outer faces kept: each voxel takes the one at its centre."""
    if array.shape == tuple(shape):
        return array
    index = [((2 * np.arange(n) + 1) * old) // (2 * n) for n, old in zip(shape, array.shape, strict=True)]
    return array[np.ix_(*index)]


def volume_ml(mask: np.ndarray, spacing: Sequence[float]) -> float:
    """Volume in ml of a mask (D, H, W) whose voxels have the ``spacing`` (z, y, x) in mm."""
    return np.count_nonzero(mask) * float(np.prod(spacing)) / 1000
