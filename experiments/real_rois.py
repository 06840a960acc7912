"""Does a tumour model that was trained on phantoms or synthetic patients find lesions in boxes of real scans?

    python experiments/real_rois.py ROIS OUT --path CHECKPOINTS [--data SPLIT] [--stage tumor_fine]

ROIS is a folder with one .npz file per patient that holds ``hu``, int16 of shape (D, H, W); ``label``, uint8 with 1 for
the lesion, 4 for parenchyma, 5 for the duct and 255 where there is no data; and ``spacing_xyz`` in mm. Boxes are
resampled to the voxels of the network, or to --spacing. Stacks of few slices are padded by repeating the outermost
ones, which do not count in the scores.

Writes cases.csv, summary.txt and a picture per patient to OUT, and prints the summary with mean areas under the ROC
curve: how often a voxel of the lesion has a higher probability than one of the gland around it, and than one of any
other tissue. For comparison, how often it is darker than one of the gland.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.common.errors import InputError, command
from data.scans.boxes import triple
from engine.device import choose_device
from engine.infer.components import keep_components
from engine.infer.models import StageModel, load_model
from engine.metrics import case_metrics
from engine.options import add_average, add_gpu, add_path
from engine.report.pictures import draw_overlay
from engine.report.tables import summary_table, write_case_table
from engine.stages import STAGES
from experiments.stacks import FAT_HU, SOFT_ABOVE_HU, Spacing, Stack, make_stack, probability_of, rank

LESION, PARENCHYMA, DUCT, NO_DATA = 1, 4, 5, 255  # values of the labels
TUMOUR_STAGES = tuple(name for name, stage in STAGES.items() if not stage.segments_pancreas)
RANKS = {
    "rank_gland": "lesion ranked above the gland around it",
    "rank": "lesion ranked above other tissue",
    "rank_dark": "lesion darker than the gland around it",
}


def read_patient(path: Path, spacing: Spacing) -> Stack:
    """Read a .npz file and resample it to voxels of ``spacing`` (z, y, x) in mm."""
    with np.load(path) as file:
        image, label, own_spacing = file["hu"].astype(np.float32), file["label"], triple(file["spacing_xyz"][::-1])
    image[label == NO_DATA] = FAT_HU
    masks = {"lesion": label == LESION, "gland": np.isin(label, (PARENCHYMA, DUCT))}
    return make_stack(image, masks, own_spacing, spacing)


def evaluate(model: StageModel, path: Path, spacing: Spacing, out: Path) -> dict[str, str | float]:
    """Segment and score one patient, draw the picture, and return the row of the table."""
    stack = read_patient(path, spacing)
    image, lesion, gland = stack.shown, stack.masks["lesion"], stack.masks["gland"]
    probability = probability_of(model, stack, spacing)
    mask = keep_components(probability > model.threshold)
    row: dict[str, str | float] = {"case": path.stem, "centre": "real", **case_metrics(mask, lesion, spacing)}
    row["rank_gland"] = rank(probability, lesion, gland & ~lesion)
    row["rank"] = rank(probability, lesion, ~lesion & (image > SOFT_ABOVE_HU))
    row["rank_dark"] = rank(-image, lesion, gland & ~lesion)
    caption = f"{path.stem}, Dice {row['dice']:.2f}, ranked above the gland {row['rank_gland']:.2f}"
    draw_overlay(
        out / f"{path.stem}.png",
        image,
        reference=2 * lesion.astype(np.uint8),
        prediction=2 * mask.astype(np.uint8),
        spacing=spacing,
        title=caption,
    )
    return row


@command
def main(argv: list[str] | None = None) -> int:
    """Evaluate every patient of the folder; write the tables and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rois", type=Path, metavar="ROIS", help="folder of .npz files, one per patient")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the tables and pictures")
    parser.add_argument(
        "--data",
        default="synthetic",
        metavar="SPLIT",
        help="split of the run, such as none for one that was trained on every centre (default: synthetic)",
    )
    parser.add_argument(
        "--stage", choices=TUMOUR_STAGES, default=TUMOUR_STAGES[0], help=f"stage (default: {TUMOUR_STAGES[0]})"
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="voxel spacing in mm of the cases that the model was trained on (default: that of its network)",
    )
    add_gpu(parser)
    add_path(parser)
    add_average(parser)
    args = parser.parse_args(argv)
    paths = sorted(args.rois.glob("*.npz"))
    if not paths:
        raise InputError(args.rois, "holds no .npz file", "give the folder of the real boxes")
    readout = "average" if args.average else "segmentation"
    model = load_model(args.path, args.stage, args.data, choose_device(args.gpu), readout=readout)
    spacing = triple(args.spacing or model.stage.sampling.target_mm)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [evaluate(model, path, spacing, args.out) for path in paths]
    write_case_table(args.out / "cases.csv", rows)
    text = summary_table(rows, f"{args.rois.name}: {model.run}, threshold {model.threshold:g}") + "\n"
    for name, meaning in RANKS.items():
        text += f"{meaning}: {np.nanmean([row[name] for row in rows]):.3f} (0.5 by chance)\n"
    (args.out / "summary.txt").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
