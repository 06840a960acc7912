"""Measure what each part of the method contributes: train and compare variants, held-out centres and seeds.

    python -m engine.study run FOLDER [--stage tumor_coarse] [--variants ...] [--seeds ...] [--gpu all] [--slurm]
    python -m engine.study report FOLDER
    python -m engine.study compare RUN_A RUN_B
    python -m engine.study condense FOLDER OUT

``run`` trains and evaluates with the ordinary scripts, goes on after an interruption, and ends with the report. With
``--slurm`` it writes a job script that does so on a cluster.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data.cases.options import add_store
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import exclusive_lock
from data.common.progress import add_quiet
from data.common.text import HelpFormatter, OptionGroup, add_examples
from engine.options import (
    add_allow_duplicates,
    add_average,
    add_recipe_options,
    read_recipe_options,
)
from engine.recipe import TrainSettings
from engine.stages import STAGES, VARIANTS, Stage, distinct_variants
from engine.study.compare import compare_runs
from engine.study.condense import condense
from engine.study.cost import describe_costs
from engine.study.jobs import ScriptRunner, run_jobs, terminations_as_interrupts
from engine.study.page import write_study_page
from engine.study.plan import PROGRAM, RunOptions, assign_gpus, describe_plan, list_unfinished, plan_study
from engine.study.report import write_report
from engine.study.runs import merge_with_record, read_studies, write_study
from engine.study.slurm import split_options, write_array

MOST_NAMED = 5  # runs that the end of a report names


@dataclass(frozen=True)
class ReportOptions:
    """What ``report`` asks for: the folder of a study, and the variant to compare with (None for the default)."""

    folder: Path
    against: str | None


@dataclass(frozen=True)
class CompareOptions:
    """What ``compare`` asks for: two runs, evaluations or tables; and of runs, which evaluation to use."""

    first: Path
    second: Path
    roi: str | None


@dataclass(frozen=True)
class CondenseOptions:
    """What ``condense`` asks for: the folder with the runs, and the folder for the tables."""

    folder: Path
    out: Path


def parse(argv: Sequence[str] | None) -> RunOptions | ReportOptions | CompareOptions | CondenseOptions:
    """Read the command line. The defaults of the training are those of the stage that it names.

    Raises:
        InputError: If a setting is unknown or out of its range.
    """
    argv = sys.argv[1:] if argv is None else argv
    stage_parser = argparse.ArgumentParser(prog=shlex.join(PROGRAM), add_help=False)
    _add_stage(stage_parser)
    stage = STAGES[stage_parser.parse_known_args(argv)[0].stage]

    parser = argparse.ArgumentParser(
        prog=shlex.join(PROGRAM), description=(__doc__ or "").partition("\n")[0], formatter_class=HelpFormatter
    )
    add_examples(
        parser,
        ("run my_study --variants baseline full --seeds 1 2", "train and evaluate two variants, each with two seeds"),
        ("report my_study", "write the tables and figures anew"),
        ("compare RUN_A RUN_B", "compare any two runs case by case"),
    )
    actions = parser.add_subparsers(dest="action", required=True)

    def add_action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", formatter_class=HelpFormatter
        )

    add_run_options(
        add_action("run", "train and evaluate every run that is not finished, then write the report"), stage
    )
    report = add_action("report", "write the tables and the figure of the runs that are finished")
    _add_folder(report)
    _add_against(report)
    add_examples(
        report,
        ("my_study", "compare every variant with the baseline"),
        ("my_study --against full", "compare every variant with the full method"),
    )

    compare = add_action(
        "compare", "compare two runs over the cases that both have, or two variants over their trainings"
    )
    for name in ("run_a", "run_b"):
        compare.add_argument(
            name,
            metavar=name.upper(),
            type=Path,
            help="folder of a run, folder of one of its evaluations, or a cases.csv; or a folder above runs, such as "
            "STUDY/VARIANT, whose trainings are compared in pairs of the same split and seed",
        )
    compare.add_argument(
        "--roi", choices=("predicted", "reference"), help="evaluation of a run to use: in the pancreas of this kind"
    )

    add_examples(
        compare,
        ("RUN_A RUN_B", "compare the evaluations of two run folders"),
        ("my_study/full my_study/baseline", "compare two variants, with an interval over their trainings"),
        ("RUN_A RUN_B --roi reference", "compare how the stage works within the reference pancreas"),
    )

    shorten = add_action("condense", "collect settings and results of many runs in two tables, runs.csv and cases.csv")
    shorten.add_argument("folder", metavar="FOLDER", type=Path, help="folder of a study, or any folder above runs")
    shorten.add_argument("out", metavar="OUT", type=Path, help="folder for the tables; report reads those of a study")
    add_examples(
        shorten,
        ("my_study my_tables", "keep the results of a study without its weights and masks"),
        ("checkpoints my_tables", "collect all runs that there are"),
    )

    args = parser.parse_args(argv)
    if args.action == "report":
        return ReportOptions(args.folder, args.against)
    if args.action == "compare":
        return CompareOptions(args.run_a, args.run_b, args.roi)
    if args.action == "condense":
        return CondenseOptions(args.folder, args.out)
    return read_run_options(args, stage, typed=argv)


def add_run_options(parser: argparse.ArgumentParser, stage: Stage) -> None:
    """Add the options of ``run``; the defaults of the training are those of ``stage``."""
    _add_folder(parser)
    compared = parser.add_argument_group("study")
    _add_against(compared)
    _add_stage(compared)
    compared.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        metavar="VARIANT",
        help=f"variants of the method, out of {', '.join(VARIANTS)} (default: all that differ in this stage)",
    )
    compared.add_argument(
        "--centres", nargs="+", metavar="CENTRE", help="centres to hold out (default: each prepared centre in turn)"
    )
    compared.add_argument(
        "--seeds", nargs="+", type=int, metavar="N", help=f"seeds of the trainings (default: {TrainSettings.seed})"
    )
    data = parser.add_argument_group("data")
    add_allow_duplicates(data)
    add_store(data)
    add_average(parser.add_argument_group("evaluation"))
    add_recipe_options(parser, stage, leave_out=("seed", "boxes_per_epoch"))
    machine = parser.add_argument_group("output and machine")
    machine.add_argument(
        "--gpu",
        default="auto",
        metavar="GPU",
        help="devices to compute on: all (every GPU), some GPUs such as 0,1, auto (as many GPUs as --jobs), or cpu",
    )
    machine.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="number of runs at the same time (default: one on each GPU that --gpu names, with auto and cpu one; with "
        "--slurm as many as the cluster allows)",
    )
    machine.add_argument(
        "--dry-run", action="store_true", help="print what would be done and how long it would take, and stop"
    )
    machine.add_argument(
        "--slurm",
        action="store_true",
        help="write a job script for SLURM, an array with one job a run, instead of making the runs here",
    )
    machine.add_argument(
        "--slurm-options",
        metavar="OPTIONS",
        help='options of sbatch for the script, as in --slurm-options="--partition=gpu --time=24:00:00"',
    )
    add_quiet(machine)
    add_examples(
        parser,
        ("my_study --dry-run", "print the runs of all variants and centres, and how long they would take"),
        ("my_study --variants baseline full --seeds 1 2", "train and evaluate two variants, each with two seeds"),
        ("my_study --gpu all", "train on every GPU of this machine at the same time"),
        ("my_study --slurm", "write a job script for SLURM instead"),
    )


def read_run_options(args: argparse.Namespace, stage: Stage, typed: Sequence[str]) -> RunOptions:
    """Collect what was typed for the options of ``add_run_options``.

    Args:
        args: The parsed command line.
        stage: The stage that it names.
        typed: The command line as it was typed, for the record of the study.

    Raises:
        InputError: If a setting is unknown or out of its range.
    """
    if args.jobs is not None and args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}", "fewer than one run at a time", "give 1 or more")
    if args.slurm_options is not None and not args.slurm:
        raise InputError(f"--slurm-options {args.slurm_options!r}", "no job script is asked for", "add --slurm")
    if args.slurm and args.gpu not in ("auto", "cpu"):
        problem = "SLURM chooses the GPU of each job"
        raise InputError(f"--gpu {args.gpu}", problem, "leave it out, or give cpu for jobs without a GPU")
    recipe = read_recipe_options(args, stage)
    changes = (("--augment", args.augment), ("--sampling", args.sampling), ("--synthesis", args.synthesis))
    return RunOptions(
        folder=args.folder,
        stage=recipe.stage,
        variants=tuple(dict.fromkeys(args.variants or distinct_variants(stage))),
        centres=tuple(args.centres or ()),
        seeds=tuple(dict.fromkeys(args.seeds or [TrainSettings.seed])),
        network=recipe.network,
        augmentation=recipe.augmentation,
        training=recipe.training,
        synthesis=recipe.synthesis,
        average=args.average,
        against=args.against,
        jobs=args.jobs,
        dry_run=args.dry_run,
        allow_duplicates=args.allow_duplicates,
        slurm=args.slurm,
        slurm_options=split_options(args.slurm_options or ""),
        gpu=args.gpu,
        store=args.store,
        changes=tuple(text for flag, texts in changes for change in texts for text in (flag, change)),
        command=shlex.join([*PROGRAM, *typed]),
    )


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the study")


def _add_against(parser: OptionGroup) -> None:
    parser.add_argument(
        "--against",
        metavar="VARIANT",
        help="variant with which the others are compared (default: baseline, or the first if there is none)",
    )


def _add_stage(parser: OptionGroup) -> None:
    parser.add_argument("--stage", choices=STAGES, default="tumor_coarse", help="stage of the cascade")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Returns:
        The exit code: 2 if a run failed, else 0.
    """
    options = parse(argv)
    if isinstance(options, RunOptions):
        return run_study(options)
    if isinstance(options, CompareOptions):
        print(compare_runs(options.first, options.second, options.roi))
    elif isinstance(options, CondenseOptions):
        print(condense(options.folder, options.out))
    else:
        report_study(options.folder, options.against)
    return 0


def report_study(folder: Path, against: str | None = None) -> None:
    """Write and print the tables, the figures and the page of a study, and say which runs are not finished.

    Args:
        folder: Of the study.
        against: The variant to compare with; None for the default.

    Raises:
        InputError: If there is no study in the folder, or a table of results is damaged.
    """
    studies = read_studies(folder)
    if not studies:
        start = shlex.join([*PROGRAM, "run", str(folder)])
        raise InputError(folder, "has no study.yaml", "start a study", command=start)
    for study in studies.values():
        print(write_report(study, against))
        if missing := [str(run) for run in study.runs if not study.is_condensed and not study.is_finished(run)]:
            some = "; ".join(missing[:MOST_NAMED]) + ("; ..." if missing[MOST_NAMED:] else "")
            print(f"not finished: {len(missing)} of {len(study.runs)} run(s) of {study.stage.title}: {some}")
    print(f"report: {write_study_page(studies, against)}")


def run_study(options: RunOptions) -> int:
    """Make the runs that are not finished, then write the report.

    Returns:
        The exit code: 2 if a run failed, else 0.

    Raises:
        InputError: If the study cannot be made as the options say, or another study is at work in its folder.
    """
    study, plans, lines = plan_study(options)
    merged = merge_with_record(study)
    if options.against and options.against not in merged.variants:
        names = ", ".join(merged.variants)
        raise InputError(f"--against {options.against}", "not a variant of this study", f"choose one of {names}")
    unfinished = list_unfinished(study)
    gpus = assign_gpus(options.gpu, options.jobs)[: max(1, len(unfinished))]
    # Each script would use all cores, so those that run at the same time share them.
    threads = max(1, torch.get_num_threads() // len(gpus))
    print(describe_plan(study, len(unfinished), [] if options.slurm else gpus))
    print("\n".join(lines))

    def forecast() -> str:
        return describe_costs(merged, unfinished, options=options, plans=plans, gpus=gpus, threads=threads)

    if options.dry_run:
        if options.slurm and options.gpu == "auto" and gpus[0] == "cpu":
            print(
                "  time: unknown, as this machine has no GPU; call this command on a node of the cluster that has one"
            )
        elif unfinished:
            print(forecast())
        return 0
    busy = "wait for the study that is at work there, or choose another folder"
    faults = []
    with exclusive_lock(study.folder, busy) as lock, terminations_as_interrupts():
        merged = merge_with_record(study)  # another study may have ended here since
        write_study(merged)
        if options.slurm and unfinished:
            print(write_array(study, unfinished, options))
            return 0
        if unfinished:
            print(forecast(), flush=True)
            faults = run_jobs(
                study,
                unfinished,
                gpus=gpus,
                training_options=options.training_options,
                scripts=ScriptRunner(lock, {"OMP_NUM_THREADS": str(threads)}),
            )
    try:
        if any(map(merged.find_evaluation, merged.runs)):
            print(write_report(merged, options.against))
            print(f"report: {write_study_page(read_studies(study.folder), options.against)}")
    finally:
        for fault in faults:
            print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0
