"""The plan of a study: its record, the runs that are still to do, and the device of each."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import torch

from data.augment import Augmentation
from data.cases.preparation import Preparation
from data.cases.store import digest, read_store
from data.common.errors import InputError
from data.duplicates.leaks import check_leaks, find_inseparable_pairs
from data.splits.frozen import frozen_splits
from data.splits.split import NONE_HELD_OUT, centres_with, choose_splits, held_out_cases
from engine.device import choose_device
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import STAGES, Stage, with_variant
from engine.study.runs import SHARED_PARTS, Run, Study
from engine.train.command import count_steps, describe, plan_split
from engine.train.options import check_settings

PROGRAM = ("python", "-m", "engine.study")
# Settings of the training that differ from run to run (the seed), or change only how fast it is (the workers).
_NOT_SHARED = ("seed", "workers")


@dataclass(frozen=True)
class RunOptions:
    """What the command line of ``python -m engine.study run`` asks for.

    Attributes:
        folder: Of the study.
        stage: With the sampling as it was typed.
        variants: Names of the variants of the method.
        centres: The centres to hold out; empty for every one in turn.
        seeds: Seeds of the trainings.
        network, augmentation, training: The rest of the recipe; the seed of the training is not used.
        average: Whether to read out variants with a distance head as the mean of both tasks.
        against: The variant that the report compares with; None for its default.
        jobs: Runs at the same time.
        dry_run: Whether to stop after saying what would be done.
        allow_duplicates: Whether to train although one scan is in two parts of a split.
        gpu, store: As in engine.options.
        changes: ``--augment`` and ``--sampling`` as they were typed, for the training scripts.
        command: The whole command as it was typed, for the record.
    """

    folder: Path
    stage: Stage
    variants: tuple[str, ...]
    centres: tuple[str, ...]
    seeds: tuple[int, ...]
    network: NetworkSettings
    augmentation: Augmentation
    training: TrainSettings
    average: bool
    against: str | None
    jobs: int
    dry_run: bool
    allow_duplicates: bool
    gpu: str
    store: Path
    changes: tuple[str, ...]
    command: str

    @property
    def training_options(self) -> list[str]:
        """The options of the training scripts that the record of the study does not give."""
        allow = ["--allow-duplicates"] if self.allow_duplicates else []
        return ["--workers", str(self.training.workers), *self.changes, *allow]

    def shared_recipe(self, preparation: Preparation) -> dict[str, dict[str, Any]]:
        """Return the parts of the recipe that all runs share as plain values."""
        record = Recipe(
            network=self.network,
            method=self.stage.method,
            sampling=self.stage.sampling,
            augmentation=self.augmentation,
            training=self.training,
            preparation=preparation,
        ).to_record()
        for name in _NOT_SHARED:
            del record["training"][name]
        return {part: record[part] for part in SHARED_PARTS}


def plan_study(options: RunOptions) -> tuple[Study, list[str]]:
    """Make the record of the study that the options ask for, and check that every run of it can be made.

    Returns:
        The study, and lines for the user about each split.

    Raises:
        InputError: If a setting is out of its range, a centre cannot be held out, or a split has one scan or patient in
            two of its parts.
    """
    stage, centres = options.stage, read_store(options.store)
    save = not options.dry_run  # a dry run leaves nothing in the store
    splits = frozen_splits(options.store, centres, save=save)
    for seed in options.seeds:
        check_settings(replace(options.training, seed=seed), options.network)
    if NONE_HELD_OUT in options.centres:
        raise InputError(
            f"--centres {NONE_HELD_OUT}", "holds no centre out, so there is nothing to evaluate on", "name a centre"
        )
    target = stage.sampling.target
    known = centres_with(centres, target)
    names: Sequence[str | None] = options.centres or [None]
    chosen = [
        split for name in dict.fromkeys(names) for split in choose_splits(splits, name, known, option="--centres")
    ]
    cases = list(chain(*centres.values()))
    pairs = find_inseparable_pairs(chosen, cases, save=save)
    steps, lines = {}, []
    for split in chosen:
        leaks = check_leaks(split, pairs, allow=options.allow_duplicates)
        plan = plan_split(stage, split, centres)
        held_out_cases(split, centres, target)  # raises now rather than after hours of training
        lines += [describe(plan, options.training), *(f"  warning: {leak}" for leak in leaks)]
        steps[split.name] = count_steps(plan, options.training)
    methods = {name: with_variant(stage, name).method for name in options.variants}
    averaged = [name for name, method in methods.items() if options.average and "sdf" in method.heads]
    if options.average and not averaged:
        raise InputError("--average", f"no variant of {stage.title} in this study has a distance head", "leave it out")
    leave_one_out = [split for split in splits.values() if split.kind in ("centre", "none")]
    study = Study(
        folder=options.folder,
        stage=stage,
        store=options.store.resolve(),
        data_hash=digest(cases),
        split_hashes=tuple(split.hash for split in leave_one_out),
        recipe=options.shared_recipe(cases[0].preparation),
        average=options.average,
        variants={name: method.to_record() for name, method in methods.items()},
        readouts={name: "average" if name in averaged else "segmentation" for name in methods},
        seeds=options.seeds,
        steps=steps,
        commands=(options.command,),
    )
    return study, lines


def list_unfinished(study: Study) -> list[Run]:
    """List the runs that are still to do, in the order in which to make them.

    All variants of the first seed and centre come first, so that an interrupted study has something to compare.

    Raises:
        InputError: If a run looks around the masks of an earlier tumour stage that has not finished the same run.
    """
    order = product(study.seeds, study.steps, study.variants)
    unfinished = [run for run in (Run(v, seed, centre) for seed, centre, v in order) if not study.is_finished(run)]
    before = [STAGES[name] for name in study.stage.before if STAGES[name].sampling.target == "tumour"]
    for stage, run in product(before, unfinished):
        if not replace(study, stage=stage).is_finished(run):
            words = [*PROGRAM, "run", str(study.folder), "--stage", stage.name, "--store", str(study.store)]
            words += ["--variants", *study.variants, "--centres", *study.steps, "--seeds", *map(str, study.seeds)]
            problem, remedy = f"{stage.title} has no finished run of {run}", f"make the runs of {stage.title} first"
            raise InputError(study.folder, problem, remedy, command=shlex.join(words))
    return unfinished


def assign_gpus(gpu: str, jobs: int) -> list[str]:
    """Return the value of ``--gpu`` for each of the runs at the same time; "auto" uses all GPUs in turn.

    Raises:
        InputError: If this machine has no such GPU.
    """
    device = choose_device(gpu)
    if device.type == "cpu":
        return ["cpu"] * jobs
    if gpu != "auto":
        return [gpu] * jobs
    return [str(job % torch.cuda.device_count()) for job in range(jobs)]


def describe_plan(study: Study, unfinished: int, gpus: Sequence[str]) -> str:
    """Say in a few lines what will be done."""
    counts = f"{len(study.variants)} variant(s) x {len(study.seeds)} seed(s) x {len(study.steps)} centre(s)"
    total = len(study.runs)
    devices = "cpu" if gpus[0] == "cpu" else f"GPU {', '.join(sorted(set(gpus)))}"
    lines = [
        f"{study.stage.title}: {counts} = {total} run(s), {total - unfinished} finished, {unfinished} to do",
        f"  {len(gpus)} at a time on {devices}, kept under {study.folder}",
        f"  variants: {', '.join(study.variants)}; seeds: {', '.join(map(str, study.seeds))}",
    ]
    single = [name for name, readout in study.readouts.items() if readout != "average"]
    if study.average and single:
        lines.append(f"  without a distance head, so not averaged: {', '.join(single)}")
    return "\n".join(lines)
