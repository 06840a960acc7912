"""Which trained models segment new scans, as a command or a program chooses them, and how they are loaded."""

import argparse
import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data.common.errors import InputError
from data.common.program import command_name
from data.splits.split import NONE_HELD_OUT
from engine.checkpoint import BEST, DEFAULT_CHECKPOINTS
from engine.device import choose_device
from engine.infer.members import Share, choose_shares, combine, find_members
from engine.infer.models import StageModel, build_model, check_runs_folder, load_model
from engine.model_file import read_model_file
from engine.options import add_path
from engine.stages import STAGES


@dataclass(frozen=True)
class ModelChoice:
    """Models of the four stages: the newest runs, several of them together, or those of a model file.

    Attributes:
        path: Folder of all runs.
        split: The split whose models are used.
        until: Use the newest runs that were started at this time or before; None for the newest of all.
        ensemble: What each split contributes to an ensemble, in place of ``split``; nothing for a single network.
        file: A model file to use in place of the runs; None for the runs.
        average: Whether to average the two tasks in the stages that have a distance head.
        fast: As in engine.options.
        gpu: As in engine.options.
    """

    path: Path = DEFAULT_CHECKPOINTS
    split: str = NONE_HELD_OUT
    until: str | None = None
    ensemble: tuple[Share, ...] = ()
    file: Path | None = None
    average: bool = False
    fast: bool = False
    gpu: str = "auto"


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add the group of options that says which models ``read_models`` chooses."""
    models = parser.add_argument_group("models")
    splits = models.add_mutually_exclusive_group()
    splits.add_argument(
        "--data",
        default=NONE_HELD_OUT,
        metavar="CENTRE",
        help="use the models that were trained without this centre; none: those that were trained on all centres; "
        "synthetic: those that were trained on synthetic patients",
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
    models.add_argument(
        "--time",
        metavar="YYYY_MM_DD_HH_MM_SS",
        help="use the newest run of each stage that was started at this time or before (default: the newest run)",
    )
    add_path(models)
    models.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        help=f"use the models of a file that {command_name('python -m engine.export', 'export')} wrote, in place of "
        "--path, --data, --time and --ensemble",
    )


def read_models(args: argparse.Namespace) -> ModelChoice:
    """Collect what was typed for the options of ``add_models``, and for ``--average``, ``--fast`` and ``--gpu``.

    Raises:
        InputError: If both a model file and runs are chosen.
    """
    chosen = args.ensemble or (args.path, args.data, args.time) != (DEFAULT_CHECKPOINTS, NONE_HELD_OUT, None)
    if args.model and chosen:
        problem = "holds all models, so there are no runs to choose among"
        raise InputError(
            f"--model {args.model}", problem, "leave out --path, --data, --time and --ensemble, or --model"
        )
    return ModelChoice(
        path=args.path,
        split=args.data,
        until=args.time,
        ensemble=tuple(args.ensemble),
        file=args.model,
        average=args.average,
        fast=args.fast,
        gpu=args.gpu,
    )


def load_models(choice: ModelChoice) -> dict[str, StageModel]:
    """Load the models of the four stages by the name of their stage, in the order of the cascade.

    Raises:
        InputError: If a stage has no usable model, after a line for each such stage has been printed; or if the models
            were trained on cases that were prepared in different ways.
    """
    device, averaged = choose_device(choice.gpu), [s.name for s in STAGES.values() if "sdf" in s.method.heads]
    readouts = {name: "average" if choice.average and name in averaged else "segmentation" for name in STAGES}
    if choice.file:
        models = load_from_file(choice.file, device, readouts, fast=choice.fast)
    else:
        models = load_from_runs(choice, device, readouts)
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
            checkpoint,
            f"{file}, {name}",
            device,
            run=file,
            sha256=sha256,
            readout=readouts[name],
            fast=fast,
            only_synthetic=centres.only_synthetic,
        )
        for name, (checkpoint, sha256, centres) in read_model_file(file).stages.items()
    }


def load_from_runs(choice: ModelChoice, device: torch.device, readouts: Mapping[str, str]) -> dict[str, StageModel]:
    """Load the newest models of the runs by the name of their stage.

    Raises:
        InputError: If a stage has no usable model, after a line for each such stage has been printed.
    """
    check_runs_folder(choice.path, "a model file with --model")
    models, missing = {}, 0
    shares = choose_shares(choice.ensemble, find_complete_splits(choice.path)) if choice.ensemble else []
    for name, stage in STAGES.items():
        load = functools.partial(load_model, choice.path, name, device=device, readout=readouts[name], fast=choice.fast)
        try:
            if shares:
                members = find_members(choice.path, stage, shares, until=choice.until)
                models[name] = combine([load(split, at=time) for split, time in members])
            else:
                models[name] = load(choice.split, until=choice.until)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            missing += 1
    if missing:
        complete = find_complete_splits(choice.path)
        others = f"use the models of another split: {name_splits(complete)}" if complete else "use a model file"
        asked = f"--ensemble {' '.join(map(str, shares))}" if shares else f"--data {choice.split}"
        problem = f"{missing} of the {len(STAGES)} stages have no usable model for {asked}"
        raise InputError(choice.path, problem, f"train them with the commands above, or {others}")
    return models


def name_splits(splits: Sequence[str]) -> str:
    """Return the options that choose the models of one of these splits."""
    return " or ".join(f"--data {split}" for split in splits)


def find_complete_splits(checkpoints: Path) -> list[str]:
    """Return the names of the splits for which every stage has a finished model."""
    finished = [{best.parents[1].name for best in (checkpoints / stage).glob(f"*/*/{BEST}")} for stage in STAGES]
    return sorted(set.intersection(*finished))
