"""Two runs side by side, case by case, over the cases that both have."""

import math
from pathlib import Path

import numpy as np

from data.common.errors import InputError
from engine.report.tables import CaseRow, failed, read_case_table
from engine.statistics import compare
from engine.study.report import missed, number

METRICS = ("dice", "nsd_2mm", "hd95_mm", "recall", "precision")
STUDY_DEPTH = 5  # of a run below a study: variant, seed, stage, centre, time


def compare_runs(first: Path, second: Path, roi: str | None = None) -> str:
    """The comparison as text. Each is a run folder, an evaluation folder or a ``cases.csv``.

    Raises InputError where there is nothing to compare, or several evaluations that both runs have.
    """
    paths = find_tables(first, second, roi)
    tables = [rows_by_case(path) for path in paths]
    rows = [{case: row for case, row in table.items() if not failed(row)} for table in tables]
    shared = sorted(rows[0].keys() & rows[1].keys())
    if not shared:
        raise InputError(f"{paths[0]} and {paths[1]}: no case in common; give two runs of the same held-out centre")
    lines = [f"{name}: {path}" for name, path in zip("AB", paths, strict=True)]
    head = f"{'metric':<12}{'A':>9}{'B':>9}{'A - B':>10}   {'95 % interval':<20}{'p':>8}{'n':>5}"
    lines += [f"{len(shared)} cases in both", "", head]
    lines += [metric_line(metric, *({case: r[case] for case in shared} for r in rows)) for metric in METRICS]
    wanted = [case for case in shared if rows[0][case]["reference_ml"] > 0]
    lost = [
        f"{sum(missed(r[case]) for case in wanted)} of {len(wanted)} in {name}"
        for name, r in zip("AB", rows, strict=True)
    ]
    lines += ["", f"missed, no voxel found: {lost[0]}, {lost[1]}"]
    for name, table, other in (("A", *tables), ("B", *reversed(tables))):
        alone = sorted(table.keys() - other.keys())
        faults = sorted(case for case, row in table.items() if failed(row))
        lines += [f"only in {name}: {', '.join(alone)}"] if alone else []
        lines += [f"not evaluated in {name}: {', '.join(faults)}"] if faults else []
    return "\n".join(lines)


def metric_line(metric: str, ours: dict[str, CaseRow], theirs: dict[str, CaseRow]) -> str:
    """One metric over the same cases; both means are over those where both are defined, as the difference is."""
    a, b = ({case: float(row.get(metric, math.nan)) for case, row in rows.items()} for rows in (ours, theirs))
    result = compare(a, b)
    defined = [case for case in a if case not in result.excluded]
    means = [number(float(np.mean([values[case] for case in defined])) if defined else math.nan) for values in (a, b)]
    interval = f"{number(result.low, '+.3f')} to {number(result.high, '+.3f')}"
    p = "< 0.001" if result.p < 0.001 else number(result.p)
    difference = number(result.mean_difference, "+.3f")
    return f"{metric:<12}{means[0]:>9}{means[1]:>9}{difference:>10}   {interval:<20}{p:>8}{result.n:>5}"


def find_tables(first: Path, second: Path, roi: str | None) -> tuple[Path, Path]:
    """The two tables of cases; of run folders, the evaluation that both have."""
    ours, theirs = candidates(first, roi), candidates(second, roi)
    if len(ours) == len(theirs) == 1 and all(
        (path / "cases.csv").exists() or path.is_file() for path in (first, second)
    ):
        return *ours.values(), *theirs.values()
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        have = f"{first} has {', '.join(sorted(ours))}, {second} has {', '.join(sorted(theirs))}"
        raise InputError(f"{have}: no evaluation of the same kind; evaluate both alike, or give two cases.csv")
    if len(shared) > 1:
        raise InputError(f"{first}, {second}: both have {', '.join(shared)}; give one of these folders of each")
    return ours[shared[0]], theirs[shared[0]]


def candidates(path: Path, roi: str | None) -> dict[str, Path]:
    """The tables of cases that ``path`` stands for, by the name of their evaluation. Raises InputError for none."""
    if path.is_file():
        return {path.parent.name: path}
    if (path / "cases.csv").exists():
        return {path.name: path / "cases.csv"}
    found = {table.parent.name: table for table in sorted(path.glob("evaluation*/cases.csv"))}
    if roi:
        found = {name: table for name, table in found.items() if roi in name.split("_")}
    if not found:
        if runs := runs_below(path):
            raise InputError(f"{path}: a folder of runs; give one of them, such as {runs[-1]}")
        which = f" in the {roi} pancreas" if roi else ""
        raise InputError(f"{path}: no evaluation{which} (evaluation*/cases.csv); run the stage's evaluation script")
    return found


def runs_below(folder: Path) -> list[Path]:
    """The evaluated runs in a folder above them: of a split, of a stage, of a variant or of a study."""
    for depth in range(1, STUDY_DEPTH + 1):
        if runs := sorted({table.parents[1] for table in folder.glob("*/" * depth + "evaluation*/cases.csv")}):
            return runs
    return []


def rows_by_case(path: Path) -> dict[str, CaseRow]:
    """The rows of a table by case. Raises InputError where a case stands in it twice."""
    rows = read_case_table(path)
    table = {row["case"]: row for row in rows}
    if len(table) < len(rows):
        raise InputError(f"{path}: a case stands in it twice; give the table as an evaluation wrote it")
    return table
