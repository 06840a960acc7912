"""The voxel grid of a scan, and the way of an array from its file into a prepared case and back.

Three arrays show the same scan:

- The *file's array* (z, y, x) has the axes that the scanner or the exporting program chose.
- The *whole scan* (D, H, W) has the same voxels with its axes in LPS order: D grows towards the head, H towards the
  back and W towards the patient's left. Axes are permuted and flipped; nothing is interpolated, so the axes of an
  oblique scan are those nearest to the patient's.
- The *prepared array* (D, H, W) is the part of the whole scan that a prepared case stores: a box of it, resampled to
  another shape if the preparation asks for a spacing. Without a ``Part`` it is the whole scan itself.

A ``Grid`` knows all three, so that a mask made on a prepared case can be written on the grid of the scan's own file::

    file's array  ──to_lps──▶  whole scan  ──to_prepared──▶  prepared array
          ▲                                                        │
          └──────────────────────── to_file ───────────────────────┘

Without a part nothing is lost: ``to_file(to_lps(array))`` is the file's array. With a part, ``to_file`` fills the
voxels outside it with 0 and takes the nearest voxel inside it, so that ``to_prepared(to_lps(to_file(mask)))`` is the
prepared mask unless the part is finer than the scan, which cannot hold its details.

World coordinates are those of SimpleITK and DICOM (LPS, mm).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations

import numpy as np

from data.common.memory import zeros
from data.scans.boxes import Index3D, triple

Vector3D = tuple[float, float, float]

# How far apart the voxel centres of two files on the same grid may lie, along each axis of the scan, in voxels.
# Measured on 512 x 512 x 300 voxels of 0.7 x 0.7 x 1 mm at all angles: an affine rounded to 4 decimals lies up to 0.083
# from the exact one and 0.058 from its own nearest rotation; to 5 decimals 0.008; float32 below 1e-4. A quaternion
# (NIfTI's qform without sform) stays within it, unless it turns by 179.95 to 179.999 degrees, as oblique scans rarely
# do: there float32 loses up to 0.65.
SAME_GRID_VOXELS = 0.1


@dataclass(frozen=True)
class Frame:
    """Where the voxels of an array in LPS order lie.

    Attributes:
        shape: Shape (D, H, W) of the array.
        spacing: Voxel spacing (z, y, x) in mm.
        origin: World position (x, y, z) of the centre of the array's first voxel, in mm.
        direction: Direction cosines of the array's axes (x, y, z), row by row.
    """

    shape: Index3D
    spacing: Vector3D
    origin: Vector3D
    direction: tuple[float, ...]

    def corners(self, edge: float = 0.0) -> np.ndarray:
        """Return the world positions of the eight corners.

        Args:
            edge: Voxels by which the corners lie outside the centres of the corner voxels; 0.5 gives the outer faces.

        Returns:
            Positions (x, y, z) in mm, shape (8, 3).
        """
        return np.array(self.origin) + self._corner_voxels(edge) @ self._steps.T

    def find_on(self, other: "Frame") -> tuple[Index3D, float]:
        """Find these voxels among those of another frame.

        This is the only comparison of two grids: they have common voxels if the offset is at most SAME_GRID_VOXELS,
        and are the same if, further, the shapes agree and the first voxel is (0, 0, 0).

        Returns:
            The voxel (z, y, x) of the other frame that is nearest to the first one of this, and the largest offset of
            a voxel from the one of the other frame that corresponds to it then, along any axis, in voxels.
        """
        inverse = np.linalg.inv(other._steps)
        voxels = (self.corners() - np.array(other.origin)) @ inverse.T - self._corner_voxels()
        start = np.rint((voxels.min(axis=0) + voxels.max(axis=0)) / 2)
        return triple(int(n) for n in start[::-1]), float(np.abs(voxels - start).max())

    def describe_offset(self, other: "Frame") -> str:
        """Return how far the voxels are from those of another frame, and what is tolerated, for messages."""
        start, offset = self.find_on(other)
        if offset <= SAME_GRID_VOXELS:
            steps = ", ".join(str(n) for n in start[::-1])
            return f"shifted by ({steps}) whole voxels along (x, y, z)"
        millimetres = float(offset * max(other.spacing))
        return f"voxels off by {offset:.2g} of a voxel (at most {millimetres:.2g} mm), tolerance {SAME_GRID_VOXELS}"

    def describe(self) -> str:
        """Return the shape (x, y, z), spacing and origin as a phrase for messages."""
        shape = "x".join(map(str, self.shape[::-1]))
        spacing = "x".join(f"{s:.3g}" for s in self.spacing[::-1])
        return f"{shape} voxels of {spacing} mm from ({', '.join(f'{o:.1f}' for o in self.origin)})"

    @property
    def _steps(self) -> np.ndarray:
        """Steps from voxel to voxel along x, y and z in mm, as columns (3, 3)."""
        return np.array(self.direction).reshape(3, 3) * self.spacing[::-1]

    def _corner_voxels(self, edge: float = 0.0) -> np.ndarray:
        last = np.array(self.shape[::-1]) - 1.0
        return np.array([[(-edge, n + edge)[bit >> a & 1] for a, n in enumerate(last)] for bit in range(8)])


@dataclass(frozen=True)
class Part:
    """The part of a whole scan that was prepared.

    Attributes:
        start: First voxel (z, y, x) of the part's box in the whole scan.
        stop: The voxel (z, y, x) after the last one.
        shape: Shape (D, H, W) to which the box was resampled; that of the box itself if it was only cropped.
    """

    start: Index3D
    stop: Index3D
    shape: Index3D

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the part's box into the whole scan."""
        return triple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True)
class Grid:
    """The voxel grid of a scan's file, and the part of it that was prepared.

    Attributes:
        size: Voxels of the file along its own axes (x, y, z), as SimpleITK gives them.
        spacing: Voxel spacing along the same axes in mm.
        origin: World position of the centre of the file's first voxel, in mm.
        direction: Direction cosines of the file's axes, row by row; column ``a`` is the direction of axis ``a``.
        order: ``order[i]`` is the file's axis that becomes axis ``i`` of the whole scan in (x, y, z) order.
        flips: ``flips[i]`` is True if that axis runs in the opposite direction in the file.
        part: The prepared part; None if the whole scan was prepared as it is.
    """

    size: Index3D
    spacing: Vector3D
    origin: Vector3D
    direction: tuple[float, ...]
    order: Index3D
    flips: tuple[bool, bool, bool]
    part: Part | None = None

    @staticmethod
    def of(
        size: Sequence[int], spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]
    ) -> "Grid":
        """Make the grid of a file from its header; the order and flips of the axes follow from the direction."""
        axes = np.array(direction).reshape(3, 3)
        order = max(permutations(range(3)), key=lambda p: sum(abs(axes[i, p[i]]) for i in range(3)))
        flips = triple(bool(axes[i, order[i]] < 0) for i in range(3))
        return Grid(triple(size), triple(spacing), triple(origin), tuple(direction), triple(order), flips)

    @staticmethod
    def plain(shape: Index3D, spacing: Vector3D) -> "Grid":
        """Make the grid of an LPS array (D, H, W) with spacing (z, y, x) in mm whose first voxel is the origin."""
        size, spacing_xyz = [int(n) for n in reversed(shape)], [float(s) for s in reversed(spacing)]
        return Grid.of(size, spacing_xyz, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))

    def to_json(self) -> dict:
        """Return the fields as JSON can store them."""
        fields = asdict(self)
        if self.part is None:
            del fields["part"]
        return fields

    @staticmethod
    def from_json(fields: dict) -> "Grid":
        """Invert ``to_json``, also after the fields were stored as JSON, which turns tuples into lists."""
        own = {key: tuple(value) for key, value in fields.items() if key != "part"}
        part = fields.get("part")
        return Grid(**own, part=part and Part(**{key: tuple(value) for key, value in part.items()}))

    def to_lps(self, array: np.ndarray) -> np.ndarray:
        """Reorder the file's array (z, y, x) to the whole scan (D, H, W), contiguous in memory."""
        return np.ascontiguousarray(array.T.transpose(self.order)[self._steps].T)

    def to_prepared(self, array: np.ndarray) -> np.ndarray:
        """Crop and resample labels of the whole scan (D, H, W) to the prepared array, by nearest neighbour."""
        return array if self.part is None else resample_nearest(array[self.part.slices], self.part.shape)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """Put a prepared array onto the file's grid.

        Args:
            array: Array of shape ``prepared_shape``.

        Returns:
            The file's array (z, y, x). A resampled part is sampled at the nearest voxels; outside the part it is 0.
        """
        if self.part is not None:
            whole = zeros(self.lps_shape, array.dtype)
            region = whole[self.part.slices]
            region[...] = resample_nearest(array, region.shape)
            array = whole
        return np.ascontiguousarray(self.in_file_order(array))

    def in_file_order(self, array: np.ndarray) -> np.ndarray:
        """Return a view of the whole scan (D, H, W) with the axes of the file's array (z, y, x)."""
        return array.T[self._steps].transpose(np.argsort(self.order)).T

    @property
    def _steps(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)

    @property
    def lps_shape(self) -> Index3D:
        """Shape (D, H, W) of the whole scan."""
        return triple(self.size[axis] for axis in reversed(self.order))

    @property
    def prepared_shape(self) -> Index3D:
        """Shape (D, H, W) of the prepared array."""
        return self.part.shape if self.part else self.lps_shape

    @property
    def orientation(self) -> str:
        """Directions in which the file's axes run, by the nearest of the patient's, such as LPS or RAS."""
        letters = [("R" if f else "L", "A" if f else "P", "I" if f else "S")[i] for i, f in enumerate(self.flips)]
        return "".join(letters[self.order.index(axis)] for axis in range(3))

    def lps_frame(self) -> tuple[Vector3D, Vector3D, tuple[float, ...]]:
        """Return spacing (z, y, x), origin (x, y, z) and direction (row by row) of the whole scan."""
        axes, order, flips = np.array(self.direction).reshape(3, 3), list(self.order), np.array(self.flips)
        spacing, size = np.array(self.spacing)[order], np.array(self.size)[order]
        origin = np.array(self.origin) + axes[:, order] @ (flips * spacing * (size - 1))
        direction = axes[:, order] * np.where(flips, -1.0, 1.0) + 0.0  # adding 0 turns -0.0 into 0.0
        return triple(map(float, spacing[::-1])), triple(map(float, origin)), tuple(map(float, direction.ravel()))

    @property
    def frame(self) -> Frame:
        """Where the voxels of the whole scan lie."""
        return Frame(self.lps_shape, *self.lps_frame())

    def prepared_grid(self) -> "Grid":
        """Return the grid on which the prepared array itself lies.

        It has no part and, if this grid has one, LPS order. The outer faces of the part are those of its box in the
        whole scan, whatever its spacing.
        """
        if self.part is None:
            return self
        spacing, origin, direction = self.lps_frame()
        start, stop, shape = (np.array(values[::-1]) for values in (self.part.start, self.part.stop, self.part.shape))
        scan_spacing, axes = np.array(spacing[::-1]), np.array(direction).reshape(3, 3)
        step = (stop - start) / shape  # from voxel to voxel of the part, in voxels of the whole scan
        first = np.array(origin) + axes @ ((start + step / 2 - 0.5) * scan_spacing)
        return Grid.of(shape.tolist(), (step * scan_spacing).tolist(), first.tolist(), direction)


def resample_nearest(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resample an array (D, H, W) to another shape by nearest neighbour; the outer faces stay where they are."""
    if array.shape == tuple(shape):
        return array
    index = [((2 * np.arange(n) + 1) * old) // (2 * n) for n, old in zip(shape, array.shape, strict=True)]
    return array[np.ix_(*index)]


def volume_ml(mask: np.ndarray, spacing: Sequence[float]) -> float:
    """Return the volume in ml of the non-zero voxels of a mask (D, H, W) with spacing (z, y, x) in mm."""
    return np.count_nonzero(mask) * float(np.prod(spacing)) / 1000


def ball_diameter(volumes_ml: np.ndarray | float) -> np.ndarray:
    """Return the diameters in mm of the balls that have these volumes in ml."""
    return np.cbrt(6000 * np.asarray(volumes_ml) / np.pi)
