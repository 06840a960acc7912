"""Whether the values of a scan can be Hounsfield units.

Minimum and maximum do not tell: a single padding value hides that the offset of a scan is missing. The judgement rests
on what every CT of the trunk shows: soft tissue and fat near 0 HU in the middle of the picture, and air, if there is
any, near -1000 HU.
"""

from typing import NamedTuple

import numpy as np

SAMPLES_PER_AXIS = 128  # at most; a scan of any size then takes less than 0.1 s
LOWEST_HU = -1100  # values below are padding
METAL_ABOVE_HU = 4000  # teeth and cortical bone end below
# Two hip prostheses are 0.5 % of the voxels of a scan, and 3 % of those of a slice.
METAL_SHARE, METAL_SHARE_OF_SLICE = 0.01, 0.1
GREY_VALUES = 255
TISSUE_ABOVE_HU = -300
# Median of what is denser than air and lung in the middle of the picture, from a body that is mostly fat to a crop
# around vessels filled with contrast medium.
TISSUE_HU = (-150, 250)
TISSUE_SHARE = 0.02  # of the middle of the picture; even an emphysematous chest has more
OFFSET = 1024  # what scanners add to HU to store them unsigned
# The values were clipped to a display window if the lowest is above the first limit, or the highest below the second,
# and more than this share of all voxels has it.
CLIPPED_LOW_HU, CLIPPED_HIGH_HU, CLIPPED_SHARE = -500, 400, 0.005
NARROWEST_WINDOW_HU = 50
DENSE_BONE_HU, DENSE_BONE_SHARE = 800, 0.2  # the skull fills 10 % of a scan of the head; the trunk has less bone
# A lowest or highest value is padding if it lies this far from the others, and so many of those lie close together.
GAP_HU, DENSE_VALUES = 100, 20
FAT_BELOW_HU, BONE_ABOVE_HU = -50, 100  # every CT of the trunk has darker and brighter voxels than these
AIR_SHARE = 0.02  # of the voxels, below which the level of air is not judged
AIR_HU = (-1100, -600)  # the most frequent value of air, or of lung in a tight crop of the chest
AIR_SMOOTHING = 31  # HU over which the histogram is averaged to find it
HISTOGRAM_START = -(1 << 15)


class HUProblem(NamedTuple):
    """Why the values of a scan cannot be Hounsfield units, and what to do about it."""

    problem: str
    remedy: str


def find_hu_problem(array: np.ndarray) -> HUProblem | None:
    """Check whether the values of a scan can be Hounsfield units.

    Args:
        array: The scan, int16, shape (D, H, W).

    Returns:
        What speaks against it, the surest and most specific finding first; None if nothing does.
    """
    samples = array[(slice(None), *(slice(None, None, -(-n // SAMPLES_PER_AXIS)) for n in array.shape[1:]))]
    if excess := _find_excess(samples):
        return excess
    samples = samples[:: -(-len(samples) // SAMPLES_PER_AXIS)]
    counts = np.bincount(samples.ravel().astype(np.int64) - HISTOGRAM_START, minlength=1 << 16)
    low, high = _measured_range(counts)
    values = f"values {low} to {high}"
    if low >= 0 and high <= GREY_VALUES:
        return HUProblem(f"{values} are 8-bit grey values, not HU", "give the scan itself, not pictures of it")
    middle = samples[(slice(None), *(slice(n // 4, n - n // 4) for n in samples.shape[1:]))]
    middle = middle[middle >= low]
    tissue = middle[middle > TISSUE_ABOVE_HU]
    level = float(np.median(tissue)) if tissue.size > TISSUE_SHARE * middle.size else None
    if level is not None and TISSUE_HU[0] <= level - OFFSET <= TISSUE_HU[1]:
        problem = f"{values} lack the offset of HU: soft tissue at {level:.0f}, expected near 50"
        return HUProblem(problem, "export the scan with its rescale (intercept -1024) applied")
    voxels = counts[low - HISTOGRAM_START :].sum()
    at_low, at_high = (counts[end - HISTOGRAM_START] / voxels for end in (low, high))
    clipped = (low > CLIPPED_LOW_HU and at_low > CLIPPED_SHARE) or (high < CLIPPED_HIGH_HU and at_high > CLIPPED_SHARE)
    if clipped and high - low > NARROWEST_WINDOW_HU:
        original = "give the original scan; the network uses -100 to 240 HU"
        return HUProblem(f"HU clipped to a window, {values}", original)
    reason = ""
    air = _air_level(counts)
    no_fat = not counts[LOWEST_HU - HISTOGRAM_START : FAT_BELOW_HU - HISTOGRAM_START].any()
    bright = counts[DENSE_BONE_HU - HISTOGRAM_START :].sum() / voxels
    if level is None:
        reason = f"hardly any in the middle of the picture is above {TISSUE_ABOVE_HU}"
    elif bright > DENSE_BONE_SHARE:
        reason = f"{bright:.0%} of the voxels are above {DENSE_BONE_HU}, more than bone fills"
    elif no_fat or samples.max() < BONE_ABOVE_HU:
        reason = "fat or bone is missing"
    elif not TISSUE_HU[0] <= level <= TISSUE_HU[1]:
        reason = f"soft tissue at {level:.0f}, expected near 50"
    elif air is not None and not AIR_HU[0] <= air <= AIR_HU[1]:
        reason = f"air at {air}, expected near -1000"
    remedy = "export the scan in HU, with its rescale applied"
    return HUProblem(f"{values} are not the HU of a CT: {reason}", remedy) if reason else None


def _find_excess(samples: np.ndarray) -> HUProblem | None:
    """Find values that only metal has in more voxels than metal fills."""
    of_slices = (samples > METAL_ABOVE_HU).mean(axis=(1, 2))
    share = of_slices.mean()
    if share <= METAL_SHARE and of_slices.max() <= METAL_SHARE_OF_SLICE:
        return None
    where = f"{share:.1%} of the voxels" if share > METAL_SHARE else f"{of_slices.max():.0%} of a slice"
    problem = f"{where} above {METAL_ABOVE_HU} HU, more than metal fills (highest value {samples.max()})"
    return HUProblem(problem, "replace padding by air (-1024) and check the rescale, or leave the scan out")


def _measured_range(counts: np.ndarray) -> tuple[int, int]:
    """Return the lowest and highest value that was measured, from a histogram of all int16 values.

    Padding is left out: values below LOWEST_HU, and a lowest or highest value that is separated by a gap from values
    that follow each other closely.
    """
    present = np.flatnonzero(counts) + HISTOGRAM_START
    measured = present[present >= LOWEST_HU]
    if not measured.size:
        return int(present[0]), int(present[-1])
    low, high = int(measured[0]), int(measured[-1])
    if measured.size > DENSE_VALUES:
        nearby = measured[1 : 1 + DENSE_VALUES // 2], measured[-1 - DENSE_VALUES // 2 : -1]
        is_dense = [values[-1] - values[0] < DENSE_VALUES for values in nearby]
        if measured[1] - low > GAP_HU and is_dense[0]:
            low = int(measured[1])
        if high - measured[-2] > GAP_HU and is_dense[1]:
            high = int(measured[-2])
    return low, high


def _air_level(counts: np.ndarray) -> int | None:
    """Return the most frequent value of what is less dense than tissue; None if there is hardly any.

    Single values below LOWEST_HU that stand out from those beside them are padding. Others may be air at a wrong place.
    """
    below = counts[: TISSUE_ABOVE_HU - HISTOGRAM_START].astype(float)
    beside = np.maximum(np.roll(below, 1), np.roll(below, -1))
    padding = (np.arange(below.size) < LOWEST_HU - HISTOGRAM_START) & (below > 10 * beside)
    below[padding] = 0
    if below.sum() < AIR_SHARE * counts.sum():
        return None
    smooth = np.convolve(below, np.ones(AIR_SMOOTHING), mode="same")
    return int(smooth.argmax()) + HISTOGRAM_START
