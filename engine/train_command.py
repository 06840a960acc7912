"""The command behind the four training scripts: plan, say it, train every split, go on after an interruption."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from data.errors import EXIT_INTERRUPTED, InputError, command
from data.splits import Split, choose_splits, frozen_splits, select
from data.store import DEFAULT_STORE, Case, read_store
from engine.checkpoint import DEFAULT_CHECKPOINTS, list_runs, load_checkpoint, new_run
from engine.device import choose_device
from engine.runlog import write_settings
from engine.stages import STAGES, Stage, with_weights
from engine.train import TrainSettings, fit, prepare_training
from models.losses import LossWeights


def parse(stage: Stage, argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of a stage's training script."""
    parser = argparse.ArgumentParser(
        description=f"Train the stage {stage.title} on every leave-one-centre-out split of the prepared centres.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", metavar="CENTRE", help="hold out this centre alone; none trains on all centres")
    parser.add_argument("--resume", action="store_true", help="go on with unfinished runs, start those not begun")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and stop")
    parser.add_argument("--gpu", default="auto", help="auto, the number of a GPU, or cpu")
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, help="prepared centres")
    parser.add_argument("--path", type=Path, default=DEFAULT_CHECKPOINTS, help="where runs are kept")
    parser.add_argument(
        "--weight", action="append", default=[], metavar="TERM=NUMBER", help="change the weight of one loss term"
    )
    for setting in fields(TrainSettings):
        default = stage.epochs if setting.name == "epochs" else setting.default
        flag = "--" + setting.name.replace("_", "-")
        help_text = "passes over the training cases" if setting.name == "epochs" else setting.metadata["help"]
        parser.add_argument(flag, type=type(setting.default), default=default, help=help_text)
    return parser.parse_args(argv)


@command
def main(stage_name: str, argv: Sequence[str] | None = None) -> int:
    """Train a stage as the command line says. Returns the exit code."""
    args = parse(STAGES[stage_name], argv)
    stage = with_weights(STAGES[stage_name], args.weight)
    settings = TrainSettings(**{setting.name: getattr(args, setting.name) for setting in fields(TrainSettings)})
    check(settings)
    device = choose_device(args.gpu)
    centres = read_store(args.store)
    splits = choose_splits(frozen_splits(args.store, centres), args.data)
    print(f"{stage.title}: {len(splits)} run(s) on {device}, kept under {args.path / stage.name}")
    plans = [(split, *usable_cases(stage, split, centres)) for split in splits]
    for split, train_cases, validation_cases in plans:
        print(describe(split, train_cases, validation_cases, settings))
    if args.dry_run:
        return 0
    for split, train_cases, validation_cases in plans:
        try:
            run_split(args, stage, split, train_cases, validation_cases, settings, device)
        except KeyboardInterrupt:
            print(
                f"\ninterrupted; finished epochs are kept: go on with the same command and --resume ({split.held_out})",
                file=sys.stderr,
            )
            return EXIT_INTERRUPTED
    return 0


def check(settings: TrainSettings) -> None:
    """Raises InputError for a setting that cannot be trained with."""
    for name in ("epochs", "batch_size", "width", "validate_every", "lr", "clip_norm"):
        if getattr(settings, name) <= 0:
            raise InputError(f"--{name.replace('_', '-')} {getattr(settings, name)}: must be positive")
    if settings.width % 8:
        raise InputError(f"--width {settings.width}: must be a multiple of 8")
    if settings.workers < 0:
        raise InputError(f"--workers {settings.workers}: must not be negative")


def usable_cases(stage: Stage, split: Split, centres: dict[str, list[Case]]) -> tuple[list[Case], list[Case]]:
    """Training and validation cases of a split that hold what the stage segments. Raises InputError for none."""
    box = "tumour_box" if stage.sampling.target == "tumour" else "pancreas_box"
    train, validation = (
        [case for case in select(centres, keys) if getattr(case, box)] for keys in (split.train, split.validation)
    )
    if not train:
        what = stage.sampling.target
        raise InputError(
            f"hold out {split.held_out}: no training case has a labelled {what}; prepare a centre that has"
        )
    return train, validation


def describe(split: Split, train: list[Case], validation: list[Case], settings: TrainSettings) -> str:
    """What a run will do, in one line."""
    counts = Counter(case.centre for case in train)
    parts = ", ".join(f"{centre} {count}" for centre, count in counts.items())
    steps = settings.epochs * -(-len(train) // settings.batch_size)
    return (
        f"  hold out {split.held_out}: train on {len(train)} cases ({parts}), validate on {len(validation)}, "
        f"{settings.epochs} epochs, {steps} steps"
    )


def run_split(
    args: argparse.Namespace,
    stage: Stage,
    split: Split,
    train_cases: list[Case],
    validation_cases: list[Case],
    settings: TrainSettings,
    device,
) -> None:
    """Train one split in a new run folder, or go on in its newest one."""
    runs = [run for run in list_runs(args.path, stage, split.held_out) if (run / "last.pt").exists()]
    checkpoint = None
    if args.resume and runs:
        folder = runs[-1]
        checkpoint = load_checkpoint(folder / "last.pt", stage.name)
        settings = TrainSettings(**checkpoint["settings"])
        stage = replace(stage, weights=LossWeights(**checkpoint["weights"]))
        if checkpoint["split_hash"] != split.hash:
            raise InputError(f"{folder}: trained on another split of the data; start a new run without --resume")
        if checkpoint["epoch"] >= settings.epochs:
            print(f"{folder}: finished already, {settings.epochs} epochs")
            return
        print(f"{folder}: goes on after epoch {checkpoint['epoch']}, with the settings it was started with")
    else:
        folder = new_run(args.path, stage, split.held_out)
        record = {
            "stage": stage.name,
            "held_out": split.held_out,
            "split_hash": split.hash,
            "device": str(device),
            "store": str(args.store),
            **asdict(settings),
            "weights": asdict(stage.weights),
        }
        write_settings(folder, record)
    training = prepare_training(stage, split, train_cases, validation_cases, settings, device, folder, checkpoint)
    fit(training)
    print(f"{folder}: validation Dice {training.best_dice:.3f}")
