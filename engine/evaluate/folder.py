"""Command: score any folder of predictions against prepared references, as the evaluations do: those of a centre, or
those of a split, which are what ``data.export`` gave nnU-Net to be tested or validated on.

    python -m engine.evaluate --predictions DIR --centre CENTRE --label tumour --out DIR
    python -m engine.evaluate --predictions DIR --data SPLIT --part validation --label tumour --out DIR

A prediction is found by its case's name (``<case>.nii.gz`` or another format, or the name that ``data.export`` gave
it) and must lie on its scan's own grid. One that is missing, damaged or elsewhere is a failed case.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from tqdm import tqdm

from data.cases.labels import target_mask
from data.cases.store import Case, digest, read_store
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import replacing
from data.sources.base import case_name
from data.splits.frozen import frozen_splits
from data.splits.split import centre_of, centres_with, choose_splits, exclude_centres_without_tumours, select_cases
from engine.evaluate.predictions import LABELS, MASK, Predictions, settle_values
from engine.metrics import case_metrics
from engine.options import add_store
from engine.report.results import write_results
from engine.report.tables import CaseRow, failed, write_case_table
from engine.stages import STAGES


class References(NamedTuple):
    """The cases that are scored, and what they are called together: a centre, a split, a part of a split."""

    name: str
    cases: list[Case]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m engine.evaluate",
        description="Score a folder of predictions against the prepared references of a centre or a split.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    named = {"required": True, "default": argparse.SUPPRESS}
    parser.add_argument("--predictions", type=Path, metavar="DIR", help="one mask a case, on its scan's grid", **named)
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--centre", metavar="CENTRE", help="score all cases of this centre")
    whose.add_argument("--data", metavar="SPLIT", help="score those of this split (data.splits), or of all its folds")
    part = "with --data: its test cases, or those of fold 0 of data.export that are validated on"
    parser.add_argument("--part", choices=("test", "validation"), default="test", help=part)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--label", choices=("pancreas", "tumour"), help="what is scored; pancreas: with its tumour")
    what.add_argument("--stage", choices=STAGES, help="the same, by the stage that segments it")
    parser.add_argument(
        "--values",
        choices=("auto", LABELS, MASK),
        default="auto",
        help="of the voxels: labels 0/1/2, or a mask of what is scored; auto: as the files tell",
    )
    pattern = "file name, {case} for the case, {export} for its name in data.export; else both, in any format"
    parser.add_argument("--pattern", metavar="NAME", help=pattern)
    add_store(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where tables and pictures go", **named)
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Score as the command line says. Returns the exit code: 2 when a case failed."""
    args = parse(argv)
    if args.pattern and "{case}" not in args.pattern and "{export}" not in args.pattern:
        raise InputError(f"--pattern {args.pattern}: names one file for all cases; put {{case}} or {{export}} in it")
    if not args.predictions.is_dir():
        raise InputError(f"{args.predictions}: no such folder; check --predictions")
    target = args.label or STAGES[args.stage].sampling.target
    references = find_references(args, target)
    predictions = Predictions(args.predictions, args.pattern, target, args.values)
    check_files(predictions, references)
    if args.values == "auto":
        values = settle_values(predictions, references.cases)
        predictions = Predictions(args.predictions, args.pattern, target, values)
    open_folder(args.out, predictions, references)
    rows = score(predictions, references, args.out)
    for row in filter(failed, rows):
        print(f"error: {row['case']}: {row['error']}", file=sys.stderr)
    return EXIT_BAD_INPUT if any(map(failed, rows)) else 0


def find_references(args: argparse.Namespace, target: str) -> References:
    """What ``--centre``, or ``--data`` and ``--part`` name. Raises InputError where that is no case.

    Of a split, what our evaluations and ``data.export`` leave out is left out: tested are, for a tumour, the centres
    where tumours are labelled, as elsewhere one may be there; validated on is what nnU-Net validates on.
    """
    centres = read_store(args.store)
    if args.data is None:
        if args.part != "test":
            raise InputError(f"--part {args.part}: a centre has no parts; give --data, not --centre")
        if args.centre not in centres:
            raise InputError(f"--centre {args.centre}: no such centre is prepared; choose one of {', '.join(centres)}")
        return References(args.centre, centres[args.centre])
    splits = choose_splits(frozen_splits(args.store, centres), args.data)
    if args.part == "test":
        known, what = centres_with(centres, target), f"test case of a centre where a {target} is labelled"
        keys = [key for split in splits for key in split.test if centre_of(key) in known]
    else:
        known, what = centres_with(centres, "tumour"), "validation case"
        keys = [key for split in splits for key in exclude_centres_without_tumours(split, known).validation]
    if not keys:
        raise InputError(f"--data {args.data}: has no {what}; choose another split or --part")
    return References(args.data if args.part == "test" else f"{args.data} {args.part}", select_cases(centres, keys))


def check_files(predictions: Predictions, references: References) -> None:
    """Print which scans in the folder belong to no case. Raises InputError where none belongs to any, or one to two."""
    scans = {path for path in predictions.folder.iterdir() if case_name(path.name)}
    owners: dict[Path, str] = {}
    for case in references.cases:
        for path in scans.intersection(predictions.candidates(case)):
            if path in owners:
                both = f"{owners[path]} and {case.key}"
                raise InputError(f"{path}: could be of {both}; call predictions {{export}}, <centre>__<case>")
            owners[path] = case.key
    if not owners:
        example = predictions.named(references.cases[0])
        raise InputError(
            f"{predictions.folder}: no prediction of {references.name} in it, such as {example}; say --pattern"
        )
    if strangers := sorted(path.name for path in scans - owners.keys()):
        print(
            f"not of {references.name}, left out: {', '.join(strangers[:4])}"
            + f" and more, {len(strangers)} in all" * (len(strangers) > 4)
        )


def open_folder(out: Path, predictions: Predictions, references: References) -> None:
    """Make ``out`` this command's own. Raises InputError where it holds anything else, such as another evaluation."""
    record = out / "settings.yaml"
    settings = yaml.safe_load(record.read_text()) if record.exists() else None
    if out.exists() and any(out.iterdir()) and not (isinstance(settings, dict) and "predictions" in settings):
        raise InputError(f"{out}: not empty and not made by this command; choose another --out")
    for made in (*out.glob("*.png"), *out.glob("summary.*"), *out.glob("cases.csv")):
        made.unlink()
    settings = {
        "predictions": str(predictions.folder.resolve()),
        "of": references.name,
        "label": predictions.target,
        "values": predictions.values,
        "pattern": predictions.pattern,
        "cases": digest(references.cases),
    }
    with replacing(record) as unfinished:
        unfinished.write_text(yaml.safe_dump(settings, sort_keys=False))


def score(predictions: Predictions, references: References, out: Path) -> list[CaseRow]:
    """Score every case and write what an evaluation writes. Returns the rows, those of failed cases among them."""
    title = f"{predictions.target}, {references.name}, {predictions.folder.resolve().name}"
    rows: list[CaseRow] = []
    for case in tqdm(references.cases, desc=title, unit="case"):
        rows.append(score_case(predictions, case))
        write_case_table(out / "cases.csv", rows)
    by_key = {case.key: case for case in references.cases}
    write_results(out, rows, by_key, predictions.target, (title, title), predictions.prepared)
    return rows


def score_case(predictions: Predictions, case: Case) -> CaseRow:
    """The row of one case, scored where it was prepared, as our own evaluations do."""
    row = {"case": case.key, "centre": case.centre}
    grid, reference = case.grid, target_mask(np.asarray(case.label()), predictions.target)
    try:
        mask, scanned = predictions.mask(case)
    except InputError as error:
        return row | {"error": str(error)}
    if not scanned or grid.part is None:
        return row | case_metrics(mask, reference, case.spacing)
    if mask.sum() > mask[grid.part.slices].sum():
        # Something was found outside the part that was prepared: only the whole scan does it justice.
        return row | case_metrics(mask, grid.to_lps(grid.to_file(reference)), grid.lps_frame()[0])
    return row | case_metrics(grid.to_prepared(mask), reference, case.spacing)
