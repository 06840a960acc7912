"""Command: write report.html again from the results that a folder holds. Nothing is segmented or scored anew."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.cases.options import add_series
from data.cases.store import DEFAULT_STORE
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.program import COMMAND
from data.common.text import HelpFormatter, add_examples
from engine.evaluate.report import is_evaluation, rewrite_evaluation
from engine.infer.report import write_prediction_page
from engine.infer.volumes import PredictionFolder
from engine.report.html.page import PAGE
from engine.study.command import report_study
from engine.study.runs import read_studies


@dataclass(frozen=True)
class ReportOptions:
    """What the command line asks for.

    Attributes:
        folder: Holds the results.
        series: Of a folder of predictions, as ``predict.py`` was given it.
        store: Of an evaluation, the folder of the prepared cases; None for the one that is recorded.
    """

    folder: Path
    series: str
    store: Path | None


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the reports of the folder that the command line names.

    Returns:
        The exit code: 2 if a report could not be written, else 0.

    Raises:
        InputError: If the folder holds no results that a report shows, or predictions or a study that are damaged.
    """
    options = parse(argv)
    folder = options.folder
    if read_studies(folder):
        report_study(folder)
        return 0
    predictions = PredictionFolder(folder)
    if rows := predictions.read_rows():
        write_prediction_page(folder / PAGE, rows, folder=predictions, series=options.series)
        print(f"report: {folder / PAGE}")
        return 0
    evaluations = find_evaluations(folder)
    if not evaluations:
        problem = "holds neither an evaluation nor predictions nor a study"
        raise InputError(folder, problem, "give the folder of one of these, or of a run that was evaluated")
    faults = []
    for evaluation in evaluations:
        try:
            fault = rewrite_evaluation(evaluation, options.store)
            print(f"report: {fault or evaluation / PAGE}")
        except InputError as error:
            fault = str(error)
            print(f"error: {error}", file=sys.stderr)
        faults.append(fault)
    return EXIT_BAD_INPUT if any(faults) else 0


def find_evaluations(folder: Path) -> list[Path]:
    """Return a folder if it is that of an evaluation, or else the evaluations in it, as in a run or a comparison."""
    if is_evaluation(folder):
        return [folder]
    return sorted(path for path in folder.glob("*/") if is_evaluation(path))


def parse(argv: Sequence[str] | None) -> ReportOptions:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog=f"{COMMAND} report",
        description=f"Write {PAGE} again from results that exist, such as those of an earlier version. Nothing is "
        "segmented or scored anew; the scans are read for the 3-D views.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="folder of an evaluation, of a run with its evaluations, of predictions, or of a study",
    )
    parser.add_argument(
        "--store",
        type=lambda text: Path(text).expanduser(),
        metavar="DIR",
        help=f"of an evaluation: folder of the prepared cases (default: the recorded one, or {DEFAULT_STORE})",
    )
    add_series(parser)
    add_examples(
        parser,
        ("out", "write the report of scans that were segmented without --report"),
        ("checkpoints/tumor_fine/hospital_a/2026_05_04_09_30_00", "write those of all evaluations of a run"),
        ("my_study", "write the tables, figures and the report of a study"),
    )
    args = parser.parse_args(argv)
    return ReportOptions(args.folder, args.series, args.store)
