"""Tables of an evaluation: a CSV table with one row per case, a summary to read and a summary for programs.

A row is a dictionary with the name of the ``case``, any other text (such as ``centre``), the numbers of
``engine.metrics.COLUMNS`` and whatever else was measured (such as ``seconds`` and ``threshold``). A case that could not
be evaluated has a row with its ``error`` and without metrics: it is counted, but it does not enter any mean.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data.common.errors import InputError
from data.common.files import replacing
from data.common.records import read_json, to_json
from engine.metrics import AGREEMENT, COLUMNS, LESIONS, OUTCOMES, VOLUMES, outcome
from engine.report.lost import LOST_DICE, count_lost, is_lost
from engine.stages import MIN_TUMOUR_ML, STAGES
from engine.statistics import NO_INTERVAL, Summary, summarise

CaseRow = dict[str, Any]

TEXT_COLUMNS = ("case", "patient", "centre", "stage", "lost_in", "unreliable", "note", "error")
NEEDED = ("dice", "reference_ml", "prediction_ml", *LESIONS)  # of every case that was evaluated
SHARES = ("dice", "recall", "precision")  # within 0 and 1, or NaN
SUMMARISED = (*AGREEMENT, *VOLUMES, "seconds")


class PickedCases(NamedTuple):
    """Three different cases by their Dice; None where there are too few cases.

    Attributes:
        best: The row of the case with the highest Dice.
        median: The row of the case in the middle.
        worst: The row of the case with the lowest Dice.
    """

    best: CaseRow | None
    median: CaseRow | None
    worst: CaseRow | None


@dataclass(frozen=True)
class TumourFree:
    """What was found in the cases whose reference holds no tumour.

    Attributes:
        cases: Number of such cases.
        found_nothing: Those in which less than ``MIN_TUMOUR_ML`` was found.
        specificity: Share of those; NaN if there are no cases.
        false_positive_ml_mean: Mean volume in ml that was found in a case; NaN if there are no cases.
        false_positive_ml_max: The largest one.
    """

    cases: int
    found_nothing: int
    specificity: float
    false_positive_ml_mean: float
    false_positive_ml_max: float

    def describe(self) -> str:
        """Return the figures as a line to read."""
        return (
            f"nothing found in {self.found_nothing} of {self.cases}, specificity {self.specificity:.3f}; "
            f"false positive volume {self.false_positive_ml_mean:.2f} ml, at most {self.false_positive_ml_max:.2f} ml"
        )


def write_case_table(path: Path, rows: Sequence[CaseRow], columns: Sequence[str] = ()) -> None:
    """Write a CSV table with one row per case, atomically.

    Args:
        path: The file.
        rows: The rows.
        columns: The first columns, also if there are no rows. The others are the keys of all rows, in the order in
            which they first appear.
    """
    columns = list(dict.fromkeys((*columns, *(key for row in rows for key in row))))
    # Paths of scans may hold bytes that are not UTF-8.
    with (
        replacing(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_case_table(path: Path) -> list[CaseRow]:
    """Read what ``write_case_table`` wrote.

    Returns:
        The rows. Columns of ``TEXT_COLUMNS`` and all columns that hold words are strings, the others are floats. A key
        is absent where the row had none.

    Raises:
        InputError: If the file is missing or not such a table.
    """
    remedy = "give the table of cases that an evaluation wrote (cases.csv)"
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            table: list[dict[str, Any]] = list(csv.DictReader(file, strict=True, restkey="", restval=None))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, f"not a readable CSV table ({error})", remedy) from error
    if not table or any("case" not in row or "" in row or None in row.values() for row in table):
        problem = "not a table of cases (it has no rows, no column 'case', or rows of different lengths)"
        raise InputError(path, problem, remedy)
    _check_numbers(path, table, remedy)
    words = {key for row in table for key, value in row.items() if key in TEXT_COLUMNS or not _is_number(value)}
    return [{key: value if key in words else float(value) for key, value in row.items() if value} for row in table]


def _check_numbers(path: Path, table: Sequence[Mapping[str, str]], remedy: str) -> None:
    """Refuse a table that lacks a number on which every report depends, or has something else in its place.

    A table has no checksum: a digit that changed is not noticed.
    """
    for row in table:
        for name in COLUMNS:
            text = row.get(name, "")
            missing = not text and name in NEEDED and not row.get("error")
            if missing or not _is_number(text) or (name in SHARES and not 0 <= float(text or 0) <= 1 and text != "nan"):
                raise InputError(path, f"damaged: the case {row['case']!r} has {text!r} as its {name}", remedy)


def read_summary(path: Path) -> dict[str, Any]:
    """Read what ``write_summary`` wrote as JSON.

    Raises:
        InputError: If the file is missing or not such a summary.
    """
    try:
        summary = read_json(path)
        if not all(isinstance(n, int) for n in summary["counts"].values()) or "failed" not in summary["counts"]:
            raise ValueError("it has no counts of cases")
        for metric in summary["metrics"].values():
            if not isinstance(metric["n"], int) or not isinstance(metric["mean"], float | int | None):
                raise ValueError("it has no means of metrics")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"missing, or not the summary of an evaluation ({error})"
        raise InputError(path, problem, "delete it and evaluate again") from error
    return summary


def failed(row: Mapping[str, Any]) -> bool:
    """Return whether the case of a row could not be evaluated."""
    return bool(row.get("error"))


def summarise_metrics(rows: Sequence[CaseRow], seed: int = 0) -> dict[str, Summary]:
    """Summarise every metric that any evaluated case has; ``seed`` is that of the bootstrap."""
    evaluated = [row for row in rows if not failed(row)]
    measured = [name for name in SUMMARISED if any(name in row for row in evaluated)]
    return {name: summarise((float(row.get(name, math.nan)) for row in evaluated), seed) for name in measured}


def count_outcomes(rows: Sequence[CaseRow]) -> dict[str, int]:
    """Count the cases, those of each outcome, those that failed, and the lesions of all evaluated cases."""
    evaluated = [row for row in rows if not failed(row)]
    outcomes = Counter(outcome(row) for row in evaluated)
    return {
        "cases": len(rows),
        **{name: outcomes[name] for name in OUTCOMES},
        "failed": len(rows) - len(evaluated),
        **{name: int(sum(row[name] for row in evaluated)) for name in LESIONS},
    }


def summarise_tumour_free(rows: Sequence[CaseRow]) -> TumourFree:
    """Summarise the evaluated cases whose reference is empty."""
    found = [float(row["prediction_ml"]) for row in rows if not failed(row) and not row["reference_ml"] > 0]
    nothing = sum(volume < MIN_TUMOUR_ML for volume in found)
    if not found:
        return TumourFree(0, 0, math.nan, math.nan, math.nan)
    return TumourFree(len(found), nothing, nothing / len(found), sum(found) / len(found), max(found))


def tumour_free_by_centre(rows: Sequence[CaseRow]) -> dict[str, TumourFree]:
    """Summarise the evaluated cases whose reference is empty for each centre that has any."""
    centres = sorted({str(row.get("centre", "")) for row in rows})
    found = {name: summarise_tumour_free([r for r in rows if str(r.get("centre", "")) == name]) for name in centres}
    return {name: summary for name, summary in found.items() if summary.cases}


def summary_table(rows: Sequence[CaseRow], title: str, lesions: bool = True, remarks: Sequence[str] = ()) -> str:
    """Return a summary to read: the metrics over all cases, then every case that is not plainly segmented.

    Args:
        rows: One row per case.
        title: First line of the summary.
        lesions: Whether to report detected lesions and cases without any, which makes no sense for the pancreas.
        remarks: What a reader of the metrics should know, one sentence each; written below them.
    """
    lines = [title, "=" * len(title), f"{'metric':<16}{'mean':>9}    {'sd':<9}{'95 % interval':<21}{'n':>4}  left out"]
    metrics = summarise_metrics(rows)
    for name, s in metrics.items():
        mean, sd, interval = format_number(s.mean), format_number(s.sd), format_interval(s.low, s.high)
        lines.append(f"{name:<16}{mean:>9} +- {sd:<9}{interval:<21}{s.n:>4}{s.excluded or '':>10}".rstrip())
    remarks = [*remarks, *([NO_INTERVAL] if lacks_interval(metrics) else [])]
    lines += ["", *remarks] if remarks else []
    count = count_outcomes(rows)
    others = [f", {count[name]} {name.replace('_', ' ')}" for name in (*OUTCOMES[1:], "failed") if count[name]]
    lines += ["", f"cases            {count['cases']}: {count['segmented']} segmented{''.join(others)}"]
    lost_cases = count_lost(rows)
    if lost_cases.with_target:
        lines.append(f"lost             {lost_cases.describe()} (Dice below {LOST_DICE:g})")
    if lesions:
        present, detected, spurious = (count[name] for name in LESIONS)
        share = f" ({100 * detected / present:.0f} %)" if present else ""
        lines.append(f"lesions          {detected} of {present} detected{share}, {spurious} false positive components")
        centres = tumour_free_by_centre(rows)
        if centres:
            lines.append(f"without tumour   {summarise_tumour_free(rows).describe()}")
        if len(centres) > 1:
            lines += [f"  {name}: {summary.describe()}" for name, summary in centres.items()]
    for name, volume in (("missed", "reference_ml"), ("false_positive", "prediction_ml"), ("correctly_empty", "")):
        for row in rows:
            if not failed(row) and outcome(row) == name:
                detail = f" ({row[volume]:.2f} ml)" if volume else ""
                lines.append(f"{name.replace('_', ' '):<17}{row['case']}{detail}")
    for row in rows:
        if is_lost(row) and row.get("lost_in") in STAGES:
            stage = STAGES[row["lost_in"]].title
            lines.append(f"{f'lost in {stage}':<24} {row['case']} (Dice {row['dice']:.3f})")
    lines += [f"failed           {row['case']}: {row['error']}" for row in rows if failed(row)]
    return "\n".join(lines) + "\n"


def lacks_interval(metrics: Mapping[str, Summary]) -> bool:
    """Return whether a metric that is defined in some case has no interval, so that a reader should be told why."""
    return any(summary.n and math.isnan(summary.low) for summary in metrics.values())


def write_summary(path: Path, rows: Sequence[CaseRow], lesions: bool = True) -> None:
    """Write a summary for programs, atomically.

    Args:
        path: A .json file, with ``counts``, ``metrics``, ``lost`` and ``tumour_free`` and null for what is undefined;
            or a .csv file, with one line per metric and per count.
        rows: One row per case.
        lesions: Whether to report cases without a lesion, which makes no sense for the pancreas.

    Raises:
        ValueError: If the file name has another suffix.
    """
    path = Path(path)
    metrics = {name: asdict(summary) for name, summary in summarise_metrics(rows).items()}
    counts = count_outcomes(rows)
    if path.suffix == ".json":
        content: dict[str, Any] = {"counts": counts, "metrics": metrics, "lost": asdict(count_lost(rows))}
        if lesions:
            centres = {name: asdict(summary) for name, summary in tumour_free_by_centre(rows).items()}
            content["tumour_free"] = {**asdict(summarise_tumour_free(rows)), "centres": centres}
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(to_json(content), indent=1, allow_nan=False))
    elif path.suffix == ".csv":
        lines: list[CaseRow] = [{"metric": name, **values} for name, values in metrics.items()]
        lines += [{"metric": name, "n": number} for name, number in counts.items()]
        write_case_table(path, lines)
    else:
        raise ValueError(f"{path}: a summary is written as .json or .csv")


def pick_cases(rows: Sequence[CaseRow]) -> PickedCases:
    """Pick the best, the median and the worst case by Dice for pictures, never the same case twice.

    Cases that failed or whose Dice is undefined are not picked. Ties are broken by the name. Two cases are the best and
    the worst, a single one is the best. Of an even number of cases the median is the lower one of the middle.
    """
    scored = [row for row in rows if not failed(row) and not math.isnan(row["dice"])]
    scored.sort(key=lambda row: (row["dice"], row["case"]))
    return PickedCases(
        best=scored[-1] if scored else None,
        median=scored[(len(scored) - 1) // 2] if len(scored) > 2 else None,
        worst=scored[0] if len(scored) > 1 else None,
    )


def pick_false_positive(rows: Sequence[CaseRow]) -> CaseRow | None:
    """Pick the case without a tumour in which most was found; None if less than ``MIN_TUMOUR_ML`` was found in all."""
    found = [row for row in rows if not failed(row) and not row["reference_ml"] > 0]
    worst = max(found, key=lambda row: (row["prediction_ml"], row["case"]), default=None)
    return worst if worst is not None and worst["prediction_ml"] >= MIN_TUMOUR_ML else None


def _is_number(text: str) -> bool:
    """Return whether a cell of a table is a number or empty."""
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


def format_number(value: float, form: str = ".3f") -> str:
    """Format a number for a table; NaN becomes "-"."""
    return "-" if math.isnan(value) else format(value, form)


def format_interval(low: float, high: float, form: str = ".3f") -> str:
    """Format an interval for a table; one that is not given (NaN) becomes "-"."""
    return "-" if math.isnan(low) else f"{low:{form}} to {high:{form}}"
