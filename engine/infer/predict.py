"""Command: segment the pancreas and its tumours in new scans with the four trained stages.

    python predict.py SCAN... -o OUT

Run again after an interruption, it goes on with the scans that are not done. Every scan is cropped and resampled as
the training cases were, and its mask is written on the grid of its file. Where the memory holds a whole box, the result
is that of the evaluation scripts, voxel for voxel, with one exception: ``data.prepare --crop body`` keeps the whole
label in the crop, which a new scan does not have. The crops are the same if the label lies within the body.
"""

import argparse
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data.cases.options import add_series
from data.common.errors import EXIT_BAD_INPUT, command
from data.common.files import check_writable, remove_unfinished
from data.common.program import command_name
from data.common.progress import add_quiet, progress
from data.common.text import HelpFormatter, add_examples
from engine.infer.dicom_seg import require_highdicom
from engine.infer.loading import ModelChoice, add_models, load_models, read_models
from engine.infer.models import describe_models
from engine.infer.overlap import overlap
from engine.infer.report import write_prediction_page
from engine.infer.scan import ScanSegmenter, hash_models
from engine.infer.volumes import PredictionFolder
from engine.options import add_average, add_fast, add_gpu, add_save_probabilities
from engine.report.html.page import PAGE
from engine.report.tables import CaseRow, failed


class Shard(NamedTuple):
    """A share of the scans: the ``number``-th of every ``of``, from 1 on."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def report_name(self) -> str:
        """The file of the report; each share has its own, as they may be segmented at the same time."""
        return PAGE if self.of == 1 else f"report_{self.number}_of_{self.of}.html"

    @staticmethod
    def parse(text: str) -> "Shard":
        """Read I/N.

        Raises:
            argparse.ArgumentTypeError: If that is not a share.
        """
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text, re.ASCII)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise argparse.ArgumentTypeError(f"{text} is not I/N with I from 1 to N, such as 1/4")
        return Shard(int(found[1]), int(found[2]))


@dataclass(frozen=True)
class PredictOptions:
    """What the command line asks for.

    Attributes:
        scans: Files, or folders of DICOM series.
        series: Which series of each DICOM folder; empty for the only one.
        output: Folder for masks, pictures and the table of volumes.
        dicom_seg: Whether to write the mask of a DICOM series as a DICOM segmentation as well.
        models: Which trained models segment them.
        shard: Which of the scans.
        report: Whether to write report.html.
        save_probabilities: As in engine.options.
    """

    scans: tuple[Path, ...]
    series: str
    output: Path
    dicom_seg: bool
    models: ModelChoice
    shard: Shard
    report: bool
    save_probabilities: bool


def parse(argv: Sequence[str] | None) -> PredictOptions:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog=command_name("predict.py", "predict"),
        description="Segment the pancreas and its tumours in CT scans.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "scans", nargs="+", type=Path, metavar="SCAN", help="NIfTI, NRRD or MetaImage file, or folder of a DICOM series"
    )
    scans = parser.add_argument_group("scans")
    add_series(scans)
    add_models(parser)
    method = parser.add_argument_group("method")
    output = parser.add_argument_group("output and machine")
    output.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for masks, pictures and the table volumes.csv; rows of other scans stay in the table",
    )
    output.add_argument(
        "--dicom-seg",
        action="store_true",
        help="also write the mask of a DICOM series as a DICOM segmentation (NAME_seg.dcm), with patient and study of "
        "the scan (needs the package highdicom); a scan in another format gets its mask only, and a note",
    )
    add_average(method)
    add_fast(method)
    add_save_probabilities(output)
    output.add_argument(
        "--shard",
        type=Shard.parse,
        default=Shard(1, 1),
        metavar="I/N",
        help="segment only the I-th of every N scans, I from 1 to N, so that N processes with the same scans and the "
        "same --output share the work, each on a GPU of its own or as a job of its own",
    )
    output.add_argument(
        "--report",
        action="store_true",
        help="write report.html into the output folder: one page with the table, pictures and 3-D views of these "
        "scans; with or without this option, a report of an earlier call is removed when a scan that it shows is "
        "segmented again",
    )
    add_gpu(output)
    add_quiet(output)
    add_examples(
        parser,
        ("new_scan.nii.gz -o out", "segment a scan with the models that were trained on all centres"),
        ("scans/*.nii.gz -o out --data hospital_a --report", "segment many scans, and show them on one page"),
        (
            "new_scan.nii.gz -o out --ensemble all --save-probabilities",
            "average all models, and keep the probabilities",
        ),
        (
            "patient_7 -o out --model model.zip --report --dicom-seg",
            "lead from a DICOM series and a model file to a report and a DICOM segmentation",
        ),
    )
    args = parser.parse_args(argv)
    return PredictOptions(
        scans=tuple(args.scans),
        series=args.series,
        output=args.output,
        dicom_seg=args.dicom_seg,
        models=read_models(args),
        shard=args.shard,
        report=args.report,
        save_probabilities=args.save_probabilities,
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Segment the scans that the command line names. A scan that fails is listed and does not stop the others.

    Returns:
        The exit code: 2 if a scan failed, else 0.
    """
    options = parse(argv)
    if options.dicom_seg:
        require_highdicom()
    folder = PredictionFolder(options.output)
    names = folder.assign_names(options.scans)
    models = load_models(options.models)
    check_writable(options.output)
    remove_unfinished([options.output])
    print(*describe_models(models), sep="\n")
    steps = ScanSegmenter(
        models,
        folder,
        options.series,
        models_hash=hash_models(models),
        dicom_seg=options.dicom_seg,
        save_probabilities=options.save_probabilities,
    )
    scans = list(names.items())[options.shard.number - 1 :: options.shard.of]
    segmented = overlap(scans, steps.read, steps.segment, steps.write, has_room=steps.has_room)
    with warnings.catch_warnings():
        # The filters belong to the process. The thread that reads and the one that draws set and reset them at the same
        # time, and what either ignores would be printed.
        warnings.simplefilter("ignore")
        rows = list(progress(segmented, title="segmenting", unit="scan", total=len(scans)))
    print(f"{'case':<32}{'pancreas ml':>12}{'tumour ml':>11}{'score':>8}{'seconds':>9}  note")
    for row in rows:
        numbers = f"{row['pancreas_ml']:>12}{row['tumour_ml']:>11}{row['tumour_score']:>8}{row['seconds']:>9}"
        print(f"{row['case']:<32}{numbers}  {'failed' if failed(row) else describe(row)}")
    if options.report:
        path = options.output / options.shard.report_name
        write_prediction_page(path, rows, folder=folder, series=options.series, models=models)
        print(f"report: {path}")
    faults = [row["error"] for row in rows if failed(row)]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


def describe(row: CaseRow) -> str:
    """Return the note on a scan, which begins with a word of caution if its mask is not reliable."""
    return f"unreliable: {row['note']}" if row["unreliable"] else row["note"]
