"""The command behind the four training scripts: plan, describe, train every split, go on after an interruption."""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import cast

import torch

from data.augment import Augmentation
from data.cases.case import Case
from data.cases.options import add_store
from data.cases.store import read_store
from data.common.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, InputError, command
from data.common.files import check_writable, exclusive_lock, remove_unfinished
from data.common.progress import add_quiet
from data.common.settings import differences
from data.common.text import HelpFormatter
from data.duplicates.leaks import check_leaks, find_inseparable_pairs
from data.splits.frozen import frozen_splits
from data.splits.split import Split, centres_with, choose_splits, select_cases
from engine.checkpoint import create_run, list_runs, load_checkpoint, load_newest
from engine.device import choose_device
from engine.memory import Fit, fit_step
from engine.method import Method
from engine.options import (
    add_allow_duplicates,
    add_changes,
    add_gpu,
    add_path,
    add_recipe_options,
    read_recipe_options,
    value_of,
)
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import STAGES, VARIANTS, Stage, with_variant
from engine.train.loader import count_negatives
from engine.train.loop import BEST_SO_FAR, prepare_training, train
from engine.train.run_log import write_settings
from models.dual_task_net import DualTaskNet

LOCK_PATIENCE_S = 10.0  # torch lets the loader processes of a killed training live up to 5 s longer
POSITIVE = ("epochs", "batch_size", "width", "validate_every", "lr", "clip_norm")


@dataclass(frozen=True)
class TrainOptions:
    """What the command line of a training script asks for.

    Attributes:
        stage: With the method and the sampling as they were typed.
        network, augmentation, training: The rest of the recipe.
        split: The split to train; None for every one that leaves a centre out.
        resume: Whether to go on with unfinished runs.
        dry_run: Whether to stop after saying what would be done.
        allow_duplicates: Whether to train although one scan is in two parts of a split.
        keep_patch: Whether the size of a patch was typed, so that it is not adapted to the memory.
        gpu, store, path: As in engine.options.
    """

    stage: Stage
    network: NetworkSettings
    augmentation: Augmentation
    training: TrainSettings
    split: str | None
    resume: bool
    dry_run: bool
    allow_duplicates: bool
    keep_patch: bool
    gpu: str
    store: Path
    path: Path

    def recipe(self, cases: Sequence[Case], fit: Fit | None = None) -> Recipe:
        """Return the recipe of a run on these cases, which were all prepared in one way.

        A patch that was not typed is the one that fits.
        """
        patch_mm = (self.stage if fit is None or self.keep_patch else fit).sampling.patch_mm
        return Recipe(
            network=self.network,
            method=self.stage.method,
            sampling=replace(self.stage.sampling, patch_mm=patch_mm),
            augmentation=self.augmentation,
            training=self.training,
            preparation=cases[0].preparation,
        )


@dataclass(frozen=True)
class Plan:
    """One split to train, with its cases.

    Attributes:
        split: The split.
        train_cases: Training cases that hold what the stage segments.
        negatives: Training cases that are known not to hold it: without a tumour, of a centre where tumours are
            labelled.
        validation_cases: Validation cases of both kinds; none if none of them holds what the stage segments.
    """

    split: Split
    train_cases: list[Case]
    negatives: list[Case]
    validation_cases: list[Case]

    def negatives_per_epoch(self, settings: TrainSettings) -> int:
        """Return how many boxes of the negatives an epoch has."""
        return count_negatives(len(self.train_cases), len(self.negatives), settings.negatives)


def parse(stage: Stage, argv: Sequence[str] | None) -> TrainOptions:
    """Read the command line of the training script of ``stage``.

    Raises:
        InputError: If a setting is out of its range, or two settings contradict each other.
    """
    parser = argparse.ArgumentParser(
        description=f"Train the stage {stage.title} on every leave-one-centre-out split of the prepared centres.",
        formatter_class=HelpFormatter,
        epilog="How the cases were prepared is a property of the store and is recorded with every run.",
    )
    parser.add_argument(
        "--data", metavar="CENTRE", help="hold out only this centre (or train another split); none trains on all"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with unfinished runs, and start those that were not begun"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained, and stop")
    add_allow_duplicates(parser)
    add_gpu(parser)
    add_store(parser)
    add_path(parser)
    parser.add_argument("--variant", choices=VARIANTS, default="full", help="variant of the method, for an ablation")
    add_changes(parser, "--weight", stage.method.weights, "change the weight of a loss term; the variant full has")
    for name, option in _method_options().items():
        parser.add_argument(
            "--" + name.replace("_", "-"),
            default=argparse.SUPPRESS,
            help=f"{option.metadata['help']} (default: as in the variant; {getattr(stage.method, name)} in full)",
            **value_of(option),
        )
    add_recipe_options(parser, stage)
    add_quiet(parser)
    args = parser.parse_args(argv)
    typed = read_recipe_options(args, stage)
    chosen = {name: getattr(args, name) for name in _method_options() if hasattr(args, name)}
    options = TrainOptions(
        stage=replace(typed.stage, method=with_variant(stage, args.variant).method.changed(args.weight, chosen)),
        network=typed.network,
        augmentation=typed.augmentation,
        training=typed.training,
        split=args.data,
        resume=args.resume,
        dry_run=args.dry_run,
        allow_duplicates=args.allow_duplicates,
        keep_patch=any(change.startswith("patch_mm=") for change in args.sampling),
        gpu=args.gpu,
        store=args.store,
        path=args.path,
    )
    check_settings(options.training, options.network)
    return options


def _method_options() -> dict[str, Field]:
    """The settings of the method that have an option of their own."""
    return {option.name: option for option in fields(Method) if option.metadata}


def check_settings(training: TrainSettings, network: NetworkSettings) -> None:
    """Check the ranges of the settings that have options.

    Raises:
        InputError: If nothing could be trained with a setting.
    """
    settings = {**vars(training), **vars(network)}
    for name, value in settings.items():
        if isinstance(value, str):  # one of the choices of its option
            continue
        if not math.isfinite(value) or value < 0 or (value == 0 and name in POSITIVE):
            flag = f"--{name.replace('_', '-')} {value}"
            raise InputError(flag, "out of range", f"give a {'positive number' if name in POSITIVE else 'number >= 0'}")
    if training.negatives >= 1:
        problem = "leaves no step for the cases with a tumour"
        raise InputError(f"--negatives {training.negatives}", problem, "give a share below 1, or 0 for none")
    if network.width % (network.groups or 1):
        problem = f"not a multiple of the {network.groups} groups"
        raise InputError(f"--width {network.width}", problem, "give another width, or other --groups")
    for flag, share in (("--warm-up", training.warm_up), ("--ema-decay", training.ema_decay)):
        if share >= 1:
            raise InputError(f"{flag} {share}", "not a share", "give a number from 0 to below 1")


@command
def main(stage_name: str, argv: Sequence[str] | None = None) -> int:
    """Train a stage as the command line says.

    Returns:
        The exit code: 2 if a split could not be trained, 130 after Ctrl-C, else 0.
    """
    options = parse(STAGES[stage_name], argv)
    stage = options.stage
    device = choose_device(options.gpu)
    centres = read_store(options.store)
    save = not options.dry_run  # a dry run leaves nothing behind
    if save:
        check_writable(options.path)
    known = centres_with(centres, stage.sampling.target)
    splits = choose_splits(frozen_splits(options.store, centres, save=save), options.split, known)
    print(f"{stage.title}: {len(splits)} run(s) on {device}, kept under {options.path / stage.name}")
    pairs = find_inseparable_pairs(splits, chain(*centres.values()), save=save)
    plans, faults = [], []
    for split in splits:
        try:
            plan = plan_split(stage, split, centres)
            for leak in check_leaks(split, pairs, allow=options.allow_duplicates):
                print(f"  warning: {leak}")
            print(describe(plan, options.training))
            if not plan.validation_cases:
                print("    warning: no validation case, so the last epoch is used, and 0.5 as the threshold")
            fit = fit_plan(options, plan, device)
            print(fit.description)
            if options.dry_run and options.resume:
                print(f"    {describe_resumption(options, plan, fit)}")
            plans.append((plan, fit))
        except InputError as error:
            faults.append(error)
    for plan, fit in plans if not options.dry_run else ():
        try:
            train_split(options, plan, fit, device)
        except InputError as error:
            faults.append(error)
        except KeyboardInterrupt:
            print(
                f"\ninterrupted with {plan.split.name} held out; finished epochs are kept: "
                "go on with the same command and --resume",
                file=sys.stderr,
            )
            return EXIT_INTERRUPTED
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


def plan_split(stage: Stage, split: Split, centres: dict[str, list[Case]]) -> Plan:
    """Collect the training and validation cases of a split: those that hold what the stage segments, and those without.

    Raises:
        InputError: If no training case holds it.
    """
    target = stage.sampling.target
    known = centres_with(centres, target)
    train_cases, validation_cases = (
        [case for case in select_cases(centres, keys) if case.centre in known and case.pancreas_box]
        for keys in (split.train, split.validation)
    )
    positives, negatives = ([c for c in train_cases if bool(c.target_box(target)) == has] for has in (True, False))
    if not positives:
        raise InputError(
            f"hold out {split.name}", f"no training case has a labelled {target}", "prepare a centre that has one"
        )
    # Cases without a tumour alone would choose the epoch that finds least, which is that of an untrained network.
    can_rank = any(case.target_box(target) for case in validation_cases)
    return Plan(split, positives, negatives, validation_cases if can_rank else [])


def describe(plan: Plan, settings: TrainSettings) -> str:
    """Return one line that says what a run will do."""
    counts = Counter(case.centre for case in plan.train_cases)
    parts = ", ".join(f"{centre} {count}" for centre, count in counts.items())
    drawn, more = plan.negatives_per_epoch(settings), ""
    if drawn:
        share = drawn / (len(plan.train_cases) + drawn)
        more = f" and {len(plan.negatives)} without a tumour in {100 * share:.0f} % of the steps"
    return (
        f"  hold out {plan.split.name}: train on {len(plan.train_cases)} cases ({parts}){more}, "
        f"validate on {len(plan.validation_cases)}, {settings.epochs} epochs, {count_steps(plan, settings)} steps"
    )


def fit_plan(options: TrainOptions, plan: Plan, device: torch.device) -> Fit:
    """Decide how the steps of a run fit into the memory; a run that is resumed keeps its patch.

    Raises:
        InputError: If they cannot, or the checkpoint of the run cannot be read.
    """
    found = load_newest(options.path, options.stage, plan.split.name, options.store) if options.resume else None
    recipe = found[1].recipe if found else options.recipe(plan.train_cases)
    cases = [*plan.train_cases, *plan.negatives]
    return fit_step(recipe, cases, device, keep_patch=options.keep_patch or found is not None)


def describe_resumption(options: TrainOptions, plan: Plan, fit: Fit) -> str:
    """Return what ``--resume`` would do with a split.

    Raises:
        InputError: If the checkpoint of the newest run cannot be read.
    """
    found = load_newest(options.path, options.stage, plan.split.name, options.store)
    if found is None:
        return "would start from the beginning"
    folder, checkpoint = found
    epochs = checkpoint.recipe.training.epochs
    if checkpoint.epoch >= epochs:
        return f"{folder} is already finished, {epochs} epochs"
    kept = describe_kept_settings(checkpoint.recipe, options.recipe(plan.train_cases, fit))
    return f"would go on in {folder} after epoch {checkpoint.epoch} of {epochs}{kept}"


def describe_kept_settings(kept: Recipe, typed: Recipe) -> str:
    """Return the settings of a run that were typed differently now and are not followed; empty if there are none."""
    changed = differences(kept.to_record(), typed.to_record())
    return f", with the settings it was started with: {', '.join(changed)}" if changed else ""


def count_steps(plan: Plan, settings: TrainSettings) -> int:
    """Return the number of optimisation steps of a run."""
    boxes = len(plan.train_cases) + plan.negatives_per_epoch(settings)
    return settings.epochs * -(-boxes // settings.batch_size)


def train_split(options: TrainOptions, plan: Plan, fit: Fit, device: torch.device) -> None:
    """Train one split in a new run folder, or resume its newest run.

    Raises:
        InputError: If the run cannot be resumed, fails, or is being trained by another process.
    """
    runs = list_runs(options.path, options.stage, plan.split.name) if options.resume else []
    folder = runs[-1] if runs else create_run(options.path, options.stage, plan.split.name)
    remedy = "wait until it ends, or leave out --resume to start a run of its own"
    with exclusive_lock(folder, remedy, patience_s=LOCK_PATIENCE_S):
        train_in(folder, options, plan, fit, device)


def train_in(folder: Path, options: TrainOptions, plan: Plan, fit: Fit, device: torch.device) -> None:
    """Train in a run folder that nobody else is using.

    A resumed run keeps the recipe that it was started with; what was typed differently now is printed.

    Raises:
        InputError: If the run cannot be resumed, or fails.
    """
    split, recipe = plan.split, options.recipe(plan.train_cases, fit)
    stage = replace(options.stage, sampling=recipe.sampling)
    remove_unfinished([folder])  # each is as large as a checkpoint
    checkpoint = None
    if (folder / "last.pt").exists():
        checkpoint = load_checkpoint(folder / "last.pt", stage.name, options.store)
        if checkpoint.split_hash != split.hash:
            raise InputError(folder, "trained on another split of the data", "start a new run without --resume")
        kept = describe_kept_settings(checkpoint.recipe, recipe)
        recipe = checkpoint.recipe
        stage = replace(stage, method=recipe.method, sampling=recipe.sampling)
        if checkpoint.epoch >= recipe.training.epochs:
            (folder / BEST_SO_FAR).unlink(missing_ok=True)  # if the run was killed just before it did so
            others = "; leave out --resume to start a run with the settings given now" if kept else ""
            print(f"{folder}: already finished, {recipe.training.epochs} epochs{kept}{others}")
            return
        print(f"{folder}: goes on after epoch {checkpoint.epoch}{kept}")
    else:
        write_settings(
            folder,
            {
                "stage": stage.name,
                "split": split.name,
                "split_hash": split.hash,
                "device": str(device),
                "store": str(options.store),
                **recipe.to_record(),
            },
        )
    training = prepare_training(
        stage=stage,
        split=split,
        recipe=recipe,
        train_cases=plan.train_cases,
        negatives=plan.negatives,
        validation_cases=plan.validation_cases,
        device=device,
        folder=folder,
        checkpoint=checkpoint,
    )
    cast("DualTaskNet", training.net).recomputed = fit.recomputed
    train(training)
    result = "no case to validate on" if training.best_dice is None else f"validation Dice {training.best_dice:.3f}"
    print(f"{folder}: {result}")
