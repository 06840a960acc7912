"""Compare two runs case by case, over the cases that both have."""

from collections.abc import Mapping
from pathlib import Path

from data.common.errors import InputError
from engine.report.side_by_side import describe_pair, evaluated_by_both, rows_by_case
from engine.report.tables import read_case_table
from engine.study.runs import CASES_TABLE

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
    ours, theirs = (rows_by_case(read_case_table(path), path) for path in paths)
    if not evaluated_by_both(ours, theirs):
        problem = f"has no evaluated case in common with {paths[1]}"
        raise InputError(paths[0], problem, "give two runs of the same held-out centre")
    lines = [f"{name}: {path}" for name, path in zip("AB", paths, strict=True)]
    return "\n".join([*lines, *describe_pair(("A", "B"), ours, theirs)])


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
