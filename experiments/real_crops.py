"""Does a pancreas model tell the gland from what touches it in crops of real scans, in one hospital as in another?

    python experiments/real_crops.py CROPS OUT --path CHECKPOINTS [--data SPLIT]

CROPS has a folder for each hospital with an .npz file per patient: for each slice i ``image_i``, uint8, and ``mask_i``,
both tight around the gland; ``z`` and ``origin_xy_voxel``, where slices and crops lie, with y towards the front and row
0 in front; ``spacing_xyz_mm``. The grey values 0 and 255 stand for -150 and 250 HU. The slices are put into their
places, gaps between them take the nearest slice and do not count, and what the crops do not show becomes fat.

The crops are too tight to ask whether the pancreas is found. Printed is, for each hospital, the mean area under the ROC
curve: how often a voxel of the gland has a higher probability than one of the crop outside it, of all these and of
those that are not fat (above -50 HU); and for comparison, how often it is only brighter. Writes cases.csv to OUT, and
crops.png with a slice of up to eight patients of each hospital.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.common.errors import InputError, command
from data.common.files import ARCHIVE_ERRORS
from data.scans.boxes import triple
from engine.device import choose_device
from engine.infer.models import StageModel, load_model
from engine.options import add_average, add_gpu, add_path
from engine.report.pictures import BACKGROUND, COLOURS, save_figure
from engine.report.tables import write_case_table
from engine.stages import STAGES
from experiments.common import draw_outline
from experiments.stacks import FAT_HU, SOFT_ABOVE_HU, Spacing, make_stack, probability_of, rank

LOW_HU, HIGH_HU = -150.0, 250.0  # of the grey values 0 and 255
PANCREAS_STAGES = tuple(name for name, stage in STAGES.items() if stage.segments_pancreas)
RANKS = {"rank": "all", "rank_soft": "not fat", "grey_soft": "not fat, by HU"}
SHOWN = 8


class Crops(NamedTuple):
    """The slices of a patient in their places.

    Attributes:
        hu: float32 (D, H, W).
        gland: Boolean mask of the same shape.
        seen: Where the crops are, without slices that only fill a gap.
        spacing: (z, y, x) in mm.
    """

    hu: np.ndarray
    gland: np.ndarray
    seen: np.ndarray
    spacing: Spacing


def read_crops(path: Path) -> Crops:
    """Read the file of a patient.

    Raises:
        InputError: If it does not hold such crops.
    """
    try:
        with np.load(path) as file:
            heights, origins, spacing = (
                file["z"],
                file["origin_xy_voxel"],
                triple(map(float, file["spacing_xyz_mm"][::-1])),
            )
            images = [file[f"image_{i}"] for i in range(len(heights))]
            masks = [file[f"mask_{i}"] > 0 for i in range(len(heights))]
    except ARCHIVE_ERRORS as error:
        raise InputError(path, f"does not hold crops of a patient ({error})", "copy it again") from error
    sizes = np.array([image.shape for image in images])
    left, front = origins[:, 0].min(), (origins[:, 1] + sizes[:, 0]).max()
    width, height = (origins[:, 0] + sizes[:, 1]).max() - left, front - origins[:, 1].min()
    shape = (int(heights.max() - heights.min()) + 1, int(height), int(width))
    hu, gland, seen = np.full(shape, FAT_HU, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
    for z in range(shape[0]):
        nearest = int(np.abs(heights - heights.min() - z).argmin())
        (x, y), (rows, columns) = origins[nearest] - (left, 0), sizes[nearest]
        first = front - y - rows
        place = (z, slice(first, first + rows), slice(x, x + columns))
        hu[place] = images[nearest] * np.float32((HIGH_HU - LOW_HU) / 255) + np.float32(LOW_HU)
        if heights[nearest] - heights.min() == z:
            gland[place], seen[place] = masks[nearest], True
    return Crops(hu, gland, seen, spacing)


class Scored(NamedTuple):
    """A patient's row of the table, and what the picture shows of it: a slice of the image, the gland and the mask."""

    row: dict[str, str | float]
    picture: tuple[np.ndarray, np.ndarray, np.ndarray]


def evaluate(model: StageModel, path: Path, spacing: Spacing) -> Scored:
    """Segment and score one patient."""
    crops = read_crops(path)
    stack = make_stack(crops.hu, {"gland": crops.gland, "seen": crops.seen}, crops.spacing, spacing)
    image, gland = stack.shown, stack.masks["gland"]
    around = stack.masks["seen"] & ~gland
    soft = around & (image > SOFT_ABOVE_HU)
    probability = probability_of(model, stack, spacing)
    mask = probability > model.threshold
    common = np.count_nonzero(mask & gland)
    row: dict[str, str | float] = {"case": path.stem, "centre": path.parent.name}
    row["rank"] = rank(probability, gland, around)
    row["rank_soft"] = rank(probability, gland, soft)
    row["grey_soft"] = rank(image, gland, soft)
    row["dice_in_crop"] = 2 * common / max(1, np.count_nonzero(mask & stack.masks["seen"]) + np.count_nonzero(gland))
    middle = int(gland.sum(axis=(1, 2)).argmax())
    return Scored(row, (image[middle], gland[middle], mask[middle]))


def draw_crops(path: Path, scored: list[Scored], title: str) -> None:
    """Write a PNG with a line of slices for each hospital: gland in green, prediction in pink."""
    hospitals = list(dict.fromkeys(str(one.row["centre"]) for one in scored))
    figure = Figure(figsize=(2 * SHOWN, 2.3 * len(hospitals) + 0.4), dpi=100, facecolor=BACKGROUND)
    for line, hospital in enumerate(hospitals):
        patients = [one for one in scored if one.row["centre"] == hospital][:SHOWN]
        for number, (row, (image, gland, mask)) in enumerate(patients):
            axes = figure.add_subplot(len(hospitals), SHOWN, line * SHOWN + number + 1)
            axes.imshow(image, cmap="gray", vmin=LOW_HU, vmax=HIGH_HU)
            for outline, origin in ((gland, "reference"), (mask, "prediction")):
                draw_outline(axes, outline, np.array(COLOURS[origin, 1]) / 255, 1)
            caption = f"{hospital} {row['case']}\nrank {row['rank_soft']:.2f}"
            axes.set_title(caption, color="white", fontsize=7, parse_math=False)
            axes.set_axis_off()
    figure.suptitle(title, color="white", fontsize=8, parse_math=False)
    save_figure(figure, path)


def table(rows: list[dict[str, str | float]]) -> str:
    """Write the means of each hospital."""
    lines = [f"{'hospital':<16}{'patients':>9}" + "".join(f"{text:>16}" for text in RANKS.values()) + f"{'Dice':>8}"]
    for hospital in dict.fromkeys(row["centre"] for row in rows):
        own = [row for row in rows if row["centre"] == hospital]
        means = "".join(f"{np.nanmean([row[name] for row in own]):>16.3f}" for name in RANKS)
        dice = np.mean([row["dice_in_crop"] for row in own])
        lines.append(f"{hospital:<16}{len(own):>9}{means}{dice:>8.3f}")
    return "\n".join(lines)


@command
def main(argv: list[str] | None = None) -> int:
    """Evaluate every patient of every hospital; write table and picture, and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "crops", type=Path, metavar="CROPS", help="folder with a folder of .npz files for each hospital"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the table and the picture")
    parser.add_argument(
        "--data", default="synthetic", metavar="SPLIT", help="split whose run is used (default: synthetic)"
    )
    parser.add_argument(
        "--stage", choices=PANCREAS_STAGES, default=PANCREAS_STAGES[-1], help=f"stage (default: {PANCREAS_STAGES[-1]})"
    )
    add_gpu(parser)
    add_path(parser)
    add_average(parser)
    args = parser.parse_args(argv)
    paths = sorted(args.crops.glob("*/*.npz"))
    if not paths:
        raise InputError(args.crops, "holds no HOSPITAL/PATIENT.npz", "give the folder of the real crops")
    has_distance = "sdf" in STAGES[args.stage].method.heads
    readout = "average" if args.average and has_distance else "segmentation"
    model = load_model(args.path, args.stage, args.data, choose_device(args.gpu), readout=readout)
    spacing = triple(model.stage.sampling.target_mm)
    args.out.mkdir(parents=True, exist_ok=True)
    scored = [evaluate(model, path, spacing) for path in paths]
    rows = [one.row for one in scored]
    write_case_table(args.out / "cases.csv", rows)
    draw_crops(args.out / "crops.png", scored, f"{model.run}: gland green, prediction pink")
    print(f"{model.run}, threshold {model.threshold:g}\n{table(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
