"""Compare two runs case by case, over the cases that both have."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.common.errors import InputError
from engine.report.lost import has_target, is_missed
from engine.report.tables import CaseRow, failed, read_case_table
from engine.statistics import compare
from engine.study.report import format_difference, format_number
from engine.study.runs import CASES_TABLE

METRICS = ("dice", "nsd_2mm", "hd95_mm", "recall", "precision")
STUDY_DEPTH = 5  # levels of folders from a study down to its runs: variant, seed, stage, centre, time


def compare_runs(first: Path, second: Path, roi: str | None = None) -> str:
    """Compare two runs, evaluations or per-case tables.

    Args:
        first: Folder of a run, folder of an evaluation, or a ``cases.csv``.
        second: As ``first``.
        roi: Of run folders, use the evaluation in the "predicted" or the "reference" pancreas; None if they have one.

    Returns:
        The comparison as text.

    Raises:
        InputError: If there is nothing to compare, or the runs share several evaluations.
    """
    paths = choose_tables(first, second, roi)
    tables = [_read_rows_by_case(path) for path in paths]
    rows = [{case: row for case, row in table.items() if not failed(row)} for table in tables]
    shared = sorted(rows[0].keys() & rows[1].keys())
    if not shared:
        problem = f"has no evaluated case in common with {paths[1]}"
        raise InputError(paths[0], problem, "give two runs of the same held-out centre")
    lines = [f"{name}: {path}" for name, path in zip("AB", paths, strict=True)]
    head = f"{'metric':<12}{'A':>9}{'B':>9}{'A - B':>10}   {'95 % interval':<20}{'p':>8}{'n':>5}"
    lines += [f"{len(shared)} cases in both", "", head]
    lines += [_metric_line(metric, [[r[case] for case in shared] for r in rows], shared) for metric in METRICS]
    wanted = [case for case in shared if has_target(rows[0][case])]
    missed = [
        f"{sum(is_missed(r[case]) for case in wanted)} of {len(wanted)} in {name}"
        for name, r in zip("AB", rows, strict=True)
    ]
    lines += ["", f"missed, no voxel found: {', '.join(missed)}"]
    for name, table, other in (("A", tables[0], tables[1]), ("B", tables[1], tables[0])):
        unshared = sorted(table.keys() - other.keys())
        faults = sorted(case for case, row in table.items() if failed(row))
        lines += [f"only in {name}: {', '.join(unshared)}"] if unshared else []
        lines += [f"not evaluated in {name}: {', '.join(faults)}"] if faults else []
    return "\n".join(lines)


def _metric_line(metric: str, rows: Sequence[Sequence[CaseRow]], cases: Sequence[str]) -> str:
    """Compare one metric of the same cases. Both means are over the cases where both values are defined."""
    a, b = ({case: float(row.get(metric, math.nan)) for case, row in zip(cases, ours, strict=True)} for ours in rows)
    result = compare(a, b)
    defined = [case for case in cases if case not in result.excluded]
    means = [
        format_number(float(np.mean([values[case] for case in defined])) if defined else math.nan) for values in (a, b)
    ]
    difference, interval, p = format_difference(result.mean_difference, result.low, result.high, result.p)
    return f"{metric:<12}{means[0]:>9}{means[1]:>9}{difference:>10}   {interval:<20}{p:>8}{result.n:>5}"


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


def _read_rows_by_case(path: Path) -> dict[str, CaseRow]:
    rows = read_case_table(path)
    table = {row["case"]: row for row in rows}
    if len(table) < len(rows):
        raise InputError(path, "some case has several rows", "give the table that one evaluation wrote")
    return table
