"""The study that measures what each part of the method gives: variants x held-out centres x seeds.

    python -m engine.study run FOLDER [--stage tumor_coarse] [--variants ...] [--seeds ...] [--jobs N]
    python -m engine.study report FOLDER
    python -m engine.study compare RUN_A RUN_B

``run`` trains and evaluates with the ordinary scripts, goes on where it was stopped, and ends with the report.
"""

import argparse
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from data.cases.store import digest, read_store
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import exclusive_lock
from data.duplicates.leaks import check_leaks, find_inseparable_pairs
from data.splits.frozen import frozen_splits
from data.splits.split import NONE_HELD_OUT, Split, centres_with, choose_splits, held_out_cases
from engine.device import choose_device
from engine.options import add_allow_duplicates, add_average, add_gpu, add_settings, add_store, read_settings
from engine.recipe import NetworkSettings, TrainSettings
from engine.stages import STAGES, VARIANTS, Stage, distinct_variants, with_variant
from engine.study.compare import compare_runs
from engine.study.jobs import Children, execute
from engine.study.report import write_report
from engine.study.runs import Run, Study, joined, read_studies, write_study
from engine.train.command import check_settings, count_steps, describe, plan_split

# Does not change what is computed, or differs from run to run.
NOT_OF_THE_STUDY = ("seed", "workers")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; the defaults of the training are those of the stage that it names."""
    program = "python -m engine.study"
    first = argparse.ArgumentParser(prog=program, add_help=False)
    add_stage(first)
    stage = STAGES[first.parse_known_args(argv)[0].stage]
    parser = argparse.ArgumentParser(prog=program, description=__doc__.split("\n")[0])
    actions = parser.add_subparsers(dest="action", required=True)

    def add_action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )

    run = add_action("run", "train and evaluate every run that is not finished, then report")
    add_folder(run)
    add_runs(run, stage)
    add_settings(run, TrainSettings(epochs=stage.epochs), leave_out=("seed",))
    add_settings(run, NetworkSettings())
    report = add_action("report", "make the tables and the figure from the runs that are finished")
    add_folder(report)
    compare = add_action("compare", "compare two runs over the cases that both have")
    for name in ("run_a", "run_b"):
        compare.add_argument(name, metavar=name.upper(), type=Path, help="a run, an evaluation in it, or its cases.csv")
    compare.add_argument("--roi", choices=("predicted", "reference"), help="of a run, the evaluation in this pancreas")
    return parser.parse_args(argv)


def add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="of the study")
    parser.add_argument(
        "--against", metavar="V", help="compare with this variant; baseline, or the first, if not given"
    )


def add_runs(parser: argparse.ArgumentParser, stage: Stage) -> None:
    """Which runs, and how they are made."""
    names = {"choices": VARIANTS, "metavar": "V", "default": distinct_variants(stage)}
    add_stage(parser)
    parser.add_argument("--variants", nargs="+", help=f"of the method, of {', '.join(VARIANTS)}", **names)
    parser.add_argument("--centres", nargs="+", metavar="CENTRE", help="hold out these; if not given, each in turn")
    parser.add_argument("--seeds", nargs="+", type=int, default=[TrainSettings.seed], metavar="N", help="of a training")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and stop")
    add_allow_duplicates(parser)
    add_gpu(parser)
    add_store(parser)
    add_average(parser)


def add_stage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", choices=STAGES, default="tumor_coarse", help="of the cascade")


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.action == "compare":
        print(compare_runs(args.run_a, args.run_b, args.roi))
        return 0
    if args.action == "report":
        studies = read_studies(args.folder)
        if not studies:
            raise InputError(f"{args.folder}: no study.yaml; start a study with python -m engine.study run FOLDER")
        for study in studies.values():
            print(write_report(study, args.against))
        return 0
    return run_study(args, shlex.join(["python", "-m", "engine.study", *(sys.argv[1:] if argv is None else argv)]))


def run_study(args: argparse.Namespace, typed: str) -> int:
    """Make the runs and the report. Returns the exit code: 2 when a run failed."""
    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: must be 1 or more")
    study, lines = plan(args, typed)
    joint = joined(study)
    if args.against and args.against not in joint.variants:
        raise InputError(f"--against {args.against}: not in this study; choose one of {', '.join(joint.variants)}")
    runs = [Run(v, seed, centre) for seed, centre, v in product(study.seeds, study.steps, study.variants)]
    todo = [run for run in runs if not study.finished(run)]
    require_stage_before(study, todo)
    jobs = max(1, min(args.jobs, len(todo)))
    gpus = places(args.gpu, jobs)
    print(summary(study, len(runs), len(todo), gpus))
    print("\n".join(lines))
    if args.dry_run:
        return 0
    threads = max(1, torch.get_num_threads() // jobs)  # a script alone would take them all
    options = ["--workers", str(args.workers), *["--allow-duplicates"] * args.allow_duplicates]
    environment = {"OMP_NUM_THREADS": str(threads)} if gpus[0] == "cpu" else {}
    busy = "wait for the study that is at work there, or choose another folder"
    with exclusive_lock(study.folder, busy) as lock, answering_signals():
        joint = joined(study)  # once more: another study may have ended here since
        write_study(joint)
        faults = execute(study, todo, gpus, options, Children(lock, environment)) if todo else []
    try:
        if joint.runs():
            print(write_report(joint, args.against))
    finally:
        for fault in faults:
            print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


def chosen_splits(args: argparse.Namespace, splits: dict[str, Split], known: set[str]) -> list[Split]:
    """Those of ``--centres``. Raises InputError for one that is not prepared."""
    if args.centres and NONE_HELD_OUT in args.centres:
        raise InputError(f"--centres {NONE_HELD_OUT}: holds no centre out, so there is nothing to evaluate on")
    named = dict.fromkeys(args.centres or [None])
    return [split for name in named for split in choose_splits(splits, name, known)]


def plan(args: argparse.Namespace, typed: str) -> tuple[Study, list[str]]:
    """The study that the command line asks for, and a line about each split. Raises InputError for bad settings."""
    stage, centres = STAGES[args.stage], read_store(args.store)
    save = not args.dry_run  # which leaves nothing in the store
    splits = frozen_splits(args.store, centres, save=save)
    cases = [case for cases in centres.values() for case in cases]
    training, network = read_settings(TrainSettings, args), read_settings(NetworkSettings, args)
    for seed in args.seeds:
        check_settings(replace(training, seed=seed), network)
    settings = {**vars(training), **vars(network)}
    steps, lines = {}, []
    chosen = chosen_splits(args, splits, centres_with(centres, stage.sampling.target))
    pairs = find_inseparable_pairs(chosen, cases, save=save)
    for split in chosen:
        leaks = check_leaks(split, pairs, allow=args.allow_duplicates)
        split_plan = plan_split(stage, split, centres)
        held_out_cases(split, centres, stage.sampling.target)  # not after hours of training
        lines += [describe(split_plan, training), *(f"  warning: {x}" for x in leaks)]
        steps[split.name] = count_steps(split_plan, training)
    methods = {name: with_variant(stage, name).method for name in dict.fromkeys(args.variants)}
    both = [name for name, method in methods.items() if args.average and "sdf" in method.heads]
    if args.average and not both:
        raise InputError(f"--average: no variant of {stage.title} has a distance head; leave it out")
    study = Study(
        folder=args.folder,
        stage=stage,
        store=args.store.resolve(),
        cases=digest(cases),
        splits=" ".join(s.hash for s in splits.values() if s.kind in ("centre", "none")),
        settings={name: value for name, value in settings.items() if name not in NOT_OF_THE_STUDY},
        average=args.average,
        variants={name: method.to_record() for name, method in methods.items()},
        readouts={name: "average" if name in both else "segmentation" for name in methods},
        seeds=tuple(dict.fromkeys(args.seeds)),
        steps=steps,
        commands=(typed,),
    )
    return study, lines


def require_stage_before(study: Study, runs: Sequence[Run]) -> None:
    """A fine tumour stage looks around what the coarse one found. Raises InputError where that is not there yet."""
    before = [STAGES[name] for name in study.stage.before if STAGES[name].sampling.target == "tumour"]
    for stage, run in product(before, runs):
        earlier = replace(study, stage=stage)
        if not earlier.finished(run):
            again = f"run python -m engine.study run {study.folder} --stage {stage.name} first"
            raise InputError(f"{study.folder}: {stage.title} has no finished run of {run}; {again}")


def places(gpu: str, jobs: int) -> list[str]:
    """Where each of the runs at a time computes, as ``--gpu`` of its scripts: the GPUs in turn."""
    device = choose_device(gpu)
    if device.type == "cpu":
        return ["cpu"] * jobs
    count = torch.cuda.device_count() if gpu == "auto" else 1
    return [str((device.index + job) % count) if gpu == "auto" else gpu for job in range(jobs)]


def summary(study: Study, total: int, todo: int, gpus: Sequence[str]) -> str:
    """What will be done, in words."""
    counts = f"{len(study.variants)} variant(s) x {len(study.seeds)} seed(s) x {len(study.steps)} centre(s)"
    where = "cpu" if gpus[0] == "cpu" else f"GPU {', '.join(sorted(set(gpus)))}"
    lines = [
        f"{study.stage.title}: {counts} = {total} run(s), {total - todo} finished, {todo} to do",
        f"  {len(gpus)} at a time on {where}, kept under {study.folder}",
        f"  variants: {', '.join(study.variants)}; seeds: {', '.join(map(str, study.seeds))}",
    ]
    single = [name for name, readout in study.readouts.items() if readout != "average"]
    if study.average and single:
        lines.append(f"  without a distance head, so not averaged: {', '.join(single)}")
    return "\n".join(lines)


@contextmanager
def answering_signals() -> Iterator[None]:
    """End as for Ctrl-C, with the scripts, when the system or a closed terminal ends the study."""
    taken = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
