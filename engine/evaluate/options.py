"""What the command line of an evaluation script asks for."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.cases.options import add_store
from data.common.errors import InputError
from data.common.progress import add_quiet
from data.common.text import HelpFormatter, add_examples
from data.splits.split import NONE_HELD_OUT
from engine.checkpoint import stage_command
from engine.options import add_average, add_fast, add_gpu, add_path, add_save_probabilities
from engine.stages import Stage


@dataclass(frozen=True)
class EvaluateOptions:
    """What the command line of an evaluation script asks for.

    Attributes:
        stage: The stage to evaluate.
        split: The split to evaluate; None for every one that leaves a centre out.
        time: The run to evaluate; None for the newest.
        threshold: Binarisation threshold; None for that of the model.
        readout: Name in ``engine.infer.box.READOUTS``.
        fast: As in engine.options, also for the earlier stages.
        roi: Whether the stage looks around the "predicted" or the "reference" pancreas; None for the first stage.
        gpu: As in engine.options.
        store: As in engine.options.
        path: As in engine.options.
        save_probabilities: As in engine.options.
    """

    stage: Stage
    split: str | None
    time: str | None
    threshold: float | None
    readout: str
    fast: bool
    roi: str | None
    gpu: str
    store: Path
    path: Path
    save_probabilities: bool = False

    def command(self) -> str:
        """Return the command that runs this evaluation, ready to paste into a shell."""
        words = ["--time", self.time] if self.time else []
        words += ["--thresh", f"{self.threshold:g}"] if self.threshold is not None else []
        words += ["--roi", self.roi] if self.roi == "reference" else []
        words += ["--average"] if self.readout == "average" else []
        words += ["--fast"] if self.fast else []
        words += ["--save-probabilities"] if self.save_probabilities else []
        return stage_command(
            self.stage, "evaluate", split=self.split, checkpoints=self.path, store=self.store, more=words
        )


def build_parser(stage: Stage) -> argparse.ArgumentParser:
    """Return the parser of the evaluation script of ``stage``."""
    parser = argparse.ArgumentParser(
        prog=stage.program("evaluate"),
        description=f"Evaluate the stage {stage.title} on the held-out cases of every leave-one-centre-out split.",
        formatter_class=HelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        metavar="CENTRE",
        help="evaluate only the split that holds out this centre, or another split by its name; synthetic: the model "
        "that was trained on synthetic patients, on all centres (default: every split that holds a centre out; if "
        "there is only one centre, a fold of its patients)",
    )
    add_store(data)
    run = parser.add_argument_group("trained model")
    run.add_argument(
        "--time", metavar="YYYY_MM_DD_HH_MM_SS", help="evaluate the run of this time (default: the newest run)"
    )
    add_path(run)
    method = parser.add_argument_group("method")
    method.add_argument(
        "--thresh",
        type=float,
        metavar="FLOAT",
        help="probability above which a voxel is foreground (default: as chosen on the validation cases)",
    )
    if stage.predecessor:
        method.add_argument(
            "--roi",
            choices=("predicted", "reference"),
            default="predicted",
            help="look around the pancreas as the earlier stages predicted it, or around that of the reference, so "
            "that their errors do not count",
        )
    if not stage.segments_pancreas:
        add_average(method)
    add_fast(method)
    output = parser.add_argument_group("output and machine")
    add_save_probabilities(output)
    add_gpu(output)
    add_quiet(output)
    examples = [
        ("", "evaluate the newest finished run of every split that holds a centre out"),
        ("--data hospital_a --fast", "only hospital_a, in about a sixth of the time, but slightly less accurately"),
        ("--data hospital_a --time 2026_05_04_09_30_00", "evaluate an earlier run instead of the newest"),
    ]
    if stage.predecessor:
        examples.append(("--roi reference", "look around the reference pancreas, so that only this stage is judged"))
    add_examples(parser, *examples)
    return parser


def parse(stage: Stage, argv: Sequence[str] | None) -> EvaluateOptions:
    """Read the command line of the evaluation script of ``stage``.

    Raises:
        InputError: If the value of an option makes no sense.
    """
    args = build_parser(stage).parse_args(argv)
    if args.thresh is not None and not 0 < args.thresh < 1:
        raise InputError(f"--thresh {args.thresh}", "not a threshold of probabilities", "give a number between 0 and 1")
    if args.data == NONE_HELD_OUT:
        problem = "this split holds no centre out, so there is nothing to evaluate on"
        raise InputError(f"--data {NONE_HELD_OUT}", problem, "name a centre, or leave out --data for all of them")
    return EvaluateOptions(
        stage=stage,
        split=args.data,
        time=args.time,
        threshold=args.thresh,
        readout="average" if getattr(args, "average", False) else "segmentation",
        fast=args.fast,
        roi=getattr(args, "roi", None),
        gpu=args.gpu,
        store=args.store,
        path=args.path,
        save_probabilities=args.save_probabilities,
    )
