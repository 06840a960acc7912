"""Shapes and smooth noise of the phantom as coarse fields, which any voxel grid can be sampled from.

A field holds values on nodes a few mm apart. It is sampled on the rectangular grid of a scan by one small
matrix per axis, so that the same anatomy serves 2.5 mm and 0.7 mm voxels and a scan can be made slab by slab.
All points and axes are (z, y, x) in mm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.sparse import csr_array

Axes = tuple[np.ndarray, np.ndarray, np.ndarray]
FAR = 12.0  # mm: beyond this a signed distance is not followed


@dataclass(frozen=True)
class Field:
    """Values (C, R, Q) on nodes at ``start + step * index``; between them linear, or a cubic B-spline."""

    start: np.ndarray
    step: np.ndarray
    values: np.ndarray
    cubic: bool = False

    @property
    def stop(self) -> np.ndarray:
        return self.start + self.step * (np.array(self.values.shape) - 1)

    def window(self, axes: Axes) -> tuple[slice, slice, slice]:
        """The part of the grid ``axes`` (increasing coordinates) which this field covers."""
        ends = zip(axes, self.start, self.stop, strict=True)
        return tuple(slice(*np.searchsorted(axis, (low, high + 1e-9))) for axis, low, high in ends)

    def at(self, axes: Axes) -> np.ndarray:
        """Sample on a rectangular grid: float32 (len(z), len(y), len(x)); zero far outside the nodes."""
        shape = zip(axes, self.start, self.step, self.values.shape, strict=True)
        wz, wy, wx = (_weights((axis - start) / step, n, self.cubic) for axis, start, step, n in shape)
        used = np.flatnonzero(wz.any(axis=0))
        near = slice(used.min(), used.max() + 1) if used.size else slice(0, 1)
        values = self.values[near]  # (C, R, Q), only what these slices need
        c, r, q = values.shape
        # From the finest axis to the slices: the one large product then has its result in its final order.
        # Sparse products are exact copies of few terms and use one thread, so workers do not slow each other.
        lines = csr_array(wx) @ values.reshape(c * r, q).T  # (nx, C R)
        planes = csr_array(wy) @ lines.reshape(-1, c, r).transpose(2, 1, 0).reshape(r, -1)  # (ny, C nx)
        columns = planes.reshape(len(axes[1]), c, -1).transpose(1, 0, 2).reshape(c, -1)  # (C, ny nx)
        return (csr_array(wz[:, near]) @ columns).reshape([len(axis) for axis in axes])


def _weights(position: np.ndarray, count: int, cubic: bool) -> np.ndarray:
    """Weight of each of ``count`` nodes at each position (in steps): (len(position), count) float32."""
    away = np.abs(position[:, None] - np.arange(count))
    if cubic:
        near, far = 2 / 3 - away**2 + away**3 / 2, np.maximum(2 - away, 0) ** 3 / 6
        return np.where(away < 1, near, far).astype(np.float32)
    return np.maximum(1 - away, 0).astype(np.float32)


def nodes(low: Sequence[float], high: Sequence[float], step: float) -> Axes:
    """Node coordinates per axis which cover ``low`` to ``high``."""
    return tuple(a + step * np.arange(int(np.ceil((b - a) / step)) + 1) for a, b in zip(low, high, strict=True))


def smooth_noise(rng: np.random.Generator, low: Sequence[float], high: Sequence[float], grain: float) -> Field:
    """Random field of mean 0 and sd about 1 over the box ``low`` to ``high``, smooth at the scale ``grain`` mm."""
    axes = nodes(np.subtract(low, 2 * grain), np.add(high, 2 * grain), grain)
    values = rng.standard_normal([len(axis) for axis in axes], dtype=np.float32)
    # The B-spline's weights squared sum to 0.4795 per axis on average: their inverse keeps the sd at 1.
    values *= np.float32(0.4795**-1.5)
    return Field(np.array([axis[0] for axis in axes]), np.full(3, float(grain)), values, cubic=True)


def roughen(field: Field, rng: np.random.Generator, grain: float, amount: float) -> Field:
    """The shape with a surface that wanders by about ``amount`` mm (sd) at the scale ``grain`` mm."""
    axes = tuple(a + s * np.arange(n) for a, s, n in zip(field.start, field.step, field.values.shape, strict=True))
    noise = smooth_noise(rng, field.start, field.stop, grain).at(axes)
    return Field(field.start, field.step, field.values + np.float32(amount) * noise)


def ellipsoid(centre: Sequence[float], radii: Sequence[float], step: float = 4.0) -> Field:
    """Signed distance (negative inside, approximate to first order) of an ellipsoid along the axes."""
    centre, radii = np.asarray(centre, float), np.asarray(radii, float)
    axes = nodes(centre - radii - FAR, centre + radii + FAR, step)
    offset = np.meshgrid(*(axis - c for axis, c in zip(axes, centre, strict=True)), indexing="ij", sparse=True)
    scaled = np.sqrt(sum((p / r) ** 2 for p, r in zip(offset, radii, strict=True)))
    slope = np.sqrt(sum((p / r**2) ** 2 for p, r in zip(offset, radii, strict=True)))
    distance = scaled * (scaled - 1) / np.maximum(slope, 1e-6)
    distance[slope < 1e-6] = -radii.min()
    return Field(np.array([axis[0] for axis in axes]), np.full(3, float(step)), distance.astype(np.float32))


def curve(points: Sequence[Sequence[float]], every: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """A spline through ``points`` (n, k), whose first 3 columns are (z, y, x): samples ``every`` mm.

    Returns:
        The samples (m, k), further columns (radii, say) going along; and their place 0..1 on the curve (m,).
    """
    points = np.asarray(points, float)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points[:, :3], axis=0), axis=1))])
    spline = make_interp_spline(length, points, k=min(3, len(points) - 1))
    place = np.linspace(0, 1, max(2, int(length[-1] / every)))
    return spline(place * length[-1]), place


def tubes(samples: np.ndarray, step: float = 2.0) -> Field:
    """Signed distance of the union of balls: ``samples`` (n, 4) are z, y, x, radius."""
    samples = np.asarray(samples, float)
    reach = samples[:, 3:] + FAR
    low, high = (samples[:, :3] - reach).min(axis=0), (samples[:, :3] + reach).max(axis=0)
    axes = nodes(low, high, step)
    values = np.full([len(axis) for axis in axes], FAR, np.float32)
    first = np.maximum(np.ceil((samples[:, :3] - reach - low) / step), 0).astype(int)
    last = np.floor((samples[:, :3] + reach - low) / step).astype(int) + 1
    for (z, y, x, radius), a, b in zip(samples, first, last, strict=True):
        box = tuple(slice(i, j) for i, j in zip(a, b, strict=True))
        square = [((axis[s] - c) ** 2).astype(np.float32) for axis, s, c in zip(axes, box, (z, y, x), strict=True)]
        away = np.sqrt(square[0][:, None, None] + square[1][:, None] + square[2]) - np.float32(radius)
        np.minimum(values[box], away, out=values[box])
    return Field(low, np.full(3, float(step)), values)


def volume_offset(field: Field, volume: float) -> float:
    """The level of a signed distance field below which it holds ``volume`` ml: shift by it to set the size."""
    cells = round(volume * 1000 / float(np.prod(field.step)))
    flat = field.values.ravel()
    return float(np.partition(flat, min(cells, flat.size - 1))[min(cells, flat.size - 1)])
