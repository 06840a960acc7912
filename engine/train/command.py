"""The command behind the four training scripts: plan, describe, train every split, go on after an interruption."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch

from data.cases.case import Case
from data.cases.store import read_store
from data.common.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, InputError, command
from data.common.files import check_writable, exclusive_lock, remove_unfinished
from data.common.records import read_yaml
from data.common.settings import differences
from data.duplicates.leaks import InseparablePair, check_leaks, find_inseparable_pairs
from data.splits.frozen import select_splits
from data.splits.split import Split, centre_of, centres_with, synthetic_split
from engine.checkpoint import Checkpoint, create_run, list_runs, load_checkpoint, load_newest
from engine.device import Execution, choose_execution, set_up_plain
from engine.memory import Fit, fit_step
from engine.processes import of_first, together, wait_for_all
from engine.recipe import Recipe, Start, TrainSettings, new_network
from engine.stages import STAGES
from engine.train.cost import describe_machine, format_duration, measuring
from engine.train.initial import InitialWeights, describe_start
from engine.train.loop import BEST_SO_FAR, train
from engine.train.options import TrainOptions, parse
from engine.train.plan import Plan, describe, plan_split
from engine.train.run_log import write_settings
from engine.train.synthetic import describe_rendering
from engine.train.training import prepare_training
from engine.training_centres import TrainingCentres
from models.processes import process_count, process_number

LOCK_PATIENCE_S = 10.0  # torch lets the loader processes of a killed training live up to 5 s longer


class PlannedRun(NamedTuple):
    """A run that is to be made.

    Attributes:
        plan: Its split and cases.
        settings: Its own if it goes on, or else those that the options name.
        fit: How its steps fit into the memory.
        done: Share of its epochs that an earlier call has made.
    """

    plan: Plan
    settings: TrainSettings
    fit: Fit
    done: float


@command
def main(stage_name: str, argv: Sequence[str] | None = None) -> int:
    """Train a stage as the command line says.

    Returns:
        The exit code: 2 if a split could not be trained, 130 after Ctrl-C, else 0.
    """
    options = parse(STAGES[stage_name], argv)
    with together(options.gpu) as device:
        if process_number() == 0:  # torchrun ends the others
            check_shares(options.training)
        if options.plain:
            set_up_plain()
        return train_splits(options, choose_execution(device, plain=options.plain))


def train_splits(options: TrainOptions, execution: Execution) -> int:
    """Describe and train the splits that the options name; return the exit code.

    A split that cannot be trained does not stop the others, unless several processes train together.
    """
    stage = options.stage
    save = not options.dry_run and process_number() == 0  # a dry run leaves nothing behind
    if save:
        check_writable(options.path)
    centres, splits, pairs = find_splits(options, save=save)
    place = f"{execution.device}" + (f", {process_count()} processes" if process_count() > 1 else "")
    print(f"{stage.title}: {len(splits)} run(s) on {place}, kept under {options.path / stage.name}")
    plans, faults = [], []
    for split in splits:
        try:
            for leak in check_leaks(split, pairs, allow=options.allow_duplicates):
                print(f"  warning: {leak}")
            plans.append(plan_run(options, plan_split(stage, split, centres), execution.device))
        except InputError as error:
            faults.append(error)
    if options.initial and (new := [run.plan for run in plans if not run.done]):
        print(describe_initial(options.initial, options, new))
    if options.dry_run and plans and process_number() == 0:
        print(describe_cost(options, plans, execution))
    for run in plans if not options.dry_run else ():
        try:
            train_split(options, run.plan, run.fit, execution)
        except InputError as error:
            if process_count() > 1:  # the other processes may be waiting for this one, and end with it
                raise
            faults.append(error)
        except KeyboardInterrupt:
            if process_number() == 0:
                print(
                    f"\ninterrupted, {run.plan.split.title}; finished epochs are kept: "
                    "go on with the same command and --resume",
                    file=sys.stderr,
                )
            return EXIT_INTERRUPTED
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


def find_splits(
    options: TrainOptions, *, save: bool
) -> tuple[dict[str, list[Case]], list[Split], list[InseparablePair]]:
    """Find what can be trained on.

    Args:
        options: Say which splits to train.
        save: Whether splits, and what was found of duplicates, are kept in the store.

    Returns:
        The prepared cases by centre, the splits to train, and the pairs of cases that belong into the same part of a
        split. A training on synthetic patients only needs no cases.

    Raises:
        InputError: If the store cannot be used, or has no such split.
    """
    if options.training.only_synthetic:
        return {}, [synthetic_split({})], []
    centres = read_store(options.store)
    known = centres_with(centres, options.stage.sampling.target)
    splits = select_splits(options.store, centres, options.split, known, save=save)
    return centres, splits, find_inseparable_pairs(splits, chain(*centres.values()), save=save)


def describe_initial(initial: InitialWeights, options: TrainOptions, plans: Sequence[Plan]) -> str:
    """Return what new runs begin with, and a warning for each split that holds out cases of a centre it was trained on.

    Raises:
        InputError: If none of the weights fits.
    """
    with torch.device("meta"):  # names and shapes only
        net = new_network(options.network, options.stage.method)
    lines = [describe_start(initial, net, options.recipe(plans[0].train_cases))]
    if options.adopted:
        lines.append(f"    adopts settings of that model: {' '.join(options.adopted)}")
    for plan in plans:
        held_out = {centre_of(key) for key in plan.split.test}
        if seen := sorted(held_out & {*initial.centres}):
            text = f"the initial weights were trained on {', '.join(seen)}, of which {plan.split.name} holds out cases"
            lines.append(f"    warning: {text}: no evaluation on them is one of unseen cases")
    return "\n".join(lines)


def plan_run(options: TrainOptions, plan: Plan, device: torch.device) -> PlannedRun:
    """Decide how the steps of a run fit into the memory, and describe it; a run that goes on keeps its recipe.

    Raises:
        InputError: If they cannot, or the checkpoint of the run cannot be read.
    """
    found = load_newest(options.path, options.stage, plan.split.name, options.store) if options.resume else None
    recipe = found[1].recipe if found else options.recipe(plan.train_cases)
    plan = plan.with_synthetic(recipe)
    print(describe(plan, recipe.training))
    if not plan.validation_cases:
        print("    warning: no validation case, so the last epoch is used, and 0.5 as the threshold")
    keep_patch = options.keep_patch or found is not None
    fit = fit_step(recipe, plan.training_cases, device, keep_patch=keep_patch, plain=options.plain)
    print(fit.description)
    if options.dry_run and options.resume:
        print(f"    {describe_resumption(options, plan, fit, found)}")
    return PlannedRun(plan, recipe.training, fit, found[1].epoch / recipe.training.epochs if found else 0.0)


def describe_resumption(options: TrainOptions, plan: Plan, fit: Fit, found: tuple[Path, Checkpoint] | None) -> str:
    """Return what ``--resume`` would do with a split, of which this run was found."""
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


def describe_cost(options: TrainOptions, plans: Sequence[PlannedRun], execution: Execution) -> str:
    """Measure some steps of the first plan, and return a line with the time that each plan and all together take.

    Raises:
        InputError: If a case cannot be read, or the memory does not suffice.
    """
    plan, fit = plans[0].plan, plans[0].fit
    recipe = options.recipe(plan.train_cases, fit)
    work = plan.to_measure(replace(options.stage, sampling=recipe.sampling), recipe, fit.recomputed)
    with measuring(execution.device, torch.get_num_threads(), plain=options.plain) as meter:
        cost = meter.measure(work)
    seconds = {run.plan.split.name: run.plan.seconds(cost, run.settings) * (1 - run.done) for run in plans}
    each = ", ".join(f"{name} {format_duration(s)}" for name, s in seconds.items())
    total = f"; in total {format_duration(sum(seconds.values()))}" if len(seconds) > 1 else ""
    alone = ", in one process" if process_count() > 1 else ""
    rendering = describe_rendering(recipe, plan.synthetic)
    lines = [rendering] if rendering else []
    lines.append(f"  measured on {meter.machine}{alone}: {format_duration(cost.step_s)} a step, so about {each}{total}")
    return "\n".join(lines)


def check_shares(settings: TrainSettings) -> None:
    """Check that the processes can share the boxes of a step equally.

    Raises:
        InputError: If they cannot.
    """
    if settings.batch_size % process_count():
        problem = f"{process_count()} processes cannot share as many boxes equally"
        raise InputError(f"--batch-size {settings.batch_size}", problem, "give a multiple of the processes")


def train_split(options: TrainOptions, plan: Plan, fit: Fit, execution: Execution) -> None:
    """Train one split in a new run folder, or resume its newest run.

    Raises:
        InputError: If the run cannot be resumed, fails, or is being trained by another process.
    """
    runs = list_runs(options.path, options.stage, plan.split.name) if options.resume else []
    remedy = "wait until it ends, or leave out --resume to start a run of its own"
    with contextlib.ExitStack() as stack:
        folder = Path()
        if process_number() == 0:
            folder = runs[-1] if runs else create_run(options.path, options.stage, plan.split.name)
            stack.enter_context(exclusive_lock(folder, remedy, patience_s=LOCK_PATIENCE_S))
            remove_unfinished([folder])  # each is as large as a checkpoint
        train_in(of_first(folder), options, plan, fit, execution)


def check_start(folder: Path, start: Start) -> None:
    """Check that a run without a finished epoch begins with the weights that it was begun with before.

    Raises:
        InputError: If it was begun with others.
    """
    try:
        before = Start(**read_yaml(folder / "settings.yaml").get("start", {}))
    except (OSError, ValueError, TypeError):  # a new run, or one that was killed before it was recorded
        return
    if before.sha256 and before.sha256 != start.sha256:
        problem = f"was begun with the weights of {before.path}, and no epoch of it is finished"
        raise InputError(folder, problem, f"give --init {before.path} again, or start a new run without --resume")


def train_in(folder: Path, options: TrainOptions, plan: Plan, fit: Fit, execution: Execution) -> None:
    """Train in a run folder that nobody else is using.

    A resumed run keeps the recipe that it was started with; what was typed differently now is printed.

    Raises:
        InputError: If the run cannot be resumed, or fails.
    """
    split, recipe = plan.split, options.recipe(plan.train_cases, fit)
    stage = replace(options.stage, sampling=recipe.sampling)
    checkpoint = None
    if (folder / "last.pt").exists():
        checkpoint = load_checkpoint(folder / "last.pt", stage.name, options.store)
        if checkpoint.split_hash != split.hash:
            raise InputError(folder, "trained on another split of the data", "start a new run without --resume")
        kept = describe_kept_settings(checkpoint.recipe, recipe)
        recipe = checkpoint.recipe
        stage = replace(stage, method=recipe.method, sampling=recipe.sampling)
        if checkpoint.epoch >= recipe.training.epochs:
            if process_number() == 0:
                (folder / BEST_SO_FAR).unlink(missing_ok=True)  # if the run was killed just before it did so
            others = "; leave out --resume to start a run with the settings given now" if kept else ""
            print(f"{folder}: already finished, {recipe.training.epochs} epochs{kept}{others}")
            return
        print(f"{folder}: goes on after epoch {checkpoint.epoch}{kept}")
    plan = plan.with_synthetic(recipe)
    if checkpoint is None and process_number() == 0:
        check_start(folder, recipe.start)
        write_settings(
            folder,
            {
                "stage": stage.name,
                "split": split.name,
                "split_hash": split.hash,
                "device": str(execution.device),
                "machine": describe_machine(execution.device),
                "processes": process_count(),
                "plain": options.plain,
                "store": "" if recipe.training.only_synthetic else str(options.store),
                **TrainingCentres(plan.count_centres(recipe.training), plan.synthetic_centres).to_record(),
                **recipe.to_record(),
            },
        )
    wait_for_all()
    check_shares(recipe.training)
    training = prepare_training(
        stage=stage,
        split=split,
        recipe=recipe,
        train_cases=plan.train_cases,
        negatives=plan.negatives,
        validation_cases=plan.validation_cases,
        synthetic=plan.synthetic,
        execution=execution,
        folder=folder,
        checkpoint=checkpoint,
        initial=options.initial,
        recomputed=fit.recomputed,
    )
    train(training, profile=options.profile if process_number() == 0 else 0, tracker=options.tracker)
    result = "no case to validate on" if training.best_dice is None else f"validation Dice {training.best_dice:.3f}"
    print(f"{folder}: {result}")
