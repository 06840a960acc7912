"""A reality check: a tumour coarse model of phantoms on real pancreas boxes with a labelled lesion.

    python benchmarks/real_rois.py ROIS OUT --path CHECKPOINTS

ROIS holds one .npz a patient: ``hu`` int16 (D, H, W); ``label`` uint8, 1 lesion, 255 no data; ``spacing_xyz`` mm. The
model is that of ``--data none``: trained on every centre, of which these patients are none. Boxes are brought to the
voxels that it was trained on; stacks of few slices are padded by repeating the outermost, which are not scored.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.stats import mannwhitneyu

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.augment import resample
from data.common.errors import command
from data.samples import NetworkGrid
from engine.device import choose_device
from engine.infer.box import box_probability, keep_large_components
from engine.infer.cascade import StageModel, load_model
from engine.metrics import case_metrics
from engine.options import add_average, add_gpu, add_path
from engine.report.pictures import draw_overlay
from engine.report.tables import summary_table, write_case_table

LESION, NO_DATA, FAT_HU = 1, 255, -100
LEAST_SLICES = 16


def read(path: Path, spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, slice]:
    """One patient at ``spacing`` (z, y, x): padded image int16 HU and lesion (D, H, W), and which slices are real."""
    with np.load(path) as file:
        image, label, own = file["hu"].astype(np.float32), file["label"], file["spacing_xyz"][::-1]
    image[label == NO_DATA] = FAT_HU
    factor = tuple(float(s / o) for s, o in zip(spacing, own, strict=True))
    grid = NetworkGrid(tuple(max(1, round(n / f)) for n, f in zip(image.shape, factor, strict=True)), factor)
    pair = torch.from_numpy(np.stack([image, (label == LESION).astype(np.float32)]))[None]
    image, lesion = resample(pair, grid, beyond="border")[0].numpy()
    missing = max(0, LEAST_SLICES - len(image))
    real = slice(missing // 2, missing // 2 + len(image))
    image = np.pad(image, ((missing // 2, missing - missing // 2), (0, 0), (0, 0)), mode="edge")
    lesion = np.pad(lesion, ((missing // 2, missing - missing // 2), (0, 0), (0, 0)))
    return np.rint(image).astype(np.int16), lesion >= 0.5, real


def rank(probability: np.ndarray, lesion: np.ndarray, image: np.ndarray) -> float:
    """How often a voxel of the lesion is held likelier than one of other tissue: the area under the ROC curve."""
    rest = probability[~lesion & (image > FAT_HU / 2)]
    return float(mannwhitneyu(probability[lesion], rest).statistic) / (lesion.sum() * len(rest))


def evaluate(model: StageModel, path: Path, spacing: tuple[float, float, float], out: Path) -> dict:
    """Segment and score one patient; a row of the table, and a picture."""
    image, lesion, real = read(path, spacing)
    options = {"stage": model.stage, "device": model.device, "readout": model.readout}
    probability = box_probability(model.net, image, spacing, **options)
    mask = keep_large_components(probability > model.threshold)
    mask, lesion, image = mask[real], lesion[real], image[real]
    row = {"case": path.stem, "centre": "real", **case_metrics(mask, lesion, spacing)}
    row["rank"] = rank(probability[real], lesion, image)
    caption = f"{path.stem}, Dice {row['dice']:.2f}"
    masks = {"reference": 2 * lesion.astype(np.uint8), "prediction": 2 * mask.astype(np.uint8)}
    draw_overlay(out / f"{path.stem}.png", image, **masks, spacing=spacing, title=caption)
    return row


@command
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rois", type=Path, metavar="ROIS", help="folder of .npz")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for cases.csv, summary.txt and a picture a case")
    parser.add_argument(
        "--spacing", type=float, nargs=3, default=(3.0, 2.8, 2.8), help="z y x mm that it was trained on"
    )
    add_gpu(parser)
    add_path(parser)
    add_average(parser)
    args = parser.parse_args()
    readout = "average" if args.average else "segmentation"
    model = load_model(args.path, "tumor_coarse", "none", choose_device(args.gpu), readout=readout)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [evaluate(model, path, tuple(args.spacing), args.out) for path in sorted(args.rois.glob("*.npz"))]
    write_case_table(args.out / "cases.csv", rows)
    text = summary_table(rows, f"{args.rois.name}: {model.run}, threshold {model.threshold:g}")
    ranks = np.mean([row["rank"] for row in rows])
    text += f"\nlesion ranked above other tissue: {ranks:.3f} (0.5 by chance)\n"
    (args.out / "summary.txt").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
