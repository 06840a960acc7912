"""The command behind the four training scripts: plan, say it, train every split, go on after an interruption."""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import Field, asdict, fields, replace
from itertools import chain

import torch

from data.cases.store import Case, read_store
from data.common.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, InputError, command
from data.common.files import remove_unfinished
from data.duplicates.leaks import check_leaks, find_inseparable_pairs
from data.splits.frozen import frozen_splits
from data.splits.split import Split, centres_with, choose_splits, select_cases
from engine.checkpoint import list_runs, load_checkpoint, new_run
from engine.device import choose_device
from engine.method import Method
from engine.options import add_allow_duplicates, add_gpu, add_path, add_store
from engine.stages import STAGES, VARIANTS, Stage, with_variant
from engine.train.loop import TrainSettings, fit, prepare_training
from engine.train.run_log import write_settings


def parse(stage: Stage, argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of a stage's training script."""
    parser = argparse.ArgumentParser(
        description=f"Train the stage {stage.title} on every leave-one-centre-out split of the prepared centres.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", metavar="CENTRE", help="hold out this centre alone; none trains on all centres")
    parser.add_argument("--resume", action="store_true", help="go on with unfinished runs, start those not begun")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and stop")
    add_allow_duplicates(parser)
    add_gpu(parser)
    add_store(parser)
    add_path(parser)
    parser.add_argument("--variant", choices=VARIANTS, default="full", help="of the method, for an ablation")
    parser.add_argument(
        "--weight", action="append", default=[], metavar="TERM=NUMBER", help="change the weight of one loss term"
    )
    for name, option in _method_options().items():
        shown = f"{option.metadata['help']} (default: as the variant has it)"
        kind = {"choices": option.metadata["choices"]} if "choices" in option.metadata else {"type": float}
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=shown, **kind)
    add_settings(parser, stage.epochs)
    return parser.parse_args(argv)


def add_settings(parser: argparse.ArgumentParser, epochs: int, leave_out: Sequence[str] = ()) -> None:
    """Give every setting of the training an option, but those to leave out; ``epochs``: its default."""
    for setting in fields(TrainSettings):
        if setting.name in leave_out:
            continue
        default = epochs if setting.name == "epochs" else setting.default
        flag = "--" + setting.name.replace("_", "-")
        help_text = "passes over the training cases" if setting.name == "epochs" else setting.metadata["help"]
        parser.add_argument(flag, type=type(setting.default), default=default, help=help_text)


def _method_options() -> dict[str, Field]:
    """The settings of the method that have an option of their own."""
    return {option.name: option for option in fields(Method) if option.metadata}


@command
def main(stage_name: str, argv: Sequence[str] | None = None) -> int:
    """Train a stage as the command line says. Returns the exit code: 2 when a split could not be trained."""
    args = parse(STAGES[stage_name], argv)
    stage = with_variant(STAGES[stage_name], args.variant)
    chosen = {name: getattr(args, name) for name in _method_options() if hasattr(args, name)}
    stage = replace(stage, method=stage.method.changed(args.weight, **chosen))
    settings = TrainSettings(**{setting.name: getattr(args, setting.name) for setting in fields(TrainSettings)})
    check(settings)
    device = choose_device(args.gpu)
    centres = read_store(args.store)
    save = not args.dry_run  # which leaves nothing in the store
    known = centres_with(centres, stage.sampling.target)
    splits = choose_splits(frozen_splits(args.store, centres, save=save), args.data, known)
    print(f"{stage.title}: {len(splits)} run(s) on {device}, kept under {args.path / stage.name}")
    pairs = find_inseparable_pairs(splits, chain(*centres.values()), save=save)
    plans, faults = [], []
    for split in splits:
        try:
            plan = (split, *usable_cases(stage, split, centres))
            for leak in check_leaks(split, pairs, allow=args.allow_duplicates):
                print(f"  warning: {leak}")
            print(describe(*plan, settings))
            plans.append(plan)
        except InputError as error:
            faults.append(str(error))
    for split, train_cases, validation_cases in plans if not args.dry_run else ():
        try:
            run_split(args, stage, split, train_cases, validation_cases, settings, device)
        except InputError as error:
            faults.append(str(error))
        except KeyboardInterrupt:
            again = "finished epochs are kept: go on with the same command and --resume"
            print(f"\ninterrupted with {split.name} held out; {again}", file=sys.stderr)
            return EXIT_INTERRUPTED
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


def check(settings: TrainSettings) -> None:
    """Raises InputError for a setting that cannot be trained with."""
    positive = ("epochs", "batch_size", "width", "validate_every", "lr", "clip_norm")
    for setting in fields(settings):
        value = getattr(settings, setting.name)
        flag = f"--{setting.name.replace('_', '-')} {value}"
        if not math.isfinite(value) or value < 0 or (value == 0 and setting.name in positive):
            raise InputError(f"{flag}: must be {'positive' if setting.name in positive else 'zero or more'}")
    if settings.width % 8:
        raise InputError(f"--width {settings.width}: must be a multiple of 8")


def usable_cases(stage: Stage, split: Split, centres: dict[str, list[Case]]) -> tuple[list[Case], list[Case]]:
    """Training and validation cases of a split that hold what the stage segments. Raises InputError for none."""
    box = "tumour_box" if stage.sampling.target == "tumour" else "pancreas_box"
    train, validation = (
        [case for case in select_cases(centres, keys) if getattr(case, box)] for keys in (split.train, split.validation)
    )
    if not train:
        what = stage.sampling.target
        raise InputError(f"hold out {split.name}: no training case has a labelled {what}; prepare a centre that has")
    return train, validation


def describe(split: Split, train: list[Case], validation: list[Case], settings: TrainSettings) -> str:
    """What a run will do, in one line."""
    counts = Counter(case.centre for case in train)
    parts = ", ".join(f"{centre} {count}" for centre, count in counts.items())
    steps = settings.epochs * -(-len(train) // settings.batch_size)
    return (
        f"  hold out {split.name}: train on {len(train)} cases ({parts}), validate on {len(validation)}, "
        f"{settings.epochs} epochs, {steps} steps"
    )


def run_split(
    args: argparse.Namespace,
    stage: Stage,
    split: Split,
    train_cases: list[Case],
    validation_cases: list[Case],
    settings: TrainSettings,
    device: torch.device,
) -> None:
    """Train one split in a new run folder, or go on in its newest one."""
    runs = list_runs(args.path, stage, split.name) if args.resume else []
    folder = runs[-1] if runs else new_run(args.path, stage, split.name)
    remove_unfinished([folder])  # each is as large as a checkpoint
    checkpoint = None
    if (folder / "last.pt").exists():
        checkpoint = load_checkpoint(folder / "last.pt", stage.name)
        started_with, method = TrainSettings(**checkpoint["settings"]), Method.from_record(checkpoint["method"])
        if checkpoint["split_hash"] != split.hash:
            raise InputError(f"{folder}: trained on another split of the data; start a new run without --resume")
        changed = [f"{k} {v}" for k, v in asdict(started_with).items() if v != getattr(settings, k)]
        changed += ["another variant or other weights"] if method != stage.method else []
        kept = f", with the settings it was started with: {', '.join(changed)}" if changed else ""
        if checkpoint["epoch"] >= started_with.epochs:
            others = "; for a run with those given now leave out --resume" if changed else ""
            print(f"{folder}: finished already, {started_with.epochs} epochs{kept}{others}")
            return
        print(f"{folder}: goes on after epoch {checkpoint['epoch']}{kept}")
        settings, stage = started_with, replace(stage, method=method)
    else:
        record = {
            "stage": stage.name,
            "held_out": split.name,
            "split_hash": split.hash,
            "device": str(device),
            "store": str(args.store),
            **asdict(settings),
            "method": stage.method.to_record(),
        }
        write_settings(folder, record)
    training = prepare_training(stage, split, train_cases, validation_cases, settings, device, folder, checkpoint)
    fit(training)
    print(f"{folder}: {f'validation Dice {training.best_dice:.3f}' if validation_cases else 'no case to validate on'}")
