"""Single figures of an image to compare synthetic with real CT: grey values, noise, what surrounds the gland.

Noise is what remains in the smoothest square patches of soft tissue, of 24 mm, after a quadratic surface has been
subtracted. The patches are chosen by the variance of the image that has been smoothed over 4 mm, so that little noise
is no reason to be chosen. Its power is the squared Fourier transform under a Hann window, averaged over directions;
"between slices" is the correlation of the noise of adjacent slices.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data.scans.body import largest_component
from data.scans.boxes import bounding_box, enlarge

PATCH_MM, SMOOTH_MM, PATCHES = 24.0, 4.0, 20
EDGES_HU = np.arange(-200, 401, 5)
SOFT_TISSUE_HU = (-10, 250)  # of a patch
SHELL_MM = 6.0
# Grey values, HU, whose shares of the body are measured.
CLASSES = {"gas": (-3000, -300), "fat": (-150, -50), "grey fat": (-50, 0), "fluid": (0, 30), "soft": (30, 80)}
CLASSES |= {"enhanced": (80, 130), "bright": (130, 250), "bone": (250, 4000)}

Spacing = tuple[float, float, float]


class Image(NamedTuple):
    """A scan, real or not.

    Attributes:
        name: What to call it.
        hu: float32 (D, H, W).
        gland: Boolean mask of the pancreas.
        organs: Boolean masks of other labelled organs by name.
    """

    name: str
    hu: np.ndarray
    gland: np.ndarray
    organs: Mapping[str, np.ndarray] = MappingProxyType({})


class Figures(NamedTuple):
    """What was measured in an image.

    Attributes:
        histogram: Share of the body by grey value, for the intervals of EDGES_HU.
        power: Noise power in HU^2 mm^2 by spatial frequency.
        numbers: Single figures by name.
    """

    histogram: np.ndarray
    power: np.ndarray
    numbers: dict[str, float]


def find_body(hu: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Find the body with the gas in it: a boolean mask (D, H, W)."""
    soft = ndimage.gaussian_filter(np.clip(hu, -1000, 400), [2 / s for s in spacing])
    body = largest_component(soft > -300)
    return np.stack([ndimage.binary_fill_holes(plane) for plane in body])


def smooth_patches(hu: np.ndarray, body: np.ndarray, spacing: Spacing) -> list[tuple[int, int, int]]:
    """Find the smoothest square patches of soft tissue, without overlap: their first voxels (z, y, x)."""
    rows, columns = (round(PATCH_MM / s) for s in spacing[1:])
    smooth = ndimage.gaussian_filter(hu, [0, *(SMOOTH_MM / s for s in spacing[1:])])
    size, start = (1, rows, columns), (0, -(rows // 2), -(columns // 2))

    def over_patches(values: np.ndarray) -> np.ndarray:
        """Average over the patch that begins at each voxel."""
        return ndimage.uniform_filter(values.astype(np.float64), size, origin=start)

    mean = over_patches(smooth)
    variance = over_patches(smooth**2) - mean**2
    usable = over_patches(body & (smooth > SOFT_TISSUE_HU[0]) & (smooth < SOFT_TISSUE_HU[1])) > 0.999
    usable[:, -rows:], usable[:, :, -columns:] = False, False
    variance[~usable] = np.inf
    found: list[tuple[int, int, int]] = []
    for flat in np.argsort(variance, axis=None):
        z, y, x = map(int, np.unravel_index(flat, variance.shape))
        if not np.isfinite(variance[z, y, x]) or len(found) == PATCHES:
            break
        if all(z != a or abs(y - b) >= rows or abs(x - c) >= columns for a, b, c in found):
            found.append((z, y, x))
    return found


def noise_of(patch: np.ndarray) -> np.ndarray:
    """Subtract the quadratic surface that fits a patch (H, W) best."""
    y, x = (c.ravel() for c in np.meshgrid(*(np.linspace(-1, 1, n) for n in patch.shape), indexing="ij"))
    surface = np.stack([np.ones_like(x), x, y, x * y, x**2, y**2], axis=1)
    fit, *_ = np.linalg.lstsq(surface, patch.ravel(), rcond=None)
    return patch - (surface @ fit).reshape(patch.shape)


def frequencies(spacing: Spacing) -> np.ndarray:
    """Return the edges of the intervals of spatial frequency in 1/mm, up to that which the voxels can hold."""
    return np.arange(0.5 / PATCH_MM, 0.5 / max(spacing[1:]), 1 / PATCH_MM)


def measure_noise(hu: np.ndarray, body: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, float, float]:
    """Measure the noise in the smoothest patches of soft tissue.

    Returns:
        Its power in HU^2 mm^2 by spatial frequency, its standard deviation in HU, and its correlation between slices;
        NaN where there are no patches.
    """
    edges = frequencies(spacing)
    rows, columns = (round(PATCH_MM / s) for s in spacing[1:])
    window = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(columns + 2)[1:-1])
    steps = np.meshgrid(
        *(np.fft.fftfreq(n, s) for n, s in zip((rows, columns), spacing[1:], strict=True)), indexing="ij"
    )
    ring = np.digitize(np.hypot(*steps), edges) - 1
    powers, variances, above = [], [], []
    for z, y, x in smooth_patches(hu, body, spacing):
        noise = noise_of(hu[z, y : y + rows, x : x + columns])
        power = np.abs(np.fft.fft2(noise * window)) ** 2 * spacing[1] * spacing[2] / np.sum(window**2)
        powers.append([power[ring == i].mean() for i in range(len(edges) - 1)])
        variances.append(noise.var())
        if z + 1 < len(hu):
            other = noise_of(hu[z + 1, y : y + rows, x : x + columns])
            above.append(np.corrcoef(noise.ravel(), other.ravel())[0, 1])
    if not powers:
        return np.full(len(edges) - 1, np.nan), np.nan, np.nan
    return np.median(powers, axis=0), float(np.sqrt(np.median(variances))), float(np.median(above)) if above else np.nan


def core_of(mask: np.ndarray) -> np.ndarray:
    """Return a mask without its outermost voxels in the plane, or the mask if nothing would be left."""
    core = ndimage.binary_erosion(mask, np.ones((1, 3, 3)))
    return core if core.any() else mask


def measure(image: Image, spacing: Spacing) -> Figures:
    """Measure an image; gland and shell are left out where it shows no pancreas."""
    hu, gland = image.hu, image.gland
    body = find_body(hu, spacing)
    inside = hu[body]
    numbers = {
        f"share of body {name}": float(np.mean((inside >= a) & (inside < b))) for name, (a, b) in CLASSES.items()
    }
    power, numbers["noise HU"], numbers["noise between slices"] = measure_noise(hu, body, spacing)
    rows, columns = (np.flatnonzero(body.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    numbers["body depth mm"] = float(np.ptp(rows) + 1) * spacing[1] if len(rows) else np.nan
    numbers["body width mm"] = float(np.ptp(columns) + 1) * spacing[2] if len(columns) else np.nan
    numbers["gland ml"] = float(gland.sum() * np.prod(spacing) / 1000)
    if gland.any():
        reach = [SHELL_MM / s + 1 for s in spacing]
        box = enlarge(bounding_box(gland), reach, reach, hu.shape).slices
        away = ndimage.distance_transform_edt(~gland[box], sampling=spacing)
        around = hu[box][(away > 0) & (away <= SHELL_MM) & body[box]]
        core = hu[core_of(gland)]
        numbers |= {"gland HU": float(core.mean()), "gland SD": float(core.std())}
        soft = around[(around > 0) & (around < 250)]
        numbers["gland minus soft shell HU"] = float(core.mean() - soft.mean()) if len(soft) else np.nan
        numbers["shell fat"] = float(np.mean(around < -50))
        numbers["shell grey fat"] = float(np.mean((around >= -50) & (around < 0)))
        numbers["shell soft"] = float(np.mean(around >= 0))
    for organ, mask in image.organs.items():
        values = hu[core_of(mask)]
        numbers |= {f"{organ} HU": float(values.mean()), f"{organ} SD": float(values.std())}
    return Figures(np.histogram(inside, EDGES_HU)[0] / max(1, inside.size), power, numbers)
