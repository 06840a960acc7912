"""Does a trained stage segment as well in scans with other voxels than those that it was trained on?

    python experiments/voxel_sizes.py --store STORE --path CHECKPOINTS --data CENTRE [--stage STAGE]

Takes the newest model of a stage and the held-out cases with its target. Every case is segmented as it was prepared,
and as it would be with thinner and thicker slices, with smaller and larger pixels, turned by 15 degrees about the axis
of the body, and with slices that are averages of 5 mm. The stage reads the box around the reference. Every mask is
scored on the voxels of the image that it was made of. Prints the mean Dice of each row and its difference from the
first.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.cases.case import Case
from data.cases.labels import PANCREAS, TUMOUR, target_mask
from data.cases.preparation import Preparation
from data.cases.resample import resample_linear, resampled_shape
from data.common.errors import InputError, command
from data.common.progress import progress
from data.splits.split import select_cases
from engine.infer.cascade import segment_stage, select_organ
from engine.infer.models import StageModel
from engine.stages import STAGES
from experiments.common import add_run_options, open_run

AIR_HU = -1000
DEGREES = 15.0
THICK_MM = 5.0


class Scan(NamedTuple):
    """A case, or what another scanner might have made of it.

    Attributes:
        image: int16 HU, shape (D, H, W).
        label: uint8 labels 0/1/2 of the same shape.
        spacing: (z, y, x) in mm.
    """

    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float]


def as_prepared(scan: Scan) -> Scan:
    """Return the scan as it is."""
    return scan


def with_voxels(scan: Scan, z: float | None = None, plane: float | None = None) -> Scan:
    """Resample a scan to slices of ``z`` mm and pixels of ``plane`` mm; None leaves them as they are."""
    old_z, old_y, old_x = scan.spacing
    wanted = Preparation(spacing=(z or old_z, plane or old_y, plane or old_x))
    shape = resampled_shape(scan.image.shape, scan.spacing, wanted)
    new_z, new_y, new_x = (s * old / new for s, old, new in zip(scan.spacing, scan.image.shape, shape, strict=True))
    label = change_label(scan.label, lambda mask: resample_linear(mask, shape))
    return Scan(resample_linear(scan.image, shape), label, (new_z, new_y, new_x))


def turned(scan: Scan) -> Scan:
    """Turn a scan about the axis of the body; its pixels have to be square."""

    def turn(volume: np.ndarray, beyond: float = 0) -> np.ndarray:
        return ndimage.rotate(volume, DEGREES, axes=(1, 2), reshape=False, order=1, mode="constant", cval=beyond)

    return Scan(turn(scan.image, AIR_HU), change_label(scan.label, turn), scan.spacing)


def with_thick_slices(scan: Scan) -> Scan:
    """Average a scan over slices of about THICK_MM, which divide its height evenly."""
    height = len(scan.image) * scan.spacing[0]
    slices = max(1, round(height / THICK_MM))

    def average(volume: np.ndarray) -> np.ndarray:
        planes = np.linspace(0, len(volume), slices + 1)  # where the slices begin and end
        sums = np.concatenate([np.zeros_like(volume[:1], np.float64), np.cumsum(volume, axis=0, dtype=np.float64)])
        whole = np.minimum(planes.astype(int), len(volume) - 1)
        until = sums[whole] + (planes - whole)[:, None, None] * volume[whole]
        return np.diff(until, axis=0) / (len(volume) / slices)

    image = np.rint(average(scan.image)).astype(np.int16)
    return Scan(image, change_label(scan.label, average), (height / slices, *scan.spacing[1:]))


def change_label(label: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply a linear change to each mask of a label; what is then at least one half belongs to it."""
    masks = {code: change(mask.astype(np.float32)) for code, mask in ((PANCREAS, label > 0), (TUMOUR, label == TUMOUR))}
    changed = np.zeros(masks[PANCREAS].shape, np.uint8)
    for code, mask in masks.items():
        changed[mask >= 0.5] = code
    return changed


ROWS: dict[str, Callable[[Scan], Scan]] = {
    "as prepared": as_prepared,
    "slices of 1.4 mm": lambda scan: with_voxels(scan, z=1.4),
    "slices of 2.8 mm": lambda scan: with_voxels(scan, z=2.8),
    "slices of 5.0 mm": lambda scan: with_voxels(scan, z=5.0),
    "pixels of 0.7 mm": lambda scan: with_voxels(scan, plane=0.7),
    "pixels of 1.3 mm": lambda scan: with_voxels(scan, plane=1.3),
    "pixels of 2.6 mm": lambda scan: with_voxels(scan, plane=2.6),
    f"turned by {DEGREES:g} degrees": turned,
    f"averaged over {THICK_MM:g} mm": with_thick_slices,
}


def score(model: StageModel, scan: Scan) -> float:
    """Segment a scan in the box of its reference; return the Dice, which is undefined (NaN) without a reference."""
    sampling = model.stage.sampling
    roi = None if sampling.roi == "scan" else target_mask(scan.label, sampling.roi) > 0
    reference = target_mask(scan.label, sampling.target) > 0
    if not reference.any():
        return float("nan")
    organ = select_organ(model.stage, {"pancreas_fine": scan.label > 0})
    mask = segment_stage(model, scan.image, scan.spacing, roi, organ).mask
    return float(2 * np.count_nonzero(mask & reference) / (np.count_nonzero(mask) + np.count_nonzero(reference)))


def measure(model: StageModel, case: Case) -> list[float]:
    """Return the Dice of a case in every row."""
    scan = Scan(np.asarray(case.image()), np.asarray(case.label()), case.spacing)
    return [score(model, change(scan)) for change in ROWS.values()]


def table(dice: np.ndarray) -> str:
    """Write the Dice, shape (cases, rows), as a table; cases without a reference in a row do not count in it."""
    lines = [f"{'':<24}{'cases':>6}{'Dice':>8}{'difference':>12}"]
    for name, column in zip(ROWS, dice.T, strict=True):
        defined = np.isfinite(column)
        difference = (column - dice[:, 0])[defined].mean() if defined.any() else np.nan
        mean = column[defined].mean() if defined.any() else np.nan
        lines.append(f"{name:<24}{defined.sum():>6}{mean:>8.3f}{difference:>+12.3f}")
    return "\n".join(lines)


@command
def main(argv: list[str] | None = None) -> int:
    """Measure the held-out cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--stage", choices=tuple(STAGES), default="pancreas_fine", help="stage of the run (default: pancreas_fine)"
    )
    parser.add_argument("--cases", type=int, metavar="INT", help="measure so many cases only (default: all)")
    add_run_options(parser)
    args = parser.parse_args(argv)
    model, centres, split = open_run(args.stage, args.data, store=args.store, checkpoints=args.path, gpu=args.gpu)
    target = model.stage.sampling.target
    cases = [case for case in select_cases(centres, split.test) if case.target_box(target)][: args.cases]
    if not cases:
        raise InputError(f"--data {args.data}", f"no held-out case has a labelled {target}", "choose another split")
    dice = np.array([measure(model, case) for case in progress(cases, title="voxel sizes", unit="case")])
    print(f"{model.run}, threshold {model.threshold:g}\n{table(dice)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
