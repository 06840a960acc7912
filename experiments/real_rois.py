"""Does a tumour coarse model trained on phantoms find lesions in boxes of real scans?

    python experiments/real_rois.py ROIS OUT --path CHECKPOINTS

ROIS is a folder with one .npz file per patient that holds ``hu``, int16 of shape (D, H, W); ``label``, uint8 with 1 for
the lesion and 255 where there is no data; and ``spacing_xyz`` in mm. The model is the newest run of ``--data none``,
which was trained on every centre. Boxes are resampled to the voxels that the model was trained on. Stacks of few slices
are padded by repeating the outermost ones, which do not count in the scores.

Writes cases.csv, summary.txt and a picture per patient to OUT, and prints the summary with the mean area under the ROC
curve: how often a voxel of the lesion has a higher probability than one of other tissue.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import mannwhitneyu

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.common.errors import InputError, command
from data.samples import NetworkGrid
from data.warp import resample
from engine.device import choose_device
from engine.infer.box import box_probability
from engine.infer.components import keep_components
from engine.infer.models import StageModel, load_model
from engine.metrics import case_metrics
from engine.options import add_average, add_gpu, add_path
from engine.report.pictures import draw_overlay
from engine.report.tables import summary_table, write_case_table

LESION, NO_DATA = 1, 255  # values of the labels
FAT_HU = -100
LEAST_SLICES = 16

Spacing = tuple[float, float, float]


class Patient(NamedTuple):
    """One resampled box.

    Attributes:
        image: int16 HU, shape (D, H, W), padded to LEAST_SLICES.
        lesion: Boolean mask, same shape.
        real: The slices that are not padding.
    """

    image: np.ndarray
    lesion: np.ndarray
    real: slice


def read_patient(path: Path, spacing: Spacing) -> Patient:
    """Read a .npz file and resample it to voxels of ``spacing`` (z, y, x) in mm."""
    with np.load(path) as file:
        image, label, own_spacing = file["hu"].astype(np.float32), file["label"], file["spacing_xyz"][::-1]
    image[label == NO_DATA] = FAT_HU
    z, y, x = (float(s / o) for s, o in zip(spacing, own_spacing, strict=True))
    depth, height, width = (max(1, round(n / f)) for n, f in zip(image.shape, (z, y, x), strict=True))
    grid = NetworkGrid((depth, height, width), (z, y, x))
    pair = torch.from_numpy(np.stack([image, (label == LESION).astype(np.float32)]))[None]
    image, lesion = resample(pair, grid, beyond="border")[0].numpy()
    missing = max(0, LEAST_SLICES - len(image))
    padding = ((missing // 2, missing - missing // 2), (0, 0), (0, 0))
    return Patient(
        image=np.rint(np.pad(image, padding, mode="edge")).astype(np.int16),
        lesion=np.pad(lesion, padding) >= 0.5,
        real=slice(missing // 2, missing // 2 + len(image)),
    )


def evaluate(model: StageModel, path: Path, spacing: Spacing, out: Path) -> dict[str, str | float]:
    """Segment and score one patient, draw the picture, and return the row of the table."""
    image, lesion, real = read_patient(path, spacing)
    probability = box_probability(
        model.net, image, spacing, stage=model.stage, device=model.device, readout=model.readout
    )
    mask = keep_components(probability > model.threshold)[real]
    image, lesion, probability = image[real], lesion[real], probability[real]
    row: dict[str, str | float] = {"case": path.stem, "centre": "real", **case_metrics(mask, lesion, spacing)}
    other_tissue = probability[~lesion & (image > FAT_HU / 2)]
    pairs = lesion.sum() * len(other_tissue)
    row["rank"] = float(mannwhitneyu(probability[lesion], other_tissue).statistic) / pairs  # area under the ROC curve
    caption = f"{path.stem}, Dice {row['dice']:.2f}"
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
def main() -> int:
    """Evaluate every patient of the folder; write the tables and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rois", type=Path, metavar="ROIS", help="folder of .npz files, one per patient")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the tables and pictures")
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        default=(3.0, 2.8, 2.8),
        help="voxel spacing in mm of the cases that the model was trained on (default: 3.0 2.8 2.8)",
    )
    add_gpu(parser)
    add_path(parser)
    add_average(parser)
    args = parser.parse_args()
    paths = sorted(args.rois.glob("*.npz"))
    if not paths:
        raise InputError(args.rois, "holds no .npz file", "give the folder of the real boxes")
    readout = "average" if args.average else "segmentation"
    model = load_model(args.path, "tumor_coarse", "none", choose_device(args.gpu), readout=readout)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [evaluate(model, path, tuple(args.spacing), args.out) for path in paths]
    write_case_table(args.out / "cases.csv", rows)
    text = summary_table(rows, f"{args.rois.name}: {model.run}, threshold {model.threshold:g}")
    ranks = np.mean([row["rank"] for row in rows])
    text += f"\nlesion ranked above other tissue: {ranks:.3f} (0.5 by chance)\n"
    (args.out / "summary.txt").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
