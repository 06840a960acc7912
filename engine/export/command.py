"""The command ``python -m engine.export``: write a model into one file, and its networks for other programs.

    python -m engine.export RUNS -o model.zip    all four stages, with their settings, thresholds and a model card
    python predict.py SCAN -o OUT --model model.zip

The networks for other programs are written into a folder beside the file, ``model/`` for ``model.zip``.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.common.errors import InputError, command
from data.common.files import check_replaceable, check_writable, sha256_of
from data.common.program import command_name
from data.common.text import HelpFormatter, add_examples
from data.splits.split import NONE_HELD_OUT
from engine.checkpoint import BEST, DEFAULT_CHECKPOINTS
from engine.export.bundle import check_monai_packages, write_bundle
from engine.export.card import write_card
from engine.export.networks import check_onnx_packages, trace, write_onnx, write_preprocessing, write_program
from engine.export.runs import StageRun, choose_runs
from engine.model_file import write_model_file
from engine.stages import STAGES

SUFFIX = ".zip"


@dataclass(frozen=True)
class ExportOptions:
    """What the command line asks for.

    Attributes:
        runs: A folder of runs, or a run folder for each stage.
        output: The model file.
        split, until: As for ``choose_runs``.
        onnx: Whether to write each network as ONNX.
        torch_export: Whether to write each network as torch.export does.
        monai: The stage of which a MONAI bundle is written; None for no bundle.
    """

    runs: tuple[Path, ...]
    output: Path
    split: str
    until: str | None
    onnx: bool
    torch_export: bool
    monai: str | None

    @property
    def folder(self) -> Path:
        """Where the networks for other programs are written."""
        return self.output.with_suffix("")


def parse(argv: Sequence[str] | None) -> ExportOptions:
    """Read the command line.

    Raises:
        InputError: If the output has not the suffix of a model file.
    """
    parser = argparse.ArgumentParser(
        prog=command_name("python -m engine.export", "export"),
        description="Write the trained models of the four stages into one file, which prediction (--model) and "
        "training (--init) read.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        default=[DEFAULT_CHECKPOINTS],
        metavar="RUNS",
        help="the folder of all runs, of which the newest finished one of each stage is taken; or four run folders, "
        f"one of each stage (default: {DEFAULT_CHECKPOINTS})",
    )
    models = parser.add_argument_group("models")
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help=f"model file to write, such as model{SUFFIX}"
    )
    models.add_argument(
        "--data",
        default=NONE_HELD_OUT,
        metavar="CENTRE",
        help="in a folder of runs: take the models that were trained without this centre; none: on all centres",
    )
    models.add_argument(
        "--time",
        metavar="YYYY_MM_DD_HH_MM_SS",
        help="in a folder of runs: take the newest run of each stage that was started at this time or before "
        "(default: the newest run)",
    )
    beside = f"in a folder beside the file that is named like it, without {SUFFIX}"
    output.add_argument(
        "--onnx",
        action="store_true",
        help=f"write each network as STAGE.onnx with STAGE.json, its preprocessing, {beside}",
    )
    output.add_argument(
        "--torch-export",
        action="store_true",
        help="write each network as STAGE.pt2 with STAGE.json, in the same folder",
    )
    output.add_argument(
        "--monai",
        choices=STAGES,
        metavar="STAGE",
        help="write this stage as STAGE_bundle, a MONAI bundle, in the same folder",
    )
    add_examples(
        parser,
        ("-o model.zip", "write the newest models that were trained on all centres into one file"),
        ("--data hospital_a -o model.zip", "take the models that were trained without hospital_a"),
        ("-o model.zip --onnx", "also write the four networks as ONNX, into the folder model/"),
        ("-o model.zip --monai tumor_fine", "also write one stage as a MONAI bundle"),
    )
    args = parser.parse_args(argv)
    if args.output.suffix.lower() != SUFFIX:
        raise InputError(args.output, f"a model file ends in {SUFFIX}", f"give a name such as model{SUFFIX}")
    return ExportOptions(
        runs=tuple(args.runs),
        output=args.output,
        split=args.data,
        until=args.time,
        onnx=args.onnx,
        torch_export=args.torch_export,
        monai=args.monai,
    )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Export the runs that the command line names."""
    options = parse(argv)
    if options.onnx:
        check_onnx_packages()
    if options.monai:
        check_monai_packages()
    check_replaceable(options.output)
    runs = choose_runs(options.runs, options.split, options.until)
    for stage, run in runs.items():
        print(f"{STAGES[stage].title:<16} {run.folder}, threshold {run.checkpoint.thresholds['segmentation']:g}")
    if len({(run.checkpoint.split, run.checkpoint.split_hash) for run in runs.values()}) > 1:
        print("warning: the stages were trained on different splits; the model card says so")
    card = write_card(options.output.name, runs)
    write_model_file(
        options.output,
        {stage: run.folder / BEST for stage, run in runs.items()},
        {"stages": {stage: run.to_record() for stage, run in runs.items()}},
        card,
    )
    print(options.output)
    if options.onnx or options.torch_export or options.monai:
        check_writable(options.folder)
        export_networks(options, runs, card)


def export_networks(options: ExportOptions, runs: Mapping[str, StageRun], card: str) -> None:
    """Write the networks for other programs, and print the files with their largest difference from PyTorch.

    Raises:
        InputError: If a network computes something else once it is exported.
    """
    for stage, run in runs.items():
        if not (options.onnx or options.torch_export or options.monai == stage):
            continue
        checkpoint, sha256 = run.checkpoint, sha256_of(run.folder / BEST)
        program = trace(checkpoint)
        path = options.folder / f"{stage}.onnx"
        if options.onnx:
            _report(path, write_onnx(path, program, checkpoint))
        if options.torch_export:
            _report(path.with_suffix(".pt2"), write_program(path.with_suffix(".pt2"), program, checkpoint))
        if options.onnx or options.torch_export:
            write_preprocessing(path.with_suffix(".json"), checkpoint, sha256)
        if options.monai == stage:
            bundle = options.folder / f"{stage}_bundle"
            _report(bundle, write_bundle(bundle, program, checkpoint, sha256, card))


def _report(path: Path, difference: float) -> None:
    print(f"{path}: differs from PyTorch by at most {difference:.1g}")
