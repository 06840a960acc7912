"""Random boxes of a scan for the benchmarks: blobs of soft tissue, of which the densest are the target.

The environment of the peers uses this module too, so it imports nothing that they lack.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from data.augment import Augmentation
from data.samples import NetworkGrid, Sample
from data.scans.boxes import triple

FOREGROUND_SHARE = 0.03
BLOB_MM = 8.0  # standard deviation of the Gaussian that makes blobs of noise


def random_blobs(shape: Sequence[int], spacing: Sequence[float], seed: int = 0) -> np.ndarray:
    """Return a mask (D, H, W), bool, of rounded blobs that fill FOREGROUND_SHARE of a box."""
    smooth = _smooth_noise(shape, spacing, seed)
    return smooth > np.quantile(smooth, 1 - FOREGROUND_SHARE)


def random_sample(
    shape: Sequence[int], spacing: Sequence[float], augmentation: Augmentation | None = None, seed: int = 0
) -> Sample:
    """Make a box as the loader would read it.

    Args:
        shape: What the network sees, (D, H, W).
        spacing: Of the voxels of the scan and of the network alike, (z, y, x) in mm.
        augmentation: Its reach is read around the box, as in training; None reads the box alone.
        seed: Of the noise.
    """
    margin = (0, 0, 0)
    if augmentation is not None:
        half = [n * mm / 2 for n, mm in zip(shape, spacing, strict=True)]
        reach = augmentation.reach(half)
        margin = triple(int(np.ceil((r - h) / mm)) + 1 for r, h, mm in zip(reach, half, spacing, strict=True))
    read = [n + 2 * m for n, m in zip(shape, margin, strict=True)]
    smooth = _smooth_noise(read, spacing, seed)
    inside = tuple(slice(m, m + n) for m, n in zip(margin, shape, strict=True))
    mask = smooth > np.quantile(smooth[inside], 1 - FOREGROUND_SHARE)
    noise = np.random.default_rng(seed + 1).standard_normal(read, np.float32)
    image = (60 + 60 * smooth / smooth.std() + 12 * noise).astype(np.int16)
    grid = NetworkGrid(triple(shape), (1.0, 1.0, 1.0), triple(float(m) for m in margin))
    return Sample("benchmark/box", image, mask.astype(np.uint8), triple(spacing), grid)


def _smooth_noise(shape: Sequence[int], spacing: Sequence[float], seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return ndimage.gaussian_filter(noise, [BLOB_MM / mm for mm in spacing])
