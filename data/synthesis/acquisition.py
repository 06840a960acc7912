"""How a randomised scanner sees a patient: kernel, slices, noise, streaks, calibration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d, uniform_filter1d

LOWEST_HU, HIGHEST_HU = -1024, 3071
PIXEL_MM = 0.8  # of a usual scan, in the plane
UNIFORM = 0.29  # standard deviation of a uniform distribution over one voxel
WHITE = 0.28  # white noise on voxels falls under a Gaussian as noise does whose grain is this share of a voxel


@dataclass(frozen=True)
class Acquisition:
    """A scanner and its protocol.

    Attributes:
        blur_mm: Softness of the reconstruction (z, y, x), standard deviations in mm; after ``resampled`` with the
            averaging within voxels.
        edge: Edge enhancement of the kernel, the weight of an unsharp mask.
        slice_mm: Thickness and distance of the slices.
        noise: Standard deviation of the noise in HU on the grid of the scan.
        grain_mm: Correlation lengths of the noise (z, in-plane), standard deviations in mm.
        streaks: Standard deviation in HU of horizontal streaks.
        scale: Factor of the grey values about water.
        offset: Offset in HU.
    """

    blur_mm: tuple[float, float, float]
    edge: float
    slice_mm: float
    noise: float
    grain_mm: tuple[float, float]
    streaks: float
    scale: float
    offset: float


def random_acquisition(rng: np.random.Generator, resolution: float) -> Acquisition:
    """Draw a scanner; ``resolution`` 0 gives a good one without artefacts."""
    soft = 0.6 + resolution * rng.uniform(-0.3, 1.0)
    thick = 2.0 + resolution * float(rng.choice((-1.0, 0.0, 1.0, 3.0, 5.0), p=(0.25, 0.2, 0.25, 0.25, 0.05)))
    return Acquisition(
        blur_mm=(0.3, soft, soft),
        edge=resolution * max(0.0, rng.normal(0, 0.5)),
        slice_mm=thick,
        noise=8 + resolution * (float(rng.gamma(2.0, 7.0)) - 8),
        grain_mm=(max(0.0, 0.5 + resolution * rng.uniform(-1.0, 1.5)), 0.8 + resolution * rng.uniform(-0.4, 1.4)),
        streaks=resolution * max(0.0, rng.normal(-4, 8)),
        scale=float(np.exp(resolution * rng.normal(0, 0.03))),
        offset=resolution * rng.normal(0, 6),
    )


def resampled(acquisition: Acquisition, spacing: Sequence[float]) -> Acquisition:
    """Return what blur and noise of a scanner become on the voxels that a network sees.

    A scan has pixels of PIXEL_MM and slices of its own. Before it is sampled on larger voxels, it is smoothed by a
    Gaussian whose standard deviation is half of the difference (``data.warp.low_pass``). That removes detail, most of
    the noise, and makes the rest coarser.

    Args:
        acquisition: The scanner, with the noise of its own voxels.
        spacing: Voxel size (z, y, x) in mm of the network.

    Returns:
        The scanner with the noise and the grain on those voxels, and a blur that includes the averaging within voxels.
    """
    voxels = (acquisition.slice_mm, PIXEL_MM, PIXEL_MM)
    smooth = [max(0.0, mm - voxel) / 2 for mm, voxel in zip(spacing, voxels, strict=True)]
    within = [UNIFORM * min(pair) for pair in zip(spacing, voxels, strict=True)]
    own = (acquisition.grain_mm[0], acquisition.grain_mm[1], acquisition.grain_mm[1])
    grain = [math.hypot(mm, WHITE * voxel) for mm, voxel in zip(own, voxels, strict=True)]
    left = math.prod(g / math.hypot(g, s) for g, s in zip(grain, smooth, strict=True))
    z, y, x = (math.hypot(*parts) for parts in zip(acquisition.blur_mm, within, smooth, strict=True))
    return replace(
        acquisition,
        blur_mm=(z, y, x),
        noise=acquisition.noise * math.sqrt(left),
        grain_mm=(math.hypot(own[0], smooth[0]), math.hypot(own[1], max(smooth[1:]))),
    )


def acquire(
    rng: np.random.Generator, attenuation: np.ndarray, spacing: Sequence[float], acquisition: Acquisition
) -> np.ndarray:
    """Scan a patient.

    Args:
        rng: Source of randomness.
        attenuation: HU, float32 (D, H, W), averaged over its voxels; may be changed.
        spacing: Voxel size (z, y, x) in mm.
        acquisition: The scanner.

    Returns:
        Image in HU, int16 (D, H, W).
    """
    image = attenuation
    if acquisition.edge:
        soft = gaussian_filter(image, (0, 1.5 / spacing[1], 1.5 / spacing[2]), mode="nearest", truncate=3)
        image += acquisition.edge * (image - soft)
    image += acquisition.noise * _noise(rng, image.shape, spacing, acquisition.grain_mm)
    if acquisition.streaks:
        image += acquisition.streaks * _streaks(rng, image.shape, spacing)
    image = _slices(image, acquisition.slice_mm / spacing[0])
    image = image * acquisition.scale + acquisition.offset
    return np.clip(np.rint(image), LOWEST_HU, HIGHEST_HU).astype(np.int16)


def _noise(
    rng: np.random.Generator, shape: tuple[int, ...], spacing: Sequence[float], grain_mm: tuple[float, float]
) -> np.ndarray:
    """Draw correlated noise of standard deviation 1, which is less beside the middle of the body."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    for axis, (mm, grain) in enumerate(zip(spacing, (grain_mm[0], grain_mm[1], grain_mm[1]), strict=True)):
        if grain / mm > 0.2:
            noise = gaussian_filter1d(noise, grain / mm, axis, mode="wrap", truncate=3)
    noise /= noise.std() + 1e-6
    y, x = ((np.arange(n) / max(1, n - 1) * 2 - 1) ** 2 for n in shape[1:])
    return noise * (1.15 - 0.35 * np.minimum(1, y[:, None] + x)).astype(np.float32)


def _streaks(rng: np.random.Generator, shape: tuple[int, ...], spacing: Sequence[float]) -> np.ndarray:
    """Draw streaks along x, as arms and hips leave them, of standard deviation 1."""
    streaks = rng.standard_normal(shape, dtype=np.float32)
    streaks = gaussian_filter1d(streaks, 60 / spacing[2], 2, mode="wrap", truncate=2)
    streaks = gaussian_filter1d(streaks, 1.5 / spacing[1], 1, mode="wrap", truncate=3)
    return streaks / (streaks.std() + 1e-6)


def _slices(image: np.ndarray, factor: float) -> np.ndarray:
    """Average over slices that are ``factor`` times as thick as those of the grid, and interpolate between them."""
    if factor < 1.3:
        return image
    count = len(image)
    thick = uniform_filter1d(image, max(1, round(factor)), axis=0, mode="nearest")
    places = np.arange(factor / 2 - 0.5, count + factor, factor)
    index = np.clip(np.interp(np.arange(count), places, np.arange(len(places))), 0, len(places) - 1)
    known = thick[np.clip(np.rint(places).astype(int), 0, count - 1)]
    below = np.floor(index).astype(int)
    above = np.minimum(below + 1, len(places) - 1)
    share = (index - below).astype(np.float32)[:, None, None]
    return (1 - share) * known[below] + share * known[above]
