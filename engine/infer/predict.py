"""Command: segment the pancreas and its tumours in new scans with the four trained stages.

    python predict.py SCAN... -o OUT

Run again after an interruption, it goes on with the scans that are not done. Every scan is cropped and resampled as
the training cases were, and its mask is written on the grid of its file. Where the memory holds a whole box, the result
is that of the evaluation scripts, voxel for voxel, with one exception: ``data.prepare --crop body`` keeps the whole
label in the crop, which a new scan does not have. The crops are the same if the label lies within the body.
"""

import argparse
import functools
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from data.cases.options import add_series
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import check_writable, remove_unfinished
from data.common.program import command_name
from data.common.progress import add_quiet, progress
from data.common.text import HelpFormatter, add_examples
from data.splits.split import NONE_HELD_OUT
from engine.checkpoint import BEST, DEFAULT_CHECKPOINTS
from engine.device import choose_device
from engine.infer.dicom_seg import require_highdicom
from engine.infer.members import Share, choose_shares, combine, find_members
from engine.infer.models import StageModel, build_model, check_runs_folder, describe_model, load_model
from engine.infer.overlap import overlap
from engine.infer.report import write_prediction_page
from engine.infer.scan import ScanSegmenter, hash_models
from engine.infer.volumes import PredictionFolder
from engine.model_file import read_model_file
from engine.options import add_average, add_fast, add_gpu, add_path, add_save_probabilities
from engine.report.html.page import PAGE
from engine.report.tables import CaseRow, failed
from engine.stages import STAGES


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
        split: The split whose models are used.
        until: Use the newest runs that were started at this time or before; None for the newest of all.
        average: Whether to average the two tasks in the stages that have a distance head.
        fast: As in engine.options.
        shard: Which of the scans.
        report: Whether to write report.html.
        gpu: As in engine.options.
        path: As in engine.options.
        model: A model file to use in place of the runs; None for the runs.
        ensemble: What each split contributes to an ensemble; nothing for a single network.
        save_probabilities: As in engine.options.
    """

    scans: tuple[Path, ...]
    series: str
    output: Path
    dicom_seg: bool
    split: str
    until: str | None
    average: bool
    fast: bool
    shard: Shard
    report: bool
    gpu: str
    path: Path
    model: Path | None
    ensemble: tuple[Share, ...] = ()
    save_probabilities: bool = False


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
    chosen_models = parser.add_argument_group("models")
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
        "the scan (needs the package highdicom)",
    )
    splits = chosen_models.add_mutually_exclusive_group()
    splits.add_argument(
        "--data",
        default=NONE_HELD_OUT,
        metavar="CENTRE",
        help="use the models that were trained without this centre; none: those that were trained on all centres",
    )
    splits.add_argument(
        "--ensemble",
        type=Share.parse,
        nargs="+",
        default=(),
        metavar="SPLIT",
        help="average the models of several splits, or with SPLIT=N the N newest of a split, such as those of other "
        "seeds; all: of every split of which all stages are trained (default: a single model)",
    )
    chosen_models.add_argument(
        "--time",
        metavar="YYYY_MM_DD_HH_MM_SS",
        help="use the newest run of each stage that was started at this time or before (default: the newest run)",
    )
    add_path(chosen_models)
    chosen_models.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        help=f"use the models of a file that {command_name('python -m engine.export', 'export')} wrote, in place of "
        "--path, --data, --time and --ensemble",
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
        help="write report.html into the output folder: one page with the table, pictures and 3-D views of these scans",
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
        ("patient_7 -o out --model model.zip --dicom-seg", "segment a DICOM series with a model file, for an archive"),
    )
    args = parser.parse_args(argv)
    chosen = args.ensemble or (args.path, args.data, args.time) != (DEFAULT_CHECKPOINTS, NONE_HELD_OUT, None)
    if args.model and chosen:
        problem = "holds all models, so there are no runs to choose among"
        raise InputError(
            f"--model {args.model}", problem, "leave out --path, --data, --time and --ensemble, or --model"
        )
    return PredictOptions(
        scans=tuple(args.scans),
        series=args.series,
        output=args.output,
        dicom_seg=args.dicom_seg,
        split=args.data,
        until=args.time,
        average=args.average,
        fast=args.fast,
        shard=args.shard,
        report=args.report,
        gpu=args.gpu,
        path=args.path,
        model=args.model,
        ensemble=tuple(args.ensemble),
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
    if options.model is None:
        check_runs_folder(options.path)
    models = load_models(options)
    check_writable(options.output)
    remove_unfinished([options.output])
    for model in models.values():
        print(describe_model(model))
    if (last := models.get("tumor_fine")) and last.score_threshold is not None:
        print(f"operating point  a tumour score of at least {last.score_threshold:.3f} counts as positive")
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


def load_models(options: PredictOptions) -> dict[str, StageModel]:
    """Load the models of the four stages by the name of their stage, in the order of the cascade.

    Raises:
        InputError: If a stage has no usable model, after a line for each such stage has been printed; or if the models
            were trained on cases that were prepared in different ways.
    """
    device, averaged = choose_device(options.gpu), [s.name for s in STAGES.values() if "sdf" in s.method.heads]
    readouts = {name: "average" if options.average and name in averaged else "segmentation" for name in STAGES}
    if options.model:
        models = load_from_file(options.model, device, readouts, fast=options.fast)
    else:
        models = load_from_runs(options, device, readouts)
    first = next(iter(models.values()))
    if other := next((model for model in models.values() if model.preparation != first.preparation), None):
        ways = f"{other.preparation}, but {first.run} with {first.preparation}"
        raise InputError(other.run, f"trained on cases prepared with {ways}", "train all stages on one store")
    return models


def load_from_file(
    file: Path, device: torch.device, readouts: Mapping[str, str], *, fast: bool
) -> dict[str, StageModel]:
    """Load the models of a model file by the name of their stage.

    Raises:
        InputError: If the file or a model in it cannot be used.
    """
    return {
        name: build_model(
            checkpoint, f"{file}, {name}", device, run=file, sha256=sha256, readout=readouts[name], fast=fast
        )
        for name, (checkpoint, sha256) in read_model_file(file).stages.items()
    }


def load_from_runs(options: PredictOptions, device: torch.device, readouts: Mapping[str, str]) -> dict[str, StageModel]:
    """Load the newest models of the runs by the name of their stage.

    Raises:
        InputError: If a stage has no usable model, after a line for each such stage has been printed.
    """
    models, missing = {}, 0
    shares = choose_shares(options.ensemble, find_complete_splits(options.path)) if options.ensemble else []
    for name, stage in STAGES.items():
        load = functools.partial(
            load_model, options.path, name, device=device, readout=readouts[name], fast=options.fast
        )
        try:
            if shares:
                members = find_members(options.path, stage, shares, until=options.until)
                models[name] = combine([load(split, at=time) for split, time in members])
            else:
                models[name] = load(options.split, until=options.until)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            missing += 1
    if missing:
        complete = find_complete_splits(options.path)
        choice = f", or use the models of another split: --data {' or --data '.join(complete)}" if complete else ""
        asked = f"--ensemble {' '.join(map(str, shares))}" if shares else f"--data {options.split}"
        problem = f"{missing} of the {len(STAGES)} stages have no usable model for {asked}"
        raise InputError(options.path, problem, f"train them with the commands above{choice}")
    return models


def find_complete_splits(checkpoints: Path) -> list[str]:
    """Return the names of the splits for which every stage has a finished model."""
    finished = [{best.parents[1].name for best in (checkpoints / stage).glob(f"*/*/{BEST}")} for stage in STAGES]
    return sorted(set.intersection(*finished))


def describe(row: CaseRow) -> str:
    """Return the note on a scan, which begins with a word of caution if its mask is not reliable."""
    return f"unreliable: {row['note']}" if row["unreliable"] else row["note"]
