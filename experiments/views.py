"""How much of a tumour's contrast do the views preserve?

    python experiments/views.py --store STORE

For every case whose tumour is at least 10 HU darker than the pancreas, views of each family are drawn in its tumour
coarse box. The contrast-to-noise ratio between pancreas and tumour is compared with that of the image: for each family
the share of views that invert it, percentiles of the ratio "view / image", and the mean absolute change of a voxel are
printed.

    python experiments/views.py --phases 4

renders that many synthetic patients of every scanner in the late arterial and in the portal venous phase, with the same
anatomy, and applies the two rules that bound a random convolution to the one as a view of the other: would they let
pass what happens between phases?
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from data.phantom.scanner import SCANNERS, render_case
from data.samples import MARGIN_MM, margin_box, reference_box
from data.scans.boxes import bounding_box
from engine.stages import STAGES
from models.tissue_views import keeps_target
from models.views import FAMILIES, LEAST_CORRELATION, soft_tissue_correlation

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


def compare_phases(count: int) -> None:
    """Print for each scanner how its phases correlate, and which rule takes the one as a view of the other."""
    print(f"{'scanner':<10}{'patients':>9}{'correlation':>24}{'taken by it':>13}{'taken by contrast':>19}")
    for scanner in SCANNERS:
        correlations, taken = [], []
        for index in range(count):
            early, late = (render_case(replace(scanner, portal=phase), index, seed=7) for phase in (0.0, 1.0))
            label, spacing = torch.from_numpy(early[1]), torch.tensor(early[2])
            box = bounding_box(early[1] > 0)
            around = margin_box(box, label.shape, early[2], MARGIN_MM).slices
            image, view = (window(torch.from_numpy(scan[0][around]), HU_WINDOW)[None, None] for scan in (late, early))
            target, pancreas = ((label[around] >= least).float()[None, None] for least in (TUMOUR, PANCREAS))
            correlations.append(float(soft_tissue_correlation(view, image)))
            taken.append(bool(keeps_target(view, image, target, pancreas, spacing)))
        low, high = min(correlations), max(correlations)
        accepted = np.mean(np.array(correlations) > LEAST_CORRELATION)
        numbers = f"{np.mean(correlations):.2f} ({low:.2f} to {high:.2f})"
        print(f"{scanner.name:<10}{count:>9}{numbers:>24}{accepted:>13.0%}{np.mean(taken):>19.0%}")


@command
def main() -> int:
    """Draw the views and print one line for each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--views", type=int, metavar="INT", default=4, help="views to draw of each case and family (default: 4)"
    )
    parser.add_argument(
        "--phases",
        type=int,
        metavar="INT",
        default=0,
        help="instead, compare two contrast phases of so many patients of every synthetic scanner (default: 0)",
    )
    add_store(parser)
    args = parser.parse_args()
    if args.phases:
        compare_phases(args.phases)
        return 0
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
            masks = [(label >= least).float() for least in (TUMOUR, PANCREAS)] if family.reads_masks else []
            for _ in range(args.views):
                view = family.make(image, spacing, generator, *masks)
                ratios.append(contrast(view, label)[1] / before)
                changes.append(float((view - image).abs().mean()))
        low, quarter, median, high = np.percentile(ratios, [5, 25, 50, 75])
        inverted = np.mean(np.array(ratios) < 0)
        print(f"{name:<14}{inverted:>9.1%}{low:>8.2f}{quarter:>8.2f}{median:>8.2f}{high:>8.2f}{np.mean(changes):>8.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
