"""Tables of an evaluation: one CSV row a case, a summary to read and a summary for programs.

A row is a dict: ``case`` (its name), any other text (``centre``), the numbers of ``engine.metrics.COLUMNS`` and
whatever else was measured (``seconds``, ``threshold``). A case that could not be evaluated has a row with its ``error``
and without metrics; it is counted, and takes no part in any mean.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from data.common.errors import InputError
from data.common.files import replacing
from engine.metrics import AGREEMENT, LESIONS, OUTCOMES, VOLUMES, outcome
from engine.statistics import Summary, summarise

CaseRow = dict[str, Any]

TEXT = ("case", "patient", "centre", "stage", "error")
SUMMARISED = (*AGREEMENT, *VOLUMES, "seconds")


class Picked(NamedTuple):
    """Three different cases by Dice; None where there are too few cases to tell them apart."""

    best: CaseRow | None
    median: CaseRow | None
    worst: CaseRow | None


def write_case_table(path: Path, rows: Sequence[CaseRow]) -> None:
    """Write one CSV row a case, atomically; the columns are those of all rows in the order of their appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_case_table(path: Path) -> list[CaseRow]:
    """Read what ``write_case_table`` wrote: the ``TEXT`` columns and columns with words as str, all others as float.

    Keys that a row did not have come back absent. Raises InputError where the file is no such table.
    """
    remedy = "give the per-case table that an evaluation wrote"
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file, strict=True, restkey="", restval=None))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV table ({error}); {remedy}") from error
    if not table or any("case" not in row or "" in row or None in row.values() for row in table):
        raise InputError(f"{path}: no table of cases (no rows, no column 'case', or uneven rows); {remedy}")
    words = {key for row in table for key, value in row.items() if key in TEXT or not _is_number(value)}
    return [{key: value if key in words else float(value) for key, value in row.items() if value} for row in table]


def failed(row: CaseRow) -> bool:
    """Whether the case could not be evaluated."""
    return bool(row.get("error"))


def summaries(rows: Sequence[CaseRow], seed: int = 0) -> dict[str, Summary]:
    """The summary of every metric that any evaluated case has."""
    done = [row for row in rows if not failed(row)]
    measured = [name for name in SUMMARISED if any(name in row for row in done)]
    return {name: summarise((float(row.get(name, math.nan)) for row in done), seed) for name in measured}


def counts(rows: Sequence[CaseRow]) -> dict[str, int]:
    """How many cases there are, how many had each outcome, how many failed; lesion counts over all evaluated cases."""
    done = [row for row in rows if not failed(row)]
    outcomes = Counter(outcome(row) for row in done)
    lesions = {name: int(sum(row[name] for row in done)) for name in LESIONS}
    return {
        "cases": len(rows),
        **{name: outcomes[name] for name in OUTCOMES},
        "failed": len(rows) - len(done),
    } | lesions


def summary_table(rows: Sequence[CaseRow], title: str, lesions: bool = True) -> str:
    """A table to read: mean +- sd, bootstrap 95 % interval and n of every metric, then every case that stands apart.

    ``lesions``: count them too, which a pancreas has none of.
    """
    lines = [title, "=" * len(title), f"{'metric':<16}{'mean':>9}    {'sd':<9}{'95 % interval':<21}{'n':>4}  left out"]
    lines += [_summary_line(name, summary) for name, summary in summaries(rows).items()]
    count = counts(rows)
    wanted, detected, spurious = (count[name] for name in LESIONS)
    share = f" ({100 * detected / wanted:.0f} %)" if wanted else ""
    lines += ["", f"cases            {count['cases']}: {count['segmented']} segmented" + _exceptions(count)]
    if lesions:
        lines.append(f"lesions          {detected} of {wanted} detected{share}, {spurious} false positive components")
    for name in ("missed", "false_positive", "correctly_empty"):
        lines += _named(name, [row for row in rows if not failed(row) and outcome(row) == name])
    lines += [f"failed           {row['case']}: {row['error']}" for row in rows if failed(row)]
    return "\n".join(lines) + "\n"


def write_summary(path: Path, rows: Sequence[CaseRow]) -> None:
    """Write the same as JSON (``counts`` and ``metrics``) or CSV (one line a metric), by the suffix, atomically."""
    path = Path(path)
    metrics = {name: asdict(summary) for name, summary in summaries(rows).items()}
    if path.suffix == ".json":
        content = {"counts": counts(rows), "metrics": {name: _without_nan(m) for name, m in metrics.items()}}
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=1, allow_nan=False))
    elif path.suffix == ".csv":
        lines = [{"metric": name, **values} for name, values in metrics.items()]
        lines += [{"metric": name, "n": number} for name, number in counts(rows).items()]
        write_case_table(path, lines)
    else:
        raise ValueError(f"{path}: a summary is written as .json or .csv")


def pick_cases(rows: Sequence[CaseRow]) -> Picked:
    """The best, median and worst case by Dice, for pictures; never the same case twice.

    Cases whose Dice is undefined (NaN, failed) take no part; ties go by name. Three and more cases: all
    three; two: best and worst; one: best; none: nothing. Of an even number the lower middle is the median.
    """
    scored = [row for row in rows if not failed(row) and not math.isnan(row["dice"])]
    scored.sort(key=lambda row: (row["dice"], row["case"]))
    return Picked(
        best=scored[-1] if scored else None,
        median=scored[(len(scored) - 1) // 2] if len(scored) > 2 else None,
        worst=scored[0] if len(scored) > 1 else None,
    )


def _summary_line(name: str, s: Summary) -> str:
    mean, sd, low, high = (f"{value:.3f}" if not math.isnan(value) else "-" for value in (s.mean, s.sd, s.low, s.high))
    interval = f"{low} to {high}"
    return f"{name:<16}{mean:>9} +- {sd:<9}{interval:<21}{s.n:>4}{s.excluded or '':>10}".rstrip()


def _exceptions(count: dict[str, int]) -> str:
    names = (*OUTCOMES[1:], "failed")
    return "".join(f", {count[name]} {name.replace('_', ' ')}" for name in names if count[name])


def _named(name: str, rows: Sequence[CaseRow]) -> list[str]:
    """One line a case that is no plain segmentation, with the volume that was missed or made up."""
    volume = {"missed": "reference_ml", "false_positive": "prediction_ml"}.get(name)
    detail = [f" ({row[volume]:.2f} ml)" if volume else "" for row in rows]
    return [f"{name.replace('_', ' '):<17}{row['case']}{text}" for row, text in zip(rows, detail, strict=True)]


def _is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


def _without_nan(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: what is undefined becomes null."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values.items()}
