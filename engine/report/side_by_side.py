"""Several methods on the same cases: one report with paired statistics, one table and one picture.

    side_by_side.txt   means of both methods, their difference with its interval and its p, metric by metric
    side_by_side.csv   a row per case with the figures of all methods
    side_by_side.png   a line per case from one method to the next

Only cases that both methods have evaluated are compared, and for each metric those in which it is defined for both.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.common.errors import InputError
from data.common.files import replacing
from engine.report.drawing import drawing
from engine.report.lost import LOST_DICE, has_target, is_lost, is_missed
from engine.report.plots import draw_side_by_side
from engine.report.tables import (
    CaseRow,
    failed,
    format_interval,
    format_number,
    summarise_tumour_free,
    write_case_table,
)
from engine.statistics import NO_INTERVAL, Comparison, compare

METRICS = ("dice", "nsd_2mm", "hd95_mm", "recall", "precision")
DRAWN = ("dice", "nsd_2mm", "hd95_mm", "volume_error_ml")
LISTED = (*METRICS, "prediction_ml", "volume_error_ml", "error")  # for each method in the table
EXPLANATION = (
    "Means and differences are over the cases in which the metric is defined for both. Intervals are bootstrap",
    "intervals over cases, p is that of the two-sided Wilcoxon signed-rank test, not corrected for the number of",
    "metrics. What varies between trainings of a method is not included.",
    NO_INTERVAL,
)

Table = Mapping[str, CaseRow]  # the rows of a method by the name of the case


def rows_by_case(rows: Sequence[CaseRow], path: Path) -> dict[str, CaseRow]:
    """Return the rows of a table by the name of the case.

    Args:
        rows: The rows.
        path: The file that they were read from, for the error.

    Raises:
        InputError: If a case has several rows.
    """
    table = {row["case"]: row for row in rows}
    if len(table) < len(rows):
        raise InputError(path, "some case has several rows", "give the table that one evaluation wrote")
    return table


def evaluated_by_both(ours: Table, theirs: Table) -> list[str]:
    """Return the cases that both methods have evaluated."""
    return sorted(case for case in ours.keys() & theirs.keys() if not failed(ours[case]) and not failed(theirs[case]))


def compare_metric(metric: str, ours: Table, theirs: Table) -> Comparison:
    """Compare one metric of two methods over the cases that both have evaluated."""
    cases = evaluated_by_both(ours, theirs)
    a, b = ({case: float(table[case].get(metric, math.nan)) for case in cases} for table in (ours, theirs))
    return compare(a, b)


def describe_pair(names: tuple[str, str], ours: Table, theirs: Table, *, intervals: bool = True) -> list[str]:
    """Compare two methods in words: a table of metrics, missed and lost cases, and cases that only one of them has.

    Args:
        names: What the methods are called.
        ours: Rows of the first method.
        theirs: Rows of the second one; at least one case was evaluated by both.
        intervals: Whether to give intervals and p over the cases.

    Returns:
        The lines.
    """
    tables, shared = (ours, theirs), evaluated_by_both(ours, theirs)
    widths = [max(9, len(name) + 2) for name in names]
    sign = " - ".join(names)
    span = max(10, len(sign) + 2)
    heads = "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    lines = [
        f"{len(shared)} cases in both",
        "",
        f"{'metric':<12}{heads}{sign:>{span}}"
        + (f"   {'95 % interval':<20}{'p':>8}" if intervals else "")
        + f"{'n':>5}",
    ]
    for metric in METRICS:
        result = compare_metric(metric, ours, theirs)
        defined = [case for case in shared if case not in result.excluded]
        means = [
            format_number(float(np.mean([table[case][metric] for case in defined])) if defined else math.nan)
            for table in tables
        ]
        figures = "".join(f"{mean:>{width}}" for mean, width in zip(means, widths, strict=True))
        difference, interval, p = format_difference(result.mean_difference, result.low, result.high, result.p)
        spread = f"   {interval:<20}{p:>8}" if intervals else ""
        lines.append(f"{metric:<12}{figures}{difference:>{span}}{spread}{result.n:>5}")
    wanted = [case for case in shared if has_target(ours[case])]
    for what, judge in (("missed, no voxel found", is_missed), (f"lost, Dice below {LOST_DICE:g}", is_lost)):
        counts = [sum(judge(table[case]) for case in wanted) for table in tables]
        said = (f"{count} of {len(wanted)} in {name}" for count, name in zip(counts, names, strict=True))
        lines += [*([""] if judge is is_missed else []), f"{what}: {', '.join(said)}"]
    for name, table, other in ((names[0], ours, theirs), (names[1], theirs, ours)):
        unshared = sorted(table.keys() - other.keys())
        faults = sorted(case for case, row in table.items() if failed(row))
        lines += [f"only in {name}: {', '.join(unshared)}"] if unshared else []
        lines += [f"not evaluated in {name}: {', '.join(faults)}"] if faults else []
    return lines


def write_side_by_side(folder: Path, methods: Mapping[str, Sequence[CaseRow]], *, title: str, lesions: bool) -> None:
    """Write and print the report of several methods, and write their table and their picture.

    The first method is compared with each of the others.

    Args:
        folder: Gets side_by_side.txt, .csv and .png.
        methods: The rows of every method by its name; all have the same cases.
        title: What was segmented, and in which cases.
        lesions: Whether to report cases without a tumour, which makes no sense for the pancreas.
    """
    tables = {name: {row["case"]: row for row in rows} for name, rows in methods.items()}
    tumour_free = [f"  {name}: {describe_tumour_free(rows)}" for name, rows in methods.items()]
    without = ["without tumour, over all evaluated cases:", *tumour_free, ""] if lesions else []
    text = "\n".join([title, "=" * len(title), *describe_pairs(tables), "", *without, *EXPLANATION]) + "\n"
    with replacing(folder / "side_by_side.txt") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    write_case_table(folder / "side_by_side.csv", list_cases(tables))
    picture = folder / "side_by_side.png"
    with drawing(picture) as outcome:
        draw_side_by_side(picture, tables, {metric: describe_differences(metric, tables) for metric in DRAWN}, title)
    print(f"\n{text}\ntable: {folder / 'side_by_side.csv'}\nfigure: {outcome.fault or picture}")


def describe_pairs(tables: Mapping[str, Table]) -> list[str]:
    """Compare the first method with each of the others in words; returns the lines."""
    (first, ours), *others = tables.items()
    lines: list[str] = []
    for name, theirs in others:
        pair = [f"no case was evaluated by both {first} and {name}"]
        if evaluated_by_both(ours, theirs):
            pair = describe_pair((first, name), ours, theirs)
        lines += ["", *pair] if lines else pair
    return lines


def describe_differences(metric: str, tables: Mapping[str, Table]) -> list[str]:
    """Say by how much the first method differs from each of the others in one metric; a line each."""
    (first, ours), *others = tables.items()
    lines = []
    for name, theirs in others:
        result = compare_metric(metric, ours, theirs)
        difference, interval, p = format_difference(result.mean_difference, result.low, result.high, result.p)
        spread = "" if interval == "-" else f" ({interval})"
        lines.append(f"{first} - {name}: {difference}{spread}, p {p}, n {result.n}")
    return lines


def describe_tumour_free(rows: Sequence[CaseRow]) -> str:
    """Say what a method found in the cases that have no tumour."""
    found = summarise_tumour_free(rows)
    return found.describe() if found.cases else "no such case"


def list_cases(tables: Mapping[str, Table]) -> list[CaseRow]:
    """Return a row per case: its reference volume, and the columns ``LISTED`` of every method as in ``dice_nnunet``."""
    cases = sorted({case for table in tables.values() for case in table})
    listed = []
    for case in cases:
        rows = {name: table.get(case, {}) for name, table in tables.items()}
        given = [{key: row[key] for key in ("centre", "reference_ml") if key in row} for row in rows.values()]
        columns = {f"{column}_{name}": row.get(column, "") for column in LISTED for name, row in rows.items()}
        listed.append({"case": case, "centre": "", "reference_ml": ""} | max(given, key=len) | columns)
    return listed


def format_difference(difference: float, low: float, high: float, p: float) -> tuple[str, str, str]:
    """Format a mean difference, its interval and its p for a table; what is NaN is a dash."""
    interval = format_interval(low, high, "+.3f")
    return format_number(difference, "+.3f"), interval, "< 0.001" if p < 0.001 else format_number(p)
