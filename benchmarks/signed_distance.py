"""How fast is the truncated signed distance compared with SciPy's two exact distance transforms?

    python benchmarks/signed_distance.py

Prints the largest difference between the two results, the median time of each on the CPU, and their ratio.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.signed_distance import TAU_MM, signed_distance

SPACING_MM = (2.5, 0.8, 0.8)
FOREGROUND_SHARE = 0.03


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Time ``work`` several times and return the median in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


def main() -> None:
    """Compare the two implementations on blobs of smoothed noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        metavar=("D", "H", "W"),
        default=(96, 160, 160),
        help="sides of the box in voxels (default: 96 160 160)",
    )
    parser.add_argument(
        "--repeats", type=int, metavar="INT", default=7, help="timed runs of each implementation (default: 7)"
    )
    args = parser.parse_args()
    noise = np.random.default_rng(0).standard_normal(args.shape)
    mask = ndimage.gaussian_filter(noise, (4, 10, 10))
    mask = mask > np.quantile(mask, 1 - FOREGROUND_SHARE)
    batch = torch.from_numpy(mask.astype(np.float32))[None, None]

    def our_distance() -> torch.Tensor:
        return signed_distance(batch, SPACING_MM)

    def scipy_distance() -> np.ndarray:
        outside = ndimage.distance_transform_edt(~mask, sampling=SPACING_MM)
        inside = ndimage.distance_transform_edt(mask, sampling=SPACING_MM)
        return (outside.clip(0, TAU_MM) - inside.clip(0, TAU_MM)) / TAU_MM

    error = np.abs(our_distance()[0, 0].numpy() - scipy_distance()).max()
    ours, theirs = (median_seconds(work, args.repeats) for work in (our_distance, scipy_distance))
    box = " x ".join(map(str, args.shape))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, box of {box} voxels")
    print(f"largest difference {error:.1e} of tau")
    print(f"scipy {theirs:.3f} s, ours {ours:.3f} s: {theirs / ours:.1f} x")


if __name__ == "__main__":
    main()
