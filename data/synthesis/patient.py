"""A randomised patient from a seed: anatomy, deformation, field of view, attenuation, acquisition."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from data.phantom.anatomy import Tissue
from data.phantom.fields import Axes, Field, smooth_noise
from data.synthesis.acquisition import acquire, random_acquisition, resampled
from data.synthesis.materials import GLAND, Extra, Materials, random_materials
from data.synthesis.settings import Synthesis
from data.synthesis.torso import HIGH_MM, LOW_MM, Torso
from data.synthesis.torso_library import PaintedTorso, draw_torso

# The deformation: a displacement of this standard deviation in mm at this scale in mm.
BENDS = ((10.0, 130.0), (4.5, 45.0), (1.5, 18.0))
MOST_DEVIATIONS = 2.5  # a displacement is limited to so many of its standard deviations
SIZE = 0.12  # standard deviation of a patient's size along each axis, logarithmic
COARSEST_MM, FINEST_MM = 3.0, 1.0  # of the grid on which a patient is painted
SCAN_HALF_PLANE_MM = (200.0, 245.0)  # within which a patient lies, (y, x)
SEARCH_MM, SEARCH_STEP_MM = 75.0, 5.0  # how far from where it was drawn the deformed pancreas is looked for
BLUR_REACH = 2.5  # standard deviations at which the blur ends
WITH_TABLE = 0.8  # share of the scans that show the table
AIR_BELOW_HU = -700
LEAST_SEEN_MM = 12.0  # how far a scan reaches into the pancreas at least

Spacing = tuple[float, float, float]


def render_patient(
    seed: int | Sequence[int],
    settings: Synthesis,
    spacing: Spacing,
    roi_mm: tuple[float, float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a patient and scan it.

    Args:
        seed: The same seed gives the same voxels.
        settings: What varies, and how widely.
        spacing: Voxel size (z, y, x) in mm.
        roi_mm: Margin (z, y, x) in mm around the pancreas within which the patient is rendered; None for a whole scan,
            which reaches as far as scans of hospitals do: chest to pelvis, the abdomen, a part of it, or a slab.

    Returns:
        Image in HU, int16 (D, H, W), LPS; label 0/1/2, uint8, of the same shape.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    torso = draw_torso(rng, settings)
    warp = Deformation.draw(rng, settings.shape)
    materials = random_materials(rng, settings.intensity)
    low, high = _gland_extent(torso, warp)
    axes = _scan_axes(rng, low, high, spacing) if roi_mm is None else _box_axes(low, high, spacing, roi_mm)
    acquisition = resampled(random_acquisition(rng, settings.resolution), spacing)
    attenuation, label = _attenuate(rng, torso, warp, materials, axes, spacing, acquisition.blur_mm)
    if rng.random() < WITH_TABLE:
        _add_table(rng, attenuation, axes, materials)
    return acquire(rng, attenuation, spacing, acquisition), label


class Deformation:
    """A smooth random map from the positions in a scan to those in the frame of a body, in mm.

    Args:
        fields: Displacement along each axis (z, y, x) at each scale.
        deviations: Standard deviation in mm of each scale.
        size: Of the patient along each axis.
        curves: Amplitude and phase of the curve of the spine in mm, and of the width and depth of the body along z.
    """

    def __init__(
        self, fields: list[list[Field]], deviations: list[float], size: np.ndarray, curves: np.ndarray
    ) -> None:
        self.fields = fields
        self.deviations = deviations
        self.size = size
        self.curves = curves

    @staticmethod
    def draw(rng: np.random.Generator, shape: float) -> "Deformation":
        """Draw a deformation; ``shape`` 0 gives the identity."""
        low, high = np.array([LOW_MM, -260, -320]), np.array([HIGH_MM, 260, 320])
        strength = [shape * deviation * rng.uniform(0.5, 1.3) for deviation, _ in BENDS]
        fields = [[smooth_noise(rng, low, high, scale) for _ in range(3)] for _, scale in BENDS]
        size = np.exp(shape * SIZE * np.clip(rng.standard_normal(3), -2, 2))
        amplitudes = shape * rng.normal(0, (10, 0.05, 0.06))
        return Deformation(fields, strength, size, np.column_stack([amplitudes, rng.uniform(0, 2 * np.pi, 3)]))

    def __call__(self, axes: Axes) -> list[np.ndarray]:
        """Map a rectangular grid: positions (z, y, x) in the frame of the body, three arrays float32 (D, H, W)."""
        shape = tuple(len(axis) for axis in axes)
        found = []
        for number, axis in enumerate(axes):
            place = np.zeros(shape, np.float32)
            for fields, deviation in zip(self.fields, self.deviations, strict=True):
                if deviation:
                    moved = fields[number].sample(axes)
                    place += deviation * np.clip(moved, -MOST_DEVIATIONS, MOST_DEVIATIONS)
            view = [1, 1, 1]
            view[number] = -1
            found.append(place + (axis / self.size[number]).astype(np.float32).reshape(view))
        spine, width, depth = (
            (amplitude * np.sin(axes[0] / mm + phase)).astype(np.float32)[:, None, None]
            for mm, (amplitude, phase) in zip((70, 60, 60), self.curves, strict=True)
        )
        found[1] = (found[1] + spine) * (1 + depth)
        found[2] *= 1 + width
        return found


def _gland_extent(torso: Torso | PaintedTorso, warp: Deformation) -> tuple[np.ndarray, np.ndarray]:
    """Find the lowest and the highest corner (z, y, x) in mm of the deformed pancreas."""
    first, last = (corner * warp.size for corner in torso.gland_bounds())
    axes = tuple(np.arange(a - SEARCH_MM, b + SEARCH_MM, SEARCH_STEP_MM) for a, b in zip(first, last, strict=True))
    found = np.argwhere(torso.in_gland(warp(axes)))
    if not len(found):  # a gland thinner than this grid; the nodes say where it is
        return first, last
    corner = np.array([axis[0] for axis in axes])
    return corner + found.min(axis=0) * SEARCH_STEP_MM, corner + found.max(axis=0) * SEARCH_STEP_MM


def _scan_axes(rng: np.random.Generator, low: np.ndarray, high: np.ndarray, spacing: Spacing) -> Axes:
    """Draw which part of a patient a scan shows; it holds at least a part of the pancreas."""
    kind = rng.choice(("torso", "abdomen", "part", "slab"), p=(0.35, 0.3, 0.2, 0.15))
    if kind == "torso":
        first, last = rng.uniform(LOW_MM + 20, -160), rng.uniform(90, HIGH_MM - 20)
    elif kind == "abdomen":
        first, last = low[0] - rng.uniform(20, 160), high[0] + rng.uniform(15, 110)
    else:
        length = rng.uniform(90, 220) if kind == "part" else rng.uniform(40, 90)
        first = rng.uniform(low[0] + LEAST_SEEN_MM - length, high[0] - LEAST_SEEN_MM)
        last = first + length
    first, last = max(first, LOW_MM + 5), min(last, HIGH_MM - 5)
    half = np.array(SCAN_HALF_PLANE_MM)
    middle = rng.normal(0, 10, 2)
    bounds = [(m - h, m + h) for m, h in zip(middle, half, strict=True)]
    if rng.random() < 0.35:  # a field of view smaller than the patient, or a part of a scan
        for axis in (0, 1):
            a, b = low[axis + 1], high[axis + 1]
            least = b - a - 2 * LEAST_SEEN_MM
            side = rng.uniform(max(least, 120), 330)
            start = rng.uniform(b - LEAST_SEEN_MM - side, a + LEAST_SEEN_MM) if side > least else a
            bounds[axis] = (max(start, bounds[axis][0]), min(start + side, bounds[axis][1]))
    return tuple(np.arange(a, b, s) for (a, b), s in zip(((first, last), *bounds), spacing, strict=True))


def _box_axes(low: np.ndarray, high: np.ndarray, spacing: Spacing, margin: Sequence[float]) -> Axes:
    """Return the grid that covers the pancreas with a margin."""
    return tuple(np.arange(a - m, b + m, s) for a, b, m, s in zip(low, high, margin, spacing, strict=True))


def _attenuate(
    rng: np.random.Generator,
    torso: Torso | PaintedTorso,
    warp: Deformation,
    materials: Materials,
    axes: Axes,
    spacing: Spacing,
    blur_mm: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Paint a patient, and bring what it attenuates and its label onto the grid of the scan.

    Returns:
        Attenuation in HU, float32, and the label, uint8, both (D, H, W).
    """
    places = warp(axes)
    step = float(np.clip(0.6 * min(spacing), FINEST_MM, COARSEST_MM))
    painted = tuple(np.arange(float(p.min()) - 2 * step, float(p.max()) + 3 * step, step) for p in places)
    tissues = torso.paint(painted)
    blur = [mm / step for mm in blur_mm]
    # Air has no texture and is the same when it is blurred, so only the box of the body is computed.
    body = _box_around(tissues != Tissue.AIR, [math.ceil(BLUR_REACH * sigma) + 1 for sigma in blur])
    part, within = tissues[body], tuple(axis[s] for axis, s in zip(painted, body, strict=True))
    inner = materials.mean[part]
    ends = [axis[0] for axis in painted], [axis[-1] for axis in painted]
    for amount, grain in ((materials.fine, rng.uniform(2.5, 6)), (materials.coarse, rng.uniform(8, 20))):
        inner += amount[part] * smooth_noise(rng, *ends, grain).sample(within)
    for along, sigma in enumerate(blur):
        inner = gaussian_filter1d(inner, sigma, along, mode="nearest", truncate=BLUR_REACH)
    attenuation = np.full(tissues.shape, materials.mean[Tissue.AIR], np.float32)
    attenuation[body] = inner
    grid = [
        2 * (p - np.float32(axis[0])) / np.float32(axis[-1] - axis[0]) - 1
        for p, axis in zip(places, painted, strict=True)
    ]
    seen = _interpolate([attenuation], grid)[0]
    label = np.zeros(seen.shape, np.uint8)
    gland = np.isin(tissues, GLAND)
    reached = _box_around(gland, (1, 1, 1))  # within which the interpolated gland is more than 0
    near = np.ones(label.shape, bool)
    for place, axis, s in zip(places, painted, reached, strict=True):
        near &= (place >= axis[s][0] - step) & (place <= axis[s][-1] + step)
    if gland.any() and near.any():
        box = _box_around(near, (0, 0, 0))
        shares = _interpolate([gland, tissues == Tissue.LESION], [g[box] for g in grid])
        label[box][shares[0] >= 0.5] = 1
        label[box][shares[1] >= 0.5] = 2
    return seen, label


def _box_around(mask: np.ndarray, margin: Sequence[int]) -> tuple[slice, ...]:
    """Return the box that holds a mask with a margin in voxels, within the grid; all of the grid for an empty mask."""
    occupied = [np.flatnonzero(mask.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
    if not len(occupied[0]):
        return (slice(None),) * 3
    return tuple(slice(max(0, int(o[0]) - n), int(o[-1]) + n + 1) for o, n in zip(occupied, margin, strict=True))


def _interpolate(channels: Sequence[np.ndarray], grid: Sequence[np.ndarray]) -> np.ndarray:
    """Interpolate arrays (D, H, W) linearly at places (z, y, x) between -1 and 1: float32 (len(channels), d, h, w)."""
    return torch.nn.functional.grid_sample(
        torch.from_numpy(np.stack(channels).astype(np.float32, copy=False))[None],
        torch.from_numpy(np.stack(grid[::-1], axis=-1))[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )[0].numpy()


def _add_table(rng: np.random.Generator, attenuation: np.ndarray, axes: Axes, materials: Materials) -> None:
    """Put the two surfaces of a table below the back, where there is air; ``attenuation`` is changed."""
    air = attenuation < AIR_BELOW_HU
    rows = np.flatnonzero(~air.all(axis=(0, 2)))
    if not len(rows):
        return
    y, x = axes[1][:, None], axes[2]
    level = axes[1][rows[-1]] + rng.uniform(0, 10) - rng.uniform(0, 0.0008) * (x - x.mean()) ** 2
    for surface in (level, level + rng.uniform(25, 60)):
        shell = (np.abs(y - surface) < max(2.0, 0.6 * (axes[1][1] - axes[1][0]))) & (np.abs(x - x.mean()) < 225)
        attenuation[air & shell] = materials.mean[Extra.TABLE]
