"""Compare two runs case by case, or two arms of several trainings.

An interval over cases says nothing about another training of the same variant, which may differ by more. Two single
runs are therefore compared without one. Arms of at least FEWEST_TRAININGS trainings for each split have an interval
over trainings and cases, and the p of a sign-flip test over pairs of trainings.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.common.errors import InputError
from data.common.records import read_yaml
from engine.report.side_by_side import (
    METRICS,
    Table,
    describe_pair,
    evaluated_by_both,
    format_difference,
    rows_by_case,
)
from engine.report.tables import format_number, read_case_table
from engine.statistics import FEWEST_TRAININGS, hierarchical_interval, sign_flip_p
from engine.study.runs import CASES_TABLE

STUDY_DEPTH = 5  # levels of folders from a study down to its runs: variant, seed, stage, centre, time
ONE_TRAINING = (
    "No interval: trainings of one variant differ, and one training an arm cannot tell by how much. Train both with",
    f"{FEWEST_TRAININGS} seeds or more, and give the folders above the runs (STUDY/VARIANT).",
)


class Training(NamedTuple):
    """What two trainings have in common that are compared as a pair."""

    stage: str
    split: str
    seed: int


class ArmDifference(NamedTuple):
    """A metric of two arms over pairs of trainings.

    Attributes:
        means: Of each arm, over the splits.
        difference: A - B, mean over the splits.
        low: Lower bound of its 95 % interval over trainings and cases; NaN for fewer than FEWEST_TRAININGS a split.
        high: Upper bound.
        p: Of the two-sided sign-flip test over pairs of trainings; NaN where there is no interval.
        pairs: Number of pairs for which the metric is defined.
    """

    means: tuple[float, float]
    difference: float
    low: float
    high: float
    p: float
    pairs: int


def compare_runs(first: Path, second: Path, roi: str | None = None) -> str:
    """Compare two runs, evaluations or per-case tables, or two folders above the runs of several trainings.

    Args:
        first: Folder of a run, folder of an evaluation, or a ``cases.csv``; or a folder above runs.
        second: As ``first``.
        roi: Of run folders, use the evaluation in the "predicted" or the "reference" pancreas; None if they have one.

    Returns:
        The comparison as text.

    Raises:
        InputError: If there is nothing to compare, or the runs share several evaluations.
    """
    if any(map(is_arm, (first, second))):
        return "\n".join([f"A: {first}", f"B: {second}", *compare_arms(first, second, roi)])
    paths = choose_tables(first, second, roi)
    ours, theirs = (rows_by_case(read_case_table(path), path) for path in paths)
    if not evaluated_by_both(ours, theirs):
        problem = f"has no evaluated case in common with {paths[1]}"
        raise InputError(paths[0], problem, "give two runs of the same held-out centre")
    lines = [f"{name}: {path}" for name, path in zip("AB", paths, strict=True)]
    return "\n".join([*lines, *describe_pair(("A", "B"), ours, theirs, intervals=False), "", *ONE_TRAINING])


def is_arm(path: Path) -> bool:
    """Return whether a path is a folder above the runs of trainings, and not itself a run or its results."""
    return path.is_dir() and not any(path.glob(f"evaluation*/{CASES_TABLE}")) and bool(find_runs_below(path))


def compare_arms(first: Path, second: Path, roi: str | None) -> list[str]:
    """Compare the trainings of two folders in pairs of the same stage, split and seed; returns the lines.

    Raises:
        InputError: If the folders have no training in common, or one of them holds a training twice.
    """
    ours, theirs = find_trainings(first), find_trainings(second)
    pairs: dict[Training, tuple[Table, Table]] = {}
    for training in sorted(ours.keys() & theirs.keys()):
        paths = choose_tables(ours[training], theirs[training], roi)
        pairs[training] = shared_rows(*(rows_by_case(read_case_table(path), path) for path in paths))
    if not any(table for table, _ in pairs.values()):
        problem = f"has no evaluated training of the same stage, split and seed as {second}"
        raise InputError(first, problem, "give the folders of two variants of one study")
    lines = []
    for stage in dict.fromkeys(training.stage for training in pairs):
        lines += describe_trainings({t: tables for t, tables in pairs.items() if t.stage == stage and tables[0]})
    unpaired = sorted(ours.keys() ^ theirs.keys())
    said = ", ".join(f"{t.stage} {t.split} seed {t.seed} in {'A' if t in ours else 'B'}" for t in unpaired)
    return [*lines, *([f"without a partner: {said}"] if said else [])]


def shared_rows(ours: Table, theirs: Table) -> tuple[Table, Table]:
    """Return the rows of the cases that both tables have evaluated."""
    shared = evaluated_by_both(ours, theirs)
    return {case: ours[case] for case in shared}, {case: theirs[case] for case in shared}


def find_trainings(folder: Path) -> dict[Training, Path]:
    """Find the newest run of every training in a folder of runs.

    Raises:
        InputError: If a record is damaged, or one training is there twice, as in the folder of a whole study.
    """
    found: dict[Training, Path] = {}
    runs = [folder] if any(folder.glob(f"evaluation*/{CASES_TABLE}")) else find_runs_below(folder)
    for run in runs:
        path = run / "settings.yaml"
        try:
            record = read_yaml(path)
            training = Training(record["stage"], record["split"], record["training"]["seed"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(path, f"not the record of a run ({error!r})", "give folders of runs") from error
        earlier = found.get(training)
        if earlier is not None and earlier.parent != run.parent:
            problem = f"holds the same stage, split and seed in {earlier} and {run}"
            raise InputError(folder, problem, "give the folder of one variant")
        found[training] = run
    return found


def describe_trainings(pairs: Mapping[Training, tuple[Table, Table]]) -> list[str]:
    """Compare the trainings of one stage in words.

    Args:
        pairs: The rows of both arms by case, for every pair of trainings; both have the same cases.

    Returns:
        The lines: a row for each metric, and how the figures were made.
    """
    seeds: dict[str, list[int]] = {}
    for training in pairs:
        seeds.setdefault(training.split, []).append(training.seed)
    [stage] = {training.stage for training in pairs}
    held = "; ".join(f"{split} seeds {' '.join(map(str, drawn))}" for split, drawn in seeds.items())
    lines = [
        f"{stage}: {len(pairs)} pairs of trainings ({held})",
        "",
        f"{'metric':<12}{'A':>9}{'B':>9}{'A - B':>10}   {'95 % interval':<20}{'p':>8}{'pairs':>7}",
    ]
    for metric in METRICS:
        found = compare_trainings(metric, pairs)
        means = [format_number(mean) for mean in found.means]
        difference, interval, p = format_difference(found.difference, found.low, found.high, found.p)
        lines.append(f"{metric:<12}{means[0]:>9}{means[1]:>9}{difference:>10}   {interval:<20}{p:>8}{found.pairs:>7}")
    if min(map(len, seeds.values())) < FEWEST_TRAININGS:
        few = (
            f"No interval: a split has fewer than {FEWEST_TRAININGS} pairs of trainings, which cannot tell by how much"
        )
        return [*lines, "", few, "trainings of one variant differ. Train more seeds."]
    return [
        *lines,
        "",
        "Means of the splits, over pairs of trainings and the cases in which the metric is defined for both. Intervals",
        "draw trainings within their split, and cases; p is that of the two-sided sign-flip test over pairs of",
        "trainings, not corrected for the number of metrics.",
    ]


def compare_trainings(metric: str, pairs: Mapping[Training, tuple[Table, Table]]) -> ArmDifference:
    """Compare a metric of two arms over pairs of trainings.

    Args:
        metric: Name of the column.
        pairs: The rows of both arms by case, for every pair of trainings; both have the same cases.
    """
    names, values = metric_by_split(metric, pairs)
    differences = {split: a - b for split, (a, b) in values.items()}
    difference, low, high = hierarchical_interval(differences, names)
    counted = sum(not np.isnan(row).all() for group in differences.values() for row in group)
    p = math.nan
    if not math.isnan(low) and counted == len(pairs):
        p = sign_flip_p({split: np.nanmean(group, axis=1) for split, group in differences.items()})
    first, second = (_mean([group[arm] for group in values.values()]) for arm in (0, 1))
    return ArmDifference((first, second), difference, low, high, p, counted)


def metric_by_split(
    metric: str, pairs: Mapping[Training, tuple[Table, Table]]
) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    """Collect a metric where it is defined for both arms.

    Returns:
        The cases of each split, and the values, shape (2 arms, pairs of trainings, cases), NaN elsewhere.
    """
    names: dict[str, list[str]] = {}
    for training, (table, _) in pairs.items():
        names[training.split] = sorted({*names.get(training.split, ()), *table})
    values = {}
    for split, cases in names.items():
        tables = [both for training, both in pairs.items() if training.split == split]
        found = np.array(
            [
                [[float(both[arm].get(case, {}).get(metric, math.nan)) for case in cases] for both in tables]
                for arm in (0, 1)
            ]
        )
        found[:, np.isnan(found).any(axis=0)] = math.nan
        values[split] = found
    return names, values


def _mean(groups: Sequence[np.ndarray]) -> float:
    """Return the mean over the splits of the mean of what is defined in each."""
    means = [float(np.nanmean(group)) for group in groups if not np.isnan(group).all()]
    return float(np.mean(means)) if means else math.nan


def choose_tables(first: Path, second: Path, roi: str | None) -> tuple[Path, Path]:
    """Choose the per-case tables to compare: those that were given, or the evaluation that two run folders share.

    Raises:
        InputError: If the runs share no evaluation or several.
    """
    ours, theirs = find_tables(first, roi), find_tables(second, roi)
    if all(path.is_file() or (path / CASES_TABLE).exists() for path in (first, second)):
        return next(iter(ours.values())), next(iter(theirs.values()))
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        problem = f"has {', '.join(sorted(ours))}, but {second} has {', '.join(sorted(theirs))}"
        raise InputError(first, problem, "evaluate both in the same way, or give two cases.csv")
    if len(shared) > 1:
        problem = f"shares several evaluations with {second}: {', '.join(shared)}"
        raise InputError(first, problem, "give one of these folders of each run")
    return ours[shared[0]], theirs[shared[0]]


def find_tables(path: Path, roi: str | None) -> Mapping[str, Path]:
    """Find the per-case tables that a path stands for, by the name of their evaluation.

    Raises:
        InputError: If there are none.
    """
    if path.is_file():
        return {path.parent.name: path}
    if (path / CASES_TABLE).exists():
        return {path.name: path / CASES_TABLE}
    found = {table.parent.name: table for table in sorted(path.glob(f"evaluation*/{CASES_TABLE}"))}
    if roi:
        found = {name: table for name, table in found.items() if roi in name.split("_")}
    if not found:
        if runs := find_runs_below(path):
            raise InputError(path, "a folder of several runs", f"give one of them, such as {runs[-1]}")
        which = f" in the {roi} pancreas" if roi else ""
        raise InputError(path, f"no evaluation{which} (evaluation*/{CASES_TABLE})", "run the stage's evaluation script")
    return found


def find_runs_below(folder: Path) -> list[Path]:
    """Find the evaluated runs in the folder of a split, a stage, a variant or a study."""
    for depth in range(1, STUDY_DEPTH + 1):
        if runs := sorted({table.parents[1] for table in folder.glob("*/" * depth + f"evaluation*/{CASES_TABLE}")}):
            return runs
    return []
