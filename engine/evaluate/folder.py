"""Command: score a folder of predictions against prepared references, in the same way as the evaluation scripts.

    python -m engine.evaluate --predictions DIR --centre CENTRE --label tumour --out DIR
    python -m engine.evaluate --predictions DIR --data SPLIT --part validation --label tumour --out DIR
    python -m engine.evaluate --predictions ours=EVALUATION nnunet=DIR --data SPLIT --label tumour --out DIR

The references are the cases of a centre, or those of a split that ``data.export`` gave nnU-Net to be tested or
validated on. A prediction is found by the name of its case (``<case>.nii.gz`` or another format, or the name that
``data.export`` gave it) and must lie on the grid of its scan. A prediction that is missing, damaged or on another grid
is a failed case. Several folders are scored one after the other and compared case by case.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from data.cases.case import Case
from data.cases.options import add_store
from data.cases.store import digest, read_store
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import check_writable, replacing
from data.common.program import command_name
from data.common.progress import add_quiet, progress
from data.common.records import read_yaml
from data.common.text import HelpFormatter, add_examples
from data.scans.bytes import refuse_folder_of_pairs
from data.sources.base import case_name
from data.splits.frozen import frozen_splits
from data.splits.split import centre_of, centres_with, choose_splits, exclude_centres_without_tumours, select_cases
from engine.evaluate.masks import read_reference, score_prepared_mask
from engine.evaluate.methods import read_methods
from engine.evaluate.predictions import LABELS, MASK, Predictions, infer_values
from engine.metrics import case_metrics
from engine.report.html.page import PAGE
from engine.report.results import write_results
from engine.report.side_by_side import write_side_by_side
from engine.report.tables import CaseRow, failed, write_case_table
from engine.stages import STAGES

AUTO = "auto"


@dataclass(frozen=True)
class ScoreOptions:
    """What the command line asks for.

    Attributes:
        target: What is scored, "pancreas" or "tumour".
        methods: By name, the folders of predictions and how to read them; their values may be "auto".
        centre: The centre whose cases are scored; None if a split is given.
        split: The split, or the name of several folds, whose cases are scored; None if a centre is given.
        part: The part of the split, "test" or "validation".
        store: Folder of the prepared centres.
        out: Folder for tables and pictures.
    """

    target: str
    methods: dict[str, Predictions]
    centre: str | None
    split: str | None
    part: str
    store: Path
    out: Path


class References(NamedTuple):
    """The cases to score.

    Attributes:
        name: What they are called together: a centre, a split, or a part of a split.
        cases: The cases.
    """

    name: str
    cases: list[Case]


def parse(argv: Sequence[str] | None) -> ScoreOptions:
    """Read the command line.

    Raises:
        InputError: If the value of an option makes no sense.
    """
    parser = argparse.ArgumentParser(
        prog=command_name("python -m engine.evaluate", "score"),
        description="Score a folder of predictions against the prepared references of a centre or a split.",
        formatter_class=HelpFormatter,
    )
    predictions = parser.add_argument_group("predictions")
    predictions.add_argument(
        "--predictions",
        nargs="+",
        metavar="[NAME=]DIR",
        required=True,
        help="folder with one mask per case, on the grid of its scan: of any program, of predict.py, or an evaluation "
        "of a run; several folders are compared with each other, each under its NAME (default: that of the folder)",
    )
    data = parser.add_argument_group("references")
    references = data.add_mutually_exclusive_group(required=True)
    references.add_argument("--centre", metavar="CENTRE", help="score all cases of this centre")
    references.add_argument(
        "--data",
        metavar="SPLIT",
        help=f"score the cases of this split ({command_name('python -m data.splits', 'splits')}), or of all its folds",
    )
    data.add_argument(
        "--part",
        choices=("test", "validation"),
        default="test",
        help="with --data: score the test cases, or the validation cases of fold 0 of data.export",
    )
    scored = data.add_mutually_exclusive_group(required=True)
    scored.add_argument(
        "--label", choices=("pancreas", "tumour"), help="score the pancreas with its tumour, or the tumour"
    )
    scored.add_argument("--stage", choices=STAGES, help="score what this stage segments")
    predictions.add_argument(
        "--values",
        choices=(AUTO, LABELS, MASK),
        default=AUTO,
        help="meaning of the voxels: labels 0/1/2, a mask of what is scored, or to be inferred from the files; not "
        "needed for folders of predict.py and evaluations",
    )
    predictions.add_argument(
        "--pattern",
        metavar="NAME",
        help="name of the files, with {case} for the case or {export} for its name in data.export "
        "(default: both names in any format); not needed for folders of predict.py and evaluations",
    )
    add_store(data)
    output = parser.add_argument_group("output and machine")
    output.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for tables and pictures")
    add_quiet(output)
    add_examples(
        parser,
        ("--predictions masks --centre hospital_a --label tumour --out scores", "score masks of any program"),
        (
            "--predictions ours=out nnunet=masks --data hospital_a --label tumour --out scores",
            "compare two methods case by case; ours is a folder of predict.py or an evaluation",
        ),
        (
            "--predictions masks --data hospital_a --part validation --stage tumor_fine --out scores",
            "score the cases that nnU-Net was validated on, after data.export",
        ),
    )
    args = parser.parse_args(argv)
    if args.pattern and "{case}" not in args.pattern and "{export}" not in args.pattern:
        problem = "this is the name of one file for all cases"
        raise InputError(f"--pattern {args.pattern}", problem, "put {case} or {export} into it")
    if args.centre and args.part != "test":
        raise InputError(f"--part {args.part}", "a centre has no parts", "give a split with --data instead of --centre")
    target = args.label or STAGES[args.stage].sampling.target
    return ScoreOptions(
        target=target,
        methods=read_methods(args.predictions, target=target, pattern=args.pattern, values=args.values),
        centre=args.centre,
        split=args.data,
        part=args.part,
        store=args.store,
        out=args.out,
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Score as the command line says.

    Returns:
        The exit code: 2 if a case failed, else 0.
    """
    options = parse(argv)
    references = find_references(options)
    methods = {}
    for name, predictions in options.methods.items():
        check_files(predictions, references)
        is_settled = predictions.values != AUTO
        values = predictions.values if is_settled else infer_values(predictions, references.cases)
        methods[name] = replace(predictions, values=values)
    folders = {name: options.out / name if len(methods) > 1 else options.out for name in methods}
    for folder in dict.fromkeys((options.out, *folders.values())):
        open_folder(folder)
    if len(methods) > 1:
        compared = {name: str(predictions.folder.resolve()) for name, predictions in methods.items()}
        write_settings(options.out, {"predictions": compared, "of": references.name, "label": options.target})
    tables = {}
    for name, predictions in methods.items():
        record_settings(folders[name], predictions, references, options.store)
        tables[name] = score_folder(predictions, references, folders[name], name)
    if len(methods) > 1:
        title = f"{options.target}, {references.name}: {', '.join(methods)}"
        write_side_by_side(options.out, tables, title=title, lesions=options.target == "tumour")
    faults = [(name, row) for name, rows in tables.items() for row in rows if failed(row)]
    for name, row in faults:
        print(f"error: {f'{name}: ' if len(methods) > 1 else ''}{row['case']}: {row['error']}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


def score_folder(predictions: Predictions, references: References, out: Path, name: str) -> list[CaseRow]:
    """Score a folder of predictions and write its tables and pictures.

    Args:
        predictions: The folder.
        references: The cases.
        out: Folder for tables and pictures.
        name: What the predictions are called in titles.

    Returns:
        One row per case.
    """
    title = f"{predictions.target}, {references.name}, {name}"
    rows: list[CaseRow] = []
    for case in progress(references.cases, title=title, unit="case"):
        rows.append(score_case(predictions, case))
        write_case_table(out / "cases.csv", rows)
    write_results(
        out,
        rows,
        cases={case.key: case for case in references.cases},
        target=predictions.target,
        title=title,
        heading=title,
        read_prediction=predictions.read_prepared_mask,
        find_mask=predictions.find_file,
    )
    return rows


def find_references(options: ScoreOptions) -> References:
    """Find the cases that the command line names.

    For a split these are the cases that our own evaluations and ``data.export`` use. The test cases of a tumour are
    those of centres where tumours are labelled, because elsewhere a scan may show a tumour that nobody drew; the
    validation cases are those that nnU-Net validates on.

    Raises:
        InputError: If there is no such centre or split, or no such case in it.
    """
    target = options.target
    centres = read_store(options.store)
    if options.centre is not None:
        if options.centre not in centres:
            remedy = f"choose one of {', '.join(centres)}"
            raise InputError(f"--centre {options.centre}", "no such centre is prepared", remedy)
        return References(options.centre, centres[options.centre])
    splits = choose_splits(frozen_splits(options.store, centres), options.split)
    if options.part == "test":
        name, kind = str(options.split), f"test case of a centre where a {target} is labelled"
        known = centres_with(centres, target)
        keys = [key for split in splits for key in split.test if centre_of(key) in known]
    else:
        name, kind = f"{options.split} {options.part}", "validation case"
        known = centres_with(centres, "tumour")
        keys = [key for split in splits for key in exclude_centres_without_tumours(split, known).validation]
    if not keys:
        raise InputError(f"--data {options.split}", f"has no {kind}", "choose another split or another --part")
    return References(name, select_cases(centres, keys))


def check_files(predictions: Predictions, references: References) -> None:
    """Check that the files can be assigned to cases, and print which of them belong to no case.

    Raises:
        InputError: If no file belongs to a case, or a file belongs to two.
    """
    files = {path for path in predictions.folder.iterdir() if case_name(path.name)}
    by_name: dict[str, list[Path]] = {}
    for path in files:
        by_name.setdefault(predictions.name_of(path.name), []).append(path)
    owners: dict[Path, str] = {}
    for case in references.cases:
        for path in (path for name in predictions.names(case) for path in by_name.get(name, ())):
            if path in owners:
                problem = f"can be the prediction of {owners[path]} and of {case.key}"
                raise InputError(path, problem, "name the predictions {export}, that is <centre>__<case>")
            owners[path] = case.key
    if not owners:
        refuse_folder_of_pairs(predictions.folder)
        problem = f"no prediction of {references.name}, such as {predictions.expected_names(references.cases[0])}"
        raise InputError(predictions.folder, problem, "describe the file names with --pattern")
    if strangers := sorted(path.name for path in files - owners.keys()):
        more = f" and {len(strangers) - 4} more" if len(strangers) > 4 else ""
        print(
            f"note: left out, because they are not predictions of {references.name}: {', '.join(strangers[:4])}{more}"
        )


def open_folder(out: Path) -> None:
    """Remove earlier results of this command from a folder.

    Raises:
        InputError: If the folder holds anything else, such as the results of an evaluation script, or cannot be written
            to.
    """
    check_writable(out)
    record = out / "settings.yaml"
    try:
        earlier = read_yaml(record) if record.exists() else None
    except ValueError:
        earlier = None
    if out.exists() and any(out.iterdir()) and not (isinstance(earlier, dict) and "predictions" in earlier):
        raise InputError(out, "the folder is not empty and was not made by this command", "choose another --out")
    for pattern in ("*.png", "summary.*", "side_by_side.*", "cases.csv", PAGE):
        for path in out.glob(pattern):
            path.unlink()


def record_settings(out: Path, predictions: Predictions, references: References, store: Path) -> None:
    """Record in ``settings.yaml`` what results are made with."""
    settings = {
        "predictions": str(predictions.folder.resolve()),
        "of": references.name,
        "label": predictions.target,
        "values": predictions.values,
        "pattern": predictions.pattern,
        "cases": digest(references.cases),
        "store": str(store.resolve()),
    }
    write_settings(out, settings)


def write_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write ``settings.yaml``, which also marks a folder as one of this command."""
    with replacing(out / "settings.yaml") as unfinished:
        unfinished.write_text(yaml.safe_dump(settings, sort_keys=False))


def score_case(predictions: Predictions, case: Case) -> CaseRow:
    """Score the prediction of one case on the scan's own voxels, in the same way as the evaluation scripts.

    Only the part of the scan that was prepared counts, unless the prediction has voxels outside it: then the whole
    scan is scored, so that they are not overlooked.

    Returns:
        The row of the case for the table; with an error instead of metrics if it cannot be scored.
    """
    row: CaseRow = {"case": case.key, "centre": case.centre}
    part = case.grid.part
    try:
        mask, on_scan_grid = predictions.read_mask(case)
        reference = read_reference(case, predictions.target)
    except InputError as error:
        return row | {"error": str(error)}
    if part is None or not on_scan_grid:
        return row | score_prepared_mask(mask, reference)
    inside = mask[part.slices]
    if np.count_nonzero(inside) == np.count_nonzero(mask):
        return row | case_metrics(inside, reference.mask, reference.spacing)
    whole_reference = np.zeros(mask.shape, np.uint8)
    whole_reference[part.slices] = reference.mask
    return row | case_metrics(mask, whole_reference, case.scan_spacing)
