"""A new scan in, its pancreas and tumour out, on exactly the scan's own grid: python predict.py SCAN... -o OUT"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.cases.labels import TUMOUR
from data.cases.resample import apply_preparation
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.scans.bytes import SUFFIXES
from data.scans.grid import volume_ml
from data.scans.volume import read_image, write_mask
from data.sources.base import case_name
from data.splits.split import NONE_HELD_OUT
from data.verify.findings import find_hu_problem
from engine.device import choose_device, naming_memory_errors
from engine.infer.cascade import StageModel, load_model, segment_scan
from engine.options import add_average, add_gpu, add_path
from engine.report.pictures import overlay
from engine.report.tables import write_case_table
from engine.stages import STAGES

NO_PANCREAS_ML = 500.0  # an adult gland has 40 to 120 ml, with a large tumour seldom more than 300


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path, metavar="SCAN", help="NIfTI, NRRD, MHA, or a DICOM folder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for masks, volumes.csv and pictures")
    parser.add_argument("--data", default=NONE_HELD_OUT, help="models of the split that holds out this centre")
    parser.add_argument("--time", help="of each stage the newest run begun at this time or before")
    add_gpu(parser)
    add_path(parser)
    add_average(parser)
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Segment every scan; a scan that cannot be read is listed at the end and does not stop the others."""
    args = parse(argv)
    names = [case_name(scan.resolve().name) or scan.resolve().name for scan in args.scans]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{', '.join(sorted(twice))}: two scans of this name would write one mask; rename one")
    models = load_models(args)
    for model in models.values():
        print(f"{model.stage.title:<16} {model.run}, threshold {model.threshold:g}")
    args.output.mkdir(parents=True, exist_ok=True)
    rows = [predict(scan, name, models, args.output) for scan, name in tqdm(list(zip(args.scans, names, strict=True)))]
    write_case_table(args.output / "volumes.csv", rows)
    print(table(rows))
    faults = [row["error"] for row in rows if row["error"]]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


def load_models(args: argparse.Namespace) -> dict[str, StageModel]:
    """The models of the four stages. Raises InputError naming all that lack, what makes them, what there is."""
    models, lacking = {}, []
    device = choose_device(args.gpu)
    for stage in STAGES:
        try:
            readout = "average" if args.average and "sdf" in STAGES[stage].method.heads else "segmentation"
            models[stage] = load_model(args.path, stage, args.data, device, until=args.time, readout=readout)
        except InputError as error:
            lacking.append(str(error))
    if lacking:
        others = splits_with_models(args.path)
        there = [f"models there are for: {', '.join(f'--data {name}' for name in others)}"] if others else []
        raise InputError("\n       ".join(lacking + there))
    first = next(iter(models.values()))
    if other := next((m for m in models.values() if m.preparation != first.preparation), None):
        ways = f"{other.preparation}, {first.run} with {first.preparation}"
        raise InputError(f"{other.run}: trained on cases prepared with {ways}; train both on one store")
    return models


def splits_with_models(checkpoints: Path) -> list[str]:
    """The held-out centres of which every stage has a finished model."""
    finished = [{best.parents[1].name for best in (checkpoints / stage).glob("*/*/best.pt")} for stage in STAGES]
    return sorted(set.intersection(*finished))


def predict(scan: Path, name: str, models: dict[str, StageModel], output: Path) -> dict:
    """Segment one scan, write its mask and picture; a row of volumes.csv."""
    start = time.monotonic()
    row = {"case": name, "pancreas_ml": "", "tumour_ml": "", "seconds": "", "note": "", "error": ""}
    try:
        volume = read_image(scan)
        model = next(iter(models.values()))
        image, spacing, part = apply_preparation(
            volume.array, volume.spacing, model.preparation
        )  # as the training cases were
        with naming_memory_errors(str(scan), model.device, "use --gpu cpu"):
            label, notes = segment_scan(models, image, spacing)
        write_mask(output / f"{name}_pancreas_tumour.nii.gz", label, replace(volume.grid, part=part))
    except (InputError, PermissionError) as error:
        return row | {"error": f"{error}{hint(scan)}"}
    pancreas, tumour = volume_ml(label > 0, spacing), volume_ml(label == TUMOUR, spacing)
    notes = (*doubts(volume.array, pancreas), *notes)
    title = f"{name}: pancreas {pancreas:.1f} ml, tumour {tumour:.1f} ml"
    overlay(output / f"{name}.png", image, None, label, spacing, title)
    seconds = round(time.monotonic() - start, 1)
    volumes = {"pancreas_ml": round(pancreas, 2), "tumour_ml": round(tumour, 2), "seconds": seconds}
    return row | volumes | {"note": "; ".join(notes)}


def hint(scan: Path) -> str:
    """What to give instead of a folder that holds scans as files; "" for anything else."""
    kinds = [s for s in SUFFIXES if scan.is_dir() and any(p.name.lower().endswith(s) for p in scan.glob("[!.]*"))]
    return f"; it holds scans, give its files: {' '.join(f'{scan}/*{s}' for s in kinds)}" if kinds else ""


def doubts(scan: np.ndarray, pancreas_ml: float) -> list[str]:
    """Notes where the scan is no CT in HU as far as one can see, or where what was found is far too large."""
    found = [": ".join(unlike)] if (unlike := find_hu_problem(scan)) else []
    if pancreas_ml > NO_PANCREAS_ML:
        found.append(f"{pancreas_ml:.0f} ml is no pancreas: was the model trained long enough?")
    return found


def table(rows: Sequence[dict]) -> str:
    """The volumes to read: pancreas with its tumour, and the tumour alone, in ml."""
    lines = [f"{'case':<32}{'pancreas ml':>12}{'tumour ml':>11}{'seconds':>9}  note"]
    for row in rows:
        numbers = f"{row['pancreas_ml']:>12}{row['tumour_ml']:>11}{row['seconds']:>9}"
        lines.append(f"{row['case']:<32}{numbers}  {row['note'] or ('failed' if row['error'] else '')}")
    return "\n".join(lines)
