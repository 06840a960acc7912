"""How much of a tumour's contrast do the views preserve?

    python experiments/views.py --store STORE

For every case whose tumour is at least 10 HU darker than the pancreas, views of each family are drawn in its tumour
coarse box. The contrast-to-noise ratio between pancreas and tumour is compared with that of the image: for each family
the share of views that invert it, percentiles of the ratio "view / image", and the mean absolute change of a voxel are
printed.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.augment import window
from data.cases.case import Case
from data.cases.labels import HU_WINDOW, PANCREAS, TUMOUR
from data.cases.options import add_store
from data.cases.store import read_store
from data.common.errors import command
from data.samples import reference_box
from engine.stages import STAGES
from models.views import FAMILIES

LEAST_CONTRAST_HU = 10.0  # of the image; a ratio to less than this means little


def boxes(cases: Sequence[Case]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield image in [0, 1], label and spacing of every case whose tumour stands out.

    Image and label have the shape (1, 1, D, H, W); the spacing is (z, y, x) in mm.
    """
    for case in cases:
        box = reference_box(case, STAGES["tumor_coarse"].sampling)
        image = window(torch.from_numpy(np.array(case.image()[box.slices])), HU_WINDOW)[None, None]
        label = torch.from_numpy(np.array(case.label()[box.slices]))[None, None]
        if contrast(image, label)[0] * (HU_WINDOW[1] - HU_WINDOW[0]) >= LEAST_CONTRAST_HU:
            yield image, label, torch.tensor(case.spacing)


def contrast(image: Tensor, label: Tensor) -> tuple[float, float]:
    """Return the mean of the pancreas minus that of the tumour, and the same divided by their standard deviation."""
    pancreas, tumour = image[label == PANCREAS], image[label == TUMOUR]
    difference = pancreas.mean() - tumour.mean()
    return float(difference), float(difference / ((pancreas.var() + tumour.var()) / 2).sqrt().clamp_min(1e-6))


@command
def main() -> int:
    """Draw the views and print one line for each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--views", type=int, metavar="INT", default=4, help="views to draw of each case and family (default: 4)"
    )
    add_store(parser)
    args = parser.parse_args()
    cases = [case for centre in read_store(args.store).values() for case in centre if case.tumour_box]
    samples = list(boxes(cases))
    print(f"{len(samples)} of {len(cases)} cases, {args.views} views each; contrast-to-noise ratio, view / image")
    if not samples:
        return 0
    print(f"{'family':<14}{'inverted':>9}{'5 %':>8}{'25 %':>8}{'median':>8}{'75 %':>8}{'change':>8}")
    for name, family in FAMILIES.items():
        generator = torch.Generator().manual_seed(0)
        ratios, changes = [], []
        for image, label, spacing in samples:
            before = contrast(image, label)[1]
            for _ in range(args.views):
                view = family.make(image, spacing, generator)
                ratios.append(contrast(view, label)[1] / before)
                changes.append(float((view - image).abs().mean()))
        low, quarter, median, high = np.percentile(ratios, [5, 25, 50, 75])
        inverted = np.mean(np.array(ratios) < 0)
        print(f"{name:<14}{inverted:>9.1%}{low:>8.2f}{quarter:>8.2f}{median:>8.2f}{high:>8.2f}{np.mean(changes):>8.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
