"""Command: segment the pancreas and its tumours in new scans with the four trained stages.

    python predict.py SCAN... -o OUT

Run again after an interruption, it goes on with the scans that are not done. Every scan is cropped and resampled as
the training cases were, and its mask is written on the grid of its file. Where the memory holds a whole box, the result
is that of the evaluation scripts, voxel for voxel, with one exception: ``data.prepare --crop body`` keeps the whole
label in the crop, which a new scan does not have. The crops are the same if the label lies within the body.
"""

import argparse
import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.cases.labels import TUMOUR
from data.cases.options import add_series
from data.cases.resample import apply_preparation
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import check_writable, remove_unfinished, sha256_of
from data.common.memory import require_memory
from data.common.progress import add_quiet, progress
from data.common.text import HelpFormatter
from data.prepare.provenance import stat_signature
from data.scans.bytes import SUFFIXES
from data.scans.grid import volume_ml
from data.scans.hounsfield import find_hu_problem
from data.scans.volume import Volume, read_image, write_mask
from data.sources.plausible import LARGEST_GLAND_ML
from data.splits.split import NONE_HELD_OUT
from engine.device import choose_device, naming_memory_errors
from engine.infer.cascade import StageModel, check_runs_folder, load_model, segment_scan
from engine.infer.volumes import PredictionFolder
from engine.options import add_average, add_gpu, add_path
from engine.report.drawing import drawing
from engine.report.pictures import draw_overlay
from engine.report.tables import CaseRow, failed
from engine.stages import STAGES

WORK_BYTES = 4  # per voxel of a scan, for masks of three stages, the label and its copy while it is written


@dataclass(frozen=True)
class PredictOptions:
    """What the command line asks for.

    Attributes:
        scans: Files, or folders of DICOM series.
        series: Which series of each DICOM folder; empty for the only one.
        output: Folder for masks, pictures and the table of volumes.
        split: The split whose models are used.
        until: Use the newest runs that were started at this time or before; None for the newest of all.
        average: Whether to average the two tasks in the stages that have a distance head.
        gpu: As in engine.options.
        path: As in engine.options.
    """

    scans: tuple[Path, ...]
    series: str
    output: Path
    split: str
    until: str | None
    average: bool
    gpu: str
    path: Path


def parse(argv: Sequence[str] | None) -> PredictOptions:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="predict.py",
        description="Segment the pancreas and its tumours in CT scans.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "scans", nargs="+", type=Path, metavar="SCAN", help="NIfTI, NRRD or MetaImage file, or folder of a DICOM series"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for masks, pictures and the table volumes.csv; rows of other scans stay in the table",
    )
    add_series(parser)
    parser.add_argument(
        "--data",
        default=NONE_HELD_OUT,
        metavar="CENTRE",
        help="use the models that were trained without this centre; none: those that were trained on all centres",
    )
    parser.add_argument(
        "--time",
        metavar="YYYY_MM_DD_HH_MM_SS",
        help="use the newest run of each stage that was started at this time or before (default: the newest run)",
    )
    add_gpu(parser)
    add_path(parser)
    add_average(parser)
    add_quiet(parser)
    args = parser.parse_args(argv)
    return PredictOptions(
        scans=tuple(args.scans),
        series=args.series,
        output=args.output,
        split=args.data,
        until=args.time,
        average=args.average,
        gpu=args.gpu,
        path=args.path,
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Segment the scans that the command line names. A scan that fails is listed and does not stop the others.

    Returns:
        The exit code: 2 if a scan failed, else 0.
    """
    options = parse(argv)
    folder = PredictionFolder(options.output)
    names = folder.assign_names(options.scans)
    check_runs_folder(options.path)
    models = load_models(options)
    check_writable(options.output)
    remove_unfinished([options.output])
    for model in models.values():
        print(f"{model.stage.title:<16} {model.run}, threshold {model.threshold:g}")
    rows, models_hash = [], hash_models(models)
    for scan, name in progress(names.items(), title="segmenting", unit="scan", total=len(names)):
        rows.append(predict_scan(scan, name, models, folder, models_hash=models_hash, series=options.series))
        folder.put(rows[-1])
    print(f"{'case':<32}{'pancreas ml':>12}{'tumour ml':>11}{'seconds':>9}  note")
    for row in rows:
        numbers = f"{row['pancreas_ml']:>12}{row['tumour_ml']:>11}{row['seconds']:>9}"
        print(f"{row['case']:<32}{numbers}  {'failed' if failed(row) else describe(row)}")
    faults = [row["error"] for row in rows if failed(row)]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


def load_models(options: PredictOptions) -> dict[str, StageModel]:
    """Load the models of the four stages by the name of their stage, in the order of the cascade.

    Raises:
        InputError: If a stage has no usable model, after a line for each such stage has been printed; or if the models
            were trained on cases that were prepared in different ways.
    """
    models, missing = {}, 0
    device = choose_device(options.gpu)
    for name, stage in STAGES.items():
        readout = "average" if options.average and "sdf" in stage.method.heads else "segmentation"
        try:
            models[name] = load_model(options.path, name, options.split, device, until=options.until, readout=readout)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            missing += 1
    if missing:
        complete = find_complete_splits(options.path)
        choice = f", or use the models of another split: --data {' or --data '.join(complete)}" if complete else ""
        problem = f"{missing} of the {len(STAGES)} stages have no usable model for --data {options.split}"
        raise InputError(options.path, problem, f"train them with the commands above{choice}")
    first = next(iter(models.values()))
    if other := next((model for model in models.values() if model.preparation != first.preparation), None):
        ways = f"{other.preparation}, but {first.run} with {first.preparation}"
        raise InputError(other.run, f"trained on cases prepared with {ways}", "train all stages on one store")
    return models


def find_complete_splits(checkpoints: Path) -> list[str]:
    """Return the names of the splits for which every stage has a finished model."""
    finished = [{best.parents[1].name for best in (checkpoints / stage).glob("*/*/best.pt")} for stage in STAGES]
    return sorted(set.intersection(*finished))


def describe(row: CaseRow) -> str:
    """Return the note on a scan, which begins with a word of caution if its mask is not reliable."""
    return f"unreliable: {row['note']}" if row["unreliable"] else row["note"]


def predict_scan(
    scan: Path,
    name: str,
    models: Mapping[str, StageModel],
    folder: PredictionFolder,
    *,
    models_hash: str,
    series: str = "",
) -> CaseRow:
    """Segment one scan and write its mask and its picture, unless the folder holds them already.

    Args:
        scan: Absolute path of the file or folder.
        name: Name of the scan in the folder.
        models: The models by the name of their stage, in the order of the cascade.
        folder: Gets mask and picture.
        models_hash: Of the models (``hash_models``).
        series: Which series of a DICOM folder, as ``--series`` names it; empty for the only one.

    Returns:
        The row of the scan for volumes.csv; with an error if it failed.
    """
    start = time.monotonic()
    row: CaseRow = {"case": name, "scan": str(scan), "pancreas_ml": "", "tumour_ml": "", "seconds": ""}
    row |= {"unreliable": "", "note": "", "made_from": describe_origin(scan, series, models_hash), "error": ""}
    if finished := folder.find_finished(scan, row["made_from"]):
        print(f"{name}: already segmented by these models")
        return finished
    folder.reserve(row)
    model = next(iter(models.values()))  # all were trained on cases prepared in the same way
    try:
        with naming_memory_errors(str(scan), model.device, "use --gpu cpu, or close other programs"):
            volume = _read_scan(scan, series)
            require_memory(scan, WORK_BYTES * volume.array.size)
            prepared = apply_preparation(volume.array, volume.spacing, model.preparation)
            image, spacing = prepared.image, prepared.spacing
            label, notes, doubts = segment_scan(models, image, spacing)
            write_mask(folder.mask_path(name), label, replace(volume.grid, part=prepared.part))
    except InputError as error:
        return row | {"error": f"{error}{_advise_on_folder(scan)}"}
    pancreas_ml, tumour_ml = volume_ml(label > 0, spacing), volume_ml(label == TUMOUR, spacing)
    doubts = (*find_doubts(volume.array, pancreas_ml), *doubts)
    passed_over = volume.notes if scan.is_dir() else ()  # those on a file concern its header only
    with drawing(folder.picture_path(name)) as picture:
        draw_overlay(
            folder.picture_path(name),
            image,
            reference=None,
            prediction=label,
            spacing=spacing,
            title=f"{name}: pancreas {pancreas_ml:.1f} ml, tumour {tumour_ml:.1f} ml",
            doubts=doubts,
        )
    return row | {
        "pancreas_ml": round(pancreas_ml, 2),
        "tumour_ml": round(tumour_ml, 2),
        "seconds": round(time.monotonic() - start, 1),
        "unreliable": "yes" if doubts else "",
        "note": "; ".join(filter(None, (*doubts, *notes, *passed_over, picture.fault))),
        "made_from": "" if picture.fault else row["made_from"],  # so that another call draws the missing picture
    }


def _read_scan(scan: Path, series: str) -> Volume:
    """Read a scan; that its disk or share fails concerns this scan only."""
    try:
        return read_image(scan, series)
    except OSError as error:
        problem = f"the file cannot be read ({error.strerror or error})"
        raise InputError(error.filename or scan, problem, "check its permissions and the disk") from error


def hash_models(models: Mapping[str, StageModel]) -> str:
    """Return a hash of the networks and of how they are read; it does not depend on where they lie."""
    used = [[sha256_of(model.run / "best.pt"), model.readout, model.threshold] for model in models.values()]
    return hashlib.sha256(json.dumps(used).encode()).hexdigest()


def describe_origin(scan: Path, series: str, models_hash: str) -> str:
    """Return a hash of everything that decides the mask of a scan: its files and the models.

    Files count as unchanged if their sizes and dates are. A scan that does not exist has a hash, too.
    """
    with contextlib.suppress(OSError):
        series += stat_signature(scan)
    return hashlib.sha256(f"{models_hash} {series}".encode()).hexdigest()[:16]


def find_doubts(scan: np.ndarray, pancreas_ml: float) -> list[str]:
    """Return notes if the values of a scan do not look like HU, or if the segmented pancreas is far too large."""
    doubts = [": ".join(problem)] if (problem := find_hu_problem(scan)) else []
    if pancreas_ml > LARGEST_GLAND_ML:
        doubts.append(f"{pancreas_ml:.0f} ml are too much for a pancreas, the model may not have been trained enough")
    return doubts


def _advise_on_folder(scan: Path) -> str:
    """Return what to give instead of a folder whose files are scans of their own; empty for anything else."""
    files = [path.name.lower() for path in scan.glob("[!.]*")] if scan.is_dir() else []
    patterns = [f"{scan}/*{suffix}" for suffix in SUFFIXES if any(name.endswith(suffix) for name in files)]
    return f" The folder holds scans as files; give these: {' '.join(patterns)}" if patterns else ""
