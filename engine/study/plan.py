"""The plan of a study: its record, the runs that are still to do, and the device of each."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data.augment import Augmentation
from data.cases.preparation import Preparation
from data.cases.store import digest, read_store
from data.common.errors import InputError
from data.common.program import command_name
from data.duplicates.leaks import check_leaks, find_inseparable_pairs
from data.splits.frozen import frozen_splits
from data.splits.split import NONE_HELD_OUT, centres_with, choose_splits, held_out_cases
from data.synthesis.settings import Synthesis
from engine.device import choose_device
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import STAGES, Stage, with_variant
from engine.study.runs import SHARED_PARTS, Run, Study
from engine.train.options import check_settings
from engine.train.plan import Plan, count_steps, describe, plan_split

PROGRAM = tuple(command_name("python -m engine.study", "study").split())
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
        network, augmentation, training, synthesis: The rest of the recipe; the seed of the training is not used.
        average: Whether to read out variants with a distance head as the mean of both tasks.
        against: The variant that the report compares with; None for its default.
        jobs: Runs at the same time; None for one on each of the GPUs that ``gpu`` names.
        dry_run: Whether to stop after saying what would be done.
        allow_duplicates: Whether to train although one scan is in two parts of a split.
        slurm: Whether to write a job script for SLURM instead of making the runs.
        slurm_options: Options of ``sbatch`` for it, one or more words each.
        gpu: As for ``assign_gpus``.
        store: As in engine.options.
        changes: ``--augment``, ``--sampling`` and ``--synthesis`` as they were typed, for the training scripts.
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
    synthesis: Synthesis
    average: bool
    against: str | None
    jobs: int | None
    dry_run: bool
    allow_duplicates: bool
    slurm: bool
    slurm_options: tuple[str, ...]
    gpu: str
    store: Path
    changes: tuple[str, ...]
    command: str

    @property
    def training_options(self) -> list[str]:
        """The options of the training scripts that the record of the study does not give."""
        allow = ["--allow-duplicates"] if self.allow_duplicates else []
        return ["--workers", str(self.training.workers), *self.changes, *allow]

    def recipe(self, preparation: Preparation) -> Recipe:
        """Return the recipe of the runs of the variant full, on cases that were prepared so."""
        return Recipe(
            network=self.network,
            method=self.stage.method,
            sampling=self.stage.sampling,
            augmentation=self.augmentation,
            training=self.training,
            preparation=preparation,
            synthesis=self.synthesis,
        )

    def shared_recipe(self, preparation: Preparation) -> dict[str, dict[str, Any]]:
        """Return the parts of the recipe that all runs share as plain values."""
        record = self.recipe(preparation).to_record()
        for name in _NOT_SHARED:
            del record["training"][name]
        return {part: record[part] for part in SHARED_PARTS}


class Planned(NamedTuple):
    """A study that can be made.

    Attributes:
        study: Its record.
        plans: Its cases, by the centre that is held out.
        lines: For the user, about each split.
    """

    study: Study
    plans: Mapping[str, Plan]
    lines: list[str]


def plan_study(options: RunOptions) -> Planned:
    """Make the record of the study that the options ask for, and check that every run of it can be made.

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
    plans, lines = {}, []
    for split in chosen:
        leaks = check_leaks(split, pairs, allow=options.allow_duplicates)
        plan = plan_split(stage, split, centres).with_synthetic(options.recipe(cases[0].preparation))
        plans[split.name] = plan
        held_out_cases(split, centres, target)  # raises now rather than after hours of training
        lines += [describe(plan, options.training), *(f"  warning: {leak}" for leak in leaks)]
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
        steps={name: count_steps(plan, options.training) for name, plan in plans.items()},
        commands=(options.command,),
    )
    return Planned(study, plans, lines)


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


def assign_gpus(gpu: str, jobs: int | None) -> list[str]:
    """Return the value of ``--gpu`` for each of the runs at the same time.

    Args:
        gpu: "all" GPUs that this process sees, some of them such as "0,1", "auto" for as many as there are ``jobs``, or
            "cpu". The numbers are those of CUDA_VISIBLE_DEVICES, if it is set, as they are for the scripts.
        jobs: Number of runs at the same time; None for one on each GPU that is named, and one with "auto" and "cpu". If
            they are more than the GPUs, each GPU has several.

    Raises:
        InputError: If this machine has no such GPU.
    """
    count = torch.cuda.device_count()
    if gpu == "all" and not count:
        raise InputError("--gpu all", "this machine has no GPU that torch can use", "give cpu")
    if gpu == "all" or (gpu == "auto" and torch.cuda.is_available()):
        named = [str(number) for number in range(count)]
    else:
        devices = [choose_device(part) for part in gpu.split(",")]
        named = list(dict.fromkeys("cpu" if device.type == "cpu" else str(device.index) for device in devices))
    if "cpu" in named and len(named) > 1:
        raise InputError(f"--gpu {gpu}", "the CPU would make a run much more slowly than a GPU", "name GPUs, or cpu")
    jobs = jobs or (1 if gpu == "auto" else len(named))
    return [named[job % len(named)] for job in range(jobs)]


def describe_plan(study: Study, unfinished: int, gpus: Sequence[str]) -> str:
    """Say in a few lines what will be done.

    Args:
        study: What was asked for.
        unfinished: Number of its runs that are still to do.
        gpus: The value of ``--gpu`` for each of the runs at the same time; empty if they become jobs of SLURM.
    """
    counts = f"{len(study.variants)} variant(s) x {len(study.seeds)} seed(s) x {len(study.steps)} centre(s)"
    total = len(study.runs)
    devices = "cpu" if "cpu" in gpus else f"GPU {', '.join(dict.fromkeys(gpus))}"
    crowded = ", several on one GPU" if "cpu" not in gpus and len(set(gpus)) < len(gpus) else ""
    where = f"{len(gpus)} at a time on {devices}{crowded}" if gpus else "each a job of SLURM"
    lines = [
        f"{study.stage.title}: {counts} = {total} run(s), {total - unfinished} finished, {unfinished} to do",
        f"  {where}, kept under {study.folder}",
        f"  variants: {', '.join(study.variants)}; seeds: {', '.join(map(str, study.seeds))}",
    ]
    single = [name for name, readout in study.readouts.items() if readout != "average"]
    if study.average and single:
        lines.append(f"  without a distance head, so not averaged: {', '.join(single)}")
    return "\n".join(lines)
