"""Does a pancreas model that was trained on synthetic patients find the pancreas in real scans, and if not, what then?

    python experiments/real_scans.py FOLDER OUT --path CHECKPOINTS --data SPLIT [--label NAME=FILE:CODES ...]

FOLDER has a folder for each patient, with the scan ``ct.nii.gz`` (or another format) and its label beside it, and
optionally the same scan as a folder of DICOM slices, which is segmented as well. The stages follow each other as in
``predict.py``, and every mask is scored on the voxels of the scan. Written to OUT are, for each scan and stage, the
mask and a picture, with three slices through the centre of the reference and three through that of the prediction; and
the table cases.csv. Besides the metrics of the evaluation the table has

    found         whether the centre of the predicted box is at most 30 mm from that of the reference's box
    centre_mm     this distance, and centre_z_mm, centre_y_mm, centre_x_mm: towards the head, the back and the left
    rank          how often a voxel of the gland has a higher probability than another voxel of the body in the box that
                  the stage read: the area under the ROC curve, 0.5 by chance

Real scans should decide nothing about the training. Each call therefore adds a line to OUT/looks.txt: the date, the
commit, the runs and what came out, so that one can say how often the scans were looked at.
"""

import argparse
import datetime
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.cases.labels import HU_WINDOW, codes_in
from data.cases.resample import apply_preparation
from data.common.errors import InputError, command
from data.common.files import REPOSITORY, check_writable
from data.scans.body import body_box
from data.scans.boxes import bounding_box, union
from data.scans.bytes import SUFFIXES
from data.scans.volume import Volume, read_image, read_label, write_mask
from engine.device import choose_device
from engine.infer.cascade import StageResult, segment_stage, select_roi
from engine.infer.models import StageModel, describe_model, load_model
from engine.metrics import case_metrics
from engine.options import add_average, add_fast, add_gpu, add_path
from engine.report.pictures import BACKGROUND, COLOURS, save_figure
from engine.report.tables import CaseRow, write_case_table
from engine.stages import STAGES
from experiments.common import draw_outline
from experiments.stacks import rank

FOUND_MM = 30.0
TISSUE_ABOVE_HU = -300
PANCREAS_STAGES = tuple(name for name, stage in STAGES.items() if stage.segments_pancreas)
PLANES = ("axial", "coronal", "sagittal")


class LabelSource(NamedTuple):
    """Where the pancreas of a patient is labelled.

    Attributes:
        file: Name of the file in the patient's folder.
        codes: The codes that are pancreas.
    """

    file: str
    codes: tuple[int, ...]


def parse_label(text: str) -> tuple[str, LabelSource]:
    """Read NAME=FILE:CODES, such as ``patient_7=organs.nii.gz:10``: the name of the folder and its label.

    Raises:
        argparse.ArgumentTypeError: If that is not such an entry.
    """
    name, _, source = text.partition("=")
    file, _, codes = source.rpartition(":")
    numbers = codes.split(",")
    if not (name and file and all(number.isdecimal() and 0 < int(number) < 256 for number in numbers)):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=FILE:CODES, such as patient_7=organs.nii.gz:10")
    return name, LabelSource(file, tuple(map(int, numbers)))


class Scan(NamedTuple):
    """A scan and where its label is.

    Attributes:
        name: Name of the patient's folder, with that of the folder of DICOM slices below it.
        patient: Name of the patient's folder.
        path: File, or folder of DICOM slices.
        label: File of the label.
        codes: Its codes that are pancreas; none for all above 0.
    """

    name: str
    patient: str
    path: Path
    label: Path
    codes: tuple[int, ...]


def find_scans(folder: Path, labels: Mapping[str, LabelSource]) -> list[Scan]:
    """List the scans of a folder, those of a patient one after the other.

    Args:
        folder: Has a folder for each patient.
        labels: Which file and codes hold the pancreas, by the name of the folder; by default all codes of the only
            other file beside the scan.

    Raises:
        InputError: If there is no scan, a label is missing, or an entry is of no patient.
    """
    scans: list[Scan] = []
    for patient in sorted(path for path in folder.glob("[!.]*") if path.is_dir()):
        files = [file for file in sorted(patient.iterdir()) if file.name.lower().endswith(SUFFIXES)]
        ct = [file for file in files if file.name.split(".")[0] == "ct"]
        if not ct:
            continue
        others = [file for file in files if file not in ct]
        if patient.name in labels:
            label, codes = patient / labels[patient.name].file, labels[patient.name].codes
        elif len(others) == 1:
            label, codes = others[0], ()
        else:
            problem = f"holds {len(others)} files beside ct, so that its label is not known"
            raise InputError(patient, problem, f"name it: --label {patient.name}=FILE:CODES")
        series = [path for path in sorted(patient.iterdir()) if path.is_dir() and any(path.glob("[!.]*"))]
        for path in (ct[0], *series):
            name = patient.name if path == ct[0] else f"{patient.name}_{path.name}"
            scans.append(Scan(name, patient.name, path, label, codes))
    if not scans:
        raise InputError(folder, "has no folders with a scan named ct", "give a folder with FOLDER/PATIENT/ct.nii.gz")
    if unknown := sorted(set(labels) - {scan.patient for scan in scans}):
        raise InputError(f"--label {unknown[0]}", f"{folder} has no such patient", "use the names of its folders")
    return scans


def read_reference(scan: Scan, volume: Volume) -> np.ndarray:
    """Read the pancreas of a scan: boolean, shape (D, H, W) of the scan in LPS order.

    Raises:
        InputError: If the file holds several codes and none was named, or lacks those that were.
    """
    label = read_label(scan.label, volume).array
    present = codes_in(label)
    if not scan.codes and len(present) > 2:
        codes = ", ".join(map(str, present[present > 0]))
        entry = f"--label {scan.patient}={scan.label.name}:CODES"
        raise InputError(
            scan.label, f"holds the codes {codes}, and which are pancreas is not known", f"name it: {entry}"
        )
    reference = np.isin(label, scan.codes) if scan.codes else label > 0
    if not reference.any():
        raise InputError(scan.label, "holds no pancreas", "check the codes of --label")
    return reference


def segment(models: Mapping[str, StageModel], volume: Volume) -> Iterator[tuple[str, StageResult, Volume]]:
    """Segment a scan stage by stage, as ``predict.py`` does, and keep the probabilities of every stage.

    Args:
        models: The first stages of the cascade, in its order.
        volume: The scan in HU.

    Yields:
        Name of the stage, its result, and the image that it saw as a volume whose grid leads back to the scan.
    """
    preparation = next(iter(models.values())).preparation
    image, spacing, part = apply_preparation(volume.array, volume.spacing, preparation)
    seen = replace(volume, array=image, spacing=spacing, grid=replace(volume.grid, part=part))
    masks: dict[str, np.ndarray] = {}
    for name, model in models.items():
        roi, _ = select_roi(model.stage, masks, spacing)
        result = segment_stage(model, image, spacing, roi, keep=True)
        masks[name] = result.mask
        yield name, result, seen


def measure(
    result: StageResult, seen: Volume, prediction: np.ndarray, reference: np.ndarray, volume: Volume
) -> CaseRow:
    """Score a stage on a scan; the docstring of this file describes what the row has besides the usual metrics.

    Args:
        result: Of the stage.
        seen: The image that it saw.
        prediction: Its mask on the voxels of the scan, boolean (D, H, W).
        reference: Of the same shape.
        volume: The scan.
    """
    wanted, found = bounding_box(reference), bounding_box(prediction)
    offset = np.full(3, np.nan)
    if found and wanted:
        offset = (np.add(*found) - np.add(*wanted)) / 2 * volume.spacing
    distance = float(np.linalg.norm(offset))
    row: CaseRow = {"found": "yes" if distance <= FOUND_MM else "no", "centre_mm": distance}
    row |= {f"centre_{axis}_mm": float(mm) for axis, mm in zip("zyx", offset, strict=True)}
    row["rank"] = np.nan
    if result.probability is not None:
        box, probability = result.probability.box, result.probability.values
        gland = seen.grid.to_prepared(reference)[box.slices]
        others = ~gland & (seen.array[box.slices] > TISSUE_ABOVE_HU)
        row["rank"] = rank(probability, gland, others)
    return row | case_metrics(prediction, reference, volume.spacing)


def on_scan(seen: Volume, array: np.ndarray) -> np.ndarray:
    """Put an array of what a stage saw onto the voxels of the scan, in LPS order (D, H, W)."""
    return seen.grid.to_lps(seen.grid.to_file(array))


def draw_scan(
    path: Path, volume: Volume, reference: np.ndarray, prediction: np.ndarray, probability: np.ndarray, title: str
) -> None:
    """Write a PNG: the body in three planes through the centre of the reference, and below through the prediction's.

    Where the prediction is empty, the planes below pass through the highest probability. Probabilities are shown as a
    veil of colour, so that one also sees what is almost taken for a pancreas.

    Args:
        path: The file.
        volume: The scan.
        reference: Boolean mask (D, H, W).
        prediction: Boolean mask of the same shape.
        probability: float32, same shape; 0 where the stage did not look.
        title: Of the picture.
    """
    body = body_box(volume.array, volume.spacing, bounding_box(reference))
    if found := bounding_box(prediction):
        body = union(body, found)
    crop = body.slices
    image, masks, veil = volume.array[crop], (reference[crop], prediction[crop]), probability[crop]
    peak = np.unravel_index(int(veil.argmax()), veil.shape)
    centres = [
        np.argwhere(mask).mean(axis=0).round().astype(int) if mask.any() else np.array(peak, int) for mask in masks
    ]
    names = ("reference", "prediction" if prediction.any() else "highest probability, nothing was predicted")
    mm = [n * s for n, s in zip(body.shape, volume.spacing, strict=True)]
    widths = [mm[2], mm[2], mm[1]]
    height = max(mm[0], mm[1])
    scale = min(15 / sum(widths), 5.5 / height)  # inches for a mm
    figure = Figure(figsize=(max(8, scale * sum(widths) + 1), 2 * scale * height + 1.6), dpi=110, facecolor=BACKGROUND)
    grid = figure.add_gridspec(2, 3, width_ratios=widths, wspace=0.02, hspace=0.12, left=0.01, right=0.99, bottom=0.02)
    for line, (centre, name) in enumerate(zip(centres, names, strict=True)):
        for axis, plane in enumerate(PLANES):
            axes = figure.add_subplot(grid[line, axis])
            show_plane(axes, axis, int(centre[axis]), image, masks, veil, volume.spacing)
            where = int(centre[axis]) + body.start[axis]
            axes.set_title(f"{plane} {'zyx'[axis]} {where}, {name}", color="white", fontsize=8, parse_math=False)
    head = f"{title}\nreference green, prediction pink, probability as a veil"
    figure.suptitle(head, color="white", fontsize=10, parse_math=False)
    save_figure(figure, path)


def show_plane(
    axes: Axes,
    axis: int,
    index: int,
    image: np.ndarray,
    masks: Sequence[np.ndarray],
    veil: np.ndarray,
    spacing: Sequence[float],
) -> None:
    """Draw one plane across ``axis`` with the head, or the patient's front, upwards."""
    rows, columns = [s for a, s in enumerate(spacing) if a != axis]
    turned = slice(None) if axis == 0 else slice(None, None, -1)
    grey, heat, *outlines = (np.take(volume, index, axis)[turned] for volume in (image, veil, *masks))
    axes.imshow(grey, cmap="gray", vmin=HU_WINDOW[0], vmax=HU_WINDOW[1], aspect=rows / columns)
    axes.imshow(np.ma.masked_less(heat, 0.02), cmap="autumn", vmin=0, vmax=1, alpha=0.25, aspect=rows / columns)
    for outline, origin in zip(outlines, ("reference", "prediction"), strict=True):
        draw_outline(axes, outline, np.array(COLOURS[origin, 1]) / 255, 1.1)
    axes.set_axis_off()


def describe_commit() -> str:
    """Return the commit of this checkout, with "+" if files differ from it; "unknown" outside a checkout."""
    git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--abbrev=10", "--dirty=+"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def record_look(path: Path, models: Mapping[str, StageModel], rows: Sequence[CaseRow]) -> int:
    """Add a line to the record of how often the scans were looked at; return the number of its lines."""
    runs = ", ".join(f"{name} {model.run} epoch {model.epoch}" for name, model in models.items())
    figures = ", ".join(f"{row['case']} {row['stage']} {row['dice']:.3f} {row['centre_mm']:.0f} mm" for row in rows)
    time = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{time}\t{describe_commit()}\t{runs}\t{figures}\n")
    return len(path.read_text(encoding="utf-8").splitlines())


def table(rows: Sequence[CaseRow]) -> str:
    """Write the rows, and for each stage the mean over patients; a series of the same scan is not counted twice."""
    lines = [f"{'scan':<32}{'stage':<17}{'Dice':>7}{'rank':>7}{'centre mm':>11}{'ml':>7}{'of ml':>7}  found"]
    for row in rows:
        numbers = f"{row['dice']:>7.3f}{row['rank']:>7.3f}{row['centre_mm']:>11.0f}"
        volumes = f"{row['prediction_ml']:>7.0f}{row['reference_ml']:>7.0f}"
        lines.append(f"{row['case']:<32}{row['stage']:<17}{numbers}{volumes}  {row['found']}")
    for stage in dict.fromkeys(row["stage"] for row in rows):
        patients = {row["centre"]: row for row in reversed(rows) if row["stage"] == stage}  # the first of each counts
        dice = np.mean([row["dice"] for row in patients.values()])
        found = sum(row["found"] == "yes" for row in patients.values())
        lines.append(f"{'mean of patients':<32}{stage:<17}{dice:>7.3f}{'':>32}  {found} of {len(patients)}")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder with a folder for each patient")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for table, masks, pictures and looks.txt")
    parser.add_argument(
        "--data", default="synthetic", metavar="SPLIT", help="split whose runs are used (default: synthetic)"
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=PANCREAS_STAGES,
        default=PANCREAS_STAGES,
        metavar="STAGE",
        help=f"the first stages of the cascade, such as the first alone (default: {' '.join(PANCREAS_STAGES)})",
    )
    parser.add_argument(
        "--label",
        type=parse_label,
        action="append",
        default=[],
        metavar="NAME=FILE:CODES",
        help="label of the patient NAME, with the codes of its pancreas, separated by commas; needed where several "
        "files lie beside the scan, or the label has several codes (repeatable)",
    )
    add_path(parser)
    add_average(parser)
    add_fast(parser)
    add_gpu(parser)
    args = parser.parse_args(argv)
    if tuple(args.stages) != PANCREAS_STAGES[: len(args.stages)]:
        parser.error(f"--stages has to begin with {PANCREAS_STAGES[0]}, as a stage looks where the one before found it")
    return args


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Segment and score all scans; write masks, pictures and the table."""
    args = parse(argv)
    scans = find_scans(args.folder, dict(args.label))
    device, models = choose_device(args.gpu), {}
    for name in args.stages:
        readout = "average" if args.average and "sdf" in STAGES[name].method.heads else "segmentation"
        models[name] = load_model(args.path, name, args.data, device, readout=readout, fast=args.fast)
        print(describe_model(models[name]))
    check_writable(args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[CaseRow] = []
    for scan in scans:
        volume = read_image(scan.path)
        reference = read_reference(scan, volume)
        for name, result, seen in segment(models, volume):
            prediction = on_scan(seen, result.mask)
            write_mask(args.out / f"{scan.name}_{name}.nii.gz", result.mask, seen.grid)
            row: CaseRow = {"case": scan.name, "stage": name, "centre": scan.patient}
            rows.append(row | measure(result, seen, prediction, reference, volume))
            probability = np.zeros(seen.array.shape, np.float32)
            if result.probability is not None:
                probability[result.probability.box.slices] = result.probability.values
            title = f"{scan.name}, {name}: Dice {rows[-1]['dice']:.2f}, centre {rows[-1]['centre_mm']:.0f} mm off"
            picture = args.out / f"{scan.name}_{name}.png"
            draw_scan(picture, volume, reference, prediction, on_scan(seen, probability), title)
    write_case_table(args.out / "cases.csv", rows)
    print(table(rows))
    print(f"look number {record_look(args.out / 'looks.txt', models, rows)} at these scans, see {args.out}/looks.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
