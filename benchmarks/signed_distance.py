"""The truncated signed distance beside scipy's two full transforms, in one run. python benchmarks/signed_distance.py"""

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

SPACING = (2.5, 0.8, 0.8)


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[96, 160, 160], help="of the box")
    parser.add_argument("--repeats", type=int, default=7, help="the median of as many runs")
    args = parser.parse_args()
    noise = np.random.default_rng(0).standard_normal(args.shape)
    mask = ndimage.gaussian_filter(noise, (4, 10, 10))
    mask = mask > np.quantile(mask, 0.97)  # blobs, 3 % of the box
    batch = torch.from_numpy(mask.astype(np.float32))[None, None]

    def scipy_distance() -> np.ndarray:
        outside = ndimage.distance_transform_edt(~mask, sampling=SPACING)
        inside = ndimage.distance_transform_edt(mask, sampling=SPACING)
        return (outside.clip(0, TAU_MM) - inside.clip(0, TAU_MM)) / TAU_MM

    error = np.abs(signed_distance(batch, SPACING)[0, 0].numpy() - scipy_distance()).max()
    ours, theirs = (median_seconds(w, args.repeats) for w in (lambda: signed_distance(batch, SPACING), scipy_distance))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, box {args.shape}")
    print(f"largest difference {error:.1e} of tau")
    print(f"scipy {theirs:.3f} s, ours {ours:.3f} s: {theirs / ours:.1f} x")


if __name__ == "__main__":
    main()
