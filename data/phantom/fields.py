"""Shapes and smooth noise as coarse fields that can be sampled on any voxel grid.

A field holds values on nodes a few mm apart and is sampled on the rectangular grid of a scan by one small matrix per
axis. The same anatomy therefore serves voxels of 2.5 mm and of 0.7 mm, and a long scan can be rendered slab by slab.
All points and axes are in mm, in the order (z, y, x).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.sparse import csr_array

Axes = tuple[np.ndarray, ...]  # increasing coordinates of a rectangular grid along z, y and x, in mm
Point = Sequence[float] | np.ndarray  # one number per axis, or per column of a curve
Points = Sequence[Point] | np.ndarray

REACH_MM = 12.0  # signed distances are followed up to here and constant beyond


@dataclass(frozen=True)
class Field:
    """Values on a coarse grid of nodes, interpolated linearly or by a cubic B-spline.

    Attributes:
        start: Position (z, y, x) of the first node in mm.
        step: Distance (z, y, x) between nodes in mm.
        values: Values at the nodes, float32, three axes.
        cubic: Whether to interpolate by a cubic B-spline, whose coefficients are then ``values``.
    """

    start: np.ndarray
    step: np.ndarray
    values: np.ndarray
    cubic: bool = False

    @property
    def stop(self) -> np.ndarray:
        """Position (z, y, x) of the last node in mm."""
        return self.start + self.step * (np.array(self.values.shape) - 1)

    def covered_part(self, axes: Axes) -> tuple[slice, ...]:
        """Find the part of the grid ``axes`` that the nodes cover."""
        ends = zip(axes, self.start, self.stop, strict=True)
        return tuple(slice(*np.searchsorted(axis, (low, high + 1e-9))) for axis, low, high in ends)

    def sample(self, axes: Axes) -> np.ndarray:
        """Interpolate on a rectangular grid.

        Returns:
            float32 array of shape (len(z), len(y), len(x)); zero far outside the nodes.
        """
        shape = zip(axes, self.start, self.step, self.values.shape, strict=True)
        wz, wy, wx = (_weights((axis - start) / step, n, self.cubic) for axis, start, step, n in shape)
        used = np.flatnonzero(wz.any(axis=0))
        needed = slice(used.min(), used.max() + 1) if used.size else slice(0, 1)
        values = self.values[needed]  # (C, R, Q)
        c, r, q = values.shape
        # From the finest axis to the slices: then the one large product has its result in the final order already.
        # Sparse products are exact for the few terms and use one thread, so that workers do not slow each other.
        lines = csr_array(wx) @ values.reshape(c * r, q).T  # (nx, C R)
        planes = csr_array(wy) @ lines.reshape(-1, c, r).transpose(2, 1, 0).reshape(r, -1)  # (ny, C nx)
        columns = planes.reshape(len(axes[1]), c, -1).transpose(1, 0, 2).reshape(c, -1)  # (C, ny nx)
        return (csr_array(wz[:, needed]) @ columns).reshape([len(axis) for axis in axes])


def _weights(position: np.ndarray, count: int, cubic: bool) -> np.ndarray:
    """Compute the weight of each of ``count`` nodes at each position (in steps): (len(position), count) float32."""
    away = np.abs(position[:, None] - np.arange(count))
    if cubic:
        near, far = 2 / 3 - away**2 + away**3 / 2, np.maximum(2 - away, 0) ** 3 / 6
        return np.where(away < 1, near, far).astype(np.float32)
    return np.maximum(1 - away, 0).astype(np.float32)


def node_axes(low: Point, high: Point, step: float) -> Axes:
    """Make the coordinates of nodes ``step`` mm apart that start at ``low`` and cover the box up to ``high``."""
    return tuple(a + step * np.arange(int(np.ceil((b - a) / step)) + 1) for a, b in zip(low, high, strict=True))


def smooth_noise(rng: np.random.Generator, low: Point, high: Point, grain: float) -> Field:
    """Draw a random field of mean 0 and standard deviation about 1 over a box.

    Args:
        rng: Source of randomness.
        low: Lower corner (z, y, x) of the box in mm.
        high: Upper corner of the box in mm.
        grain: Scale of the noise in mm.
    """
    axes = node_axes(np.subtract(low, 2 * grain), np.add(high, 2 * grain), grain)
    values = rng.standard_normal([len(axis) for axis in axes], dtype=np.float32)
    # The squared weights of the B-spline sum to 0.4795 per axis on average; this factor keeps the deviation at 1.
    values *= np.float32(0.4795**-1.5)
    return Field(np.array([axis[0] for axis in axes]), np.full(3, float(grain)), values, cubic=True)


def roughen(field: Field, rng: np.random.Generator, grain: float, amount: float) -> Field:
    """Shift the surface of a shape at random, by a standard deviation of ``amount`` mm at the scale ``grain`` mm."""
    axes = tuple(a + s * np.arange(n) for a, s, n in zip(field.start, field.step, field.values.shape, strict=True))
    noise = smooth_noise(rng, field.start, field.stop, grain).sample(axes)
    return Field(field.start, field.step, field.values + np.float32(amount) * noise)


def ellipsoid(centre: Point, radii: Point, step: float = 4.0) -> Field:
    """Compute the signed distance of an ellipsoid along the axes, negative inside and exact to first order.

    Args:
        centre: Centre (z, y, x) in mm.
        radii: Half axes (z, y, x) in mm.
        step: Distance between nodes in mm.
    """
    middle, half = np.asarray(centre, float), np.asarray(radii, float)
    axes = node_axes(middle - half - REACH_MM, middle + half + REACH_MM, step)
    offset = np.meshgrid(*(axis - c for axis, c in zip(axes, middle, strict=True)), indexing="ij", sparse=True)
    scaled = np.sqrt(sum((p / r) ** 2 for p, r in zip(offset, half, strict=True)))
    slope = np.sqrt(sum((p / r**2) ** 2 for p, r in zip(offset, half, strict=True)))
    distance = scaled * (scaled - 1) / np.maximum(slope, 1e-6)
    distance[slope < 1e-6] = -half.min()
    return Field(np.array([axis[0] for axis in axes]), np.full(3, float(step)), distance.astype(np.float32))


def curve(points: Points, every: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Sample a spline through points.

    Args:
        points: Shape (n, k). The first three columns are (z, y, x); others, such as a radius, are interpolated along.
        every: Distance between samples in mm.

    Returns:
        The samples (m, k), and their positions along the curve from 0 to 1 (m,).
    """
    knots = np.asarray(points, float)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots[:, :3], axis=0), axis=1))])
    spline = make_interp_spline(length, knots, k=min(3, len(knots) - 1))
    position = np.linspace(0, 1, max(2, int(length[-1] / every)))
    return spline(position * length[-1]), position


def tubes(samples: Points, step: float = 2.0) -> Field:
    """Compute the signed distance of a union of balls, negative inside.

    Args:
        samples: The balls, shape (n, 4): centre (z, y, x) and radius in mm.
        step: Distance between nodes in mm.
    """
    balls = np.asarray(samples, float)
    reach = balls[:, 3:] + REACH_MM
    low, high = (balls[:, :3] - reach).min(axis=0), (balls[:, :3] + reach).max(axis=0)
    axes = node_axes(low, high, step)
    values = np.full([len(axis) for axis in axes], REACH_MM, np.float32)
    first = np.maximum(np.ceil((balls[:, :3] - reach - low) / step), 0).astype(int)
    last = np.floor((balls[:, :3] + reach - low) / step).astype(int) + 1
    for (z, y, x, radius), a, b in zip(balls, first, last, strict=True):
        box = tuple(slice(i, j) for i, j in zip(a, b, strict=True))
        square = [((axis[s] - c) ** 2).astype(np.float32) for axis, s, c in zip(axes, box, (z, y, x), strict=True)]
        away = np.sqrt(square[0][:, None, None] + square[1][:, None] + square[2]) - np.float32(radius)
        np.minimum(values[box], away, out=values[box])
    return Field(low, np.full(3, float(step)), values)


def level_of_volume(field: Field, volume: float) -> float:
    """Find the level of a signed distance in mm below which the field encloses ``volume`` ml."""
    cells = round(volume * 1000 / float(np.prod(field.step)))
    flat = field.values.ravel()
    return float(np.partition(flat, min(cells, flat.size - 1))[min(cells, flat.size - 1)])
