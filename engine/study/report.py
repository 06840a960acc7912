"""What a study found: a table per stage to paste into a document, the same as CSV, and a figure.

An evaluation is one case segmented by one run. A case counts once: its value is the mean over the seeds that it was
evaluated with, so that more seeds never pass for more patients. Two variants are compared over the evaluations that
both have, by seed and case.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.common.errors import InputError
from data.common.files import replacing
from engine.evaluate.stage import is_pancreas
from engine.report.plots import draw_study
from engine.report.tables import CaseRow, failed, read_case_table, write_case_table
from engine.stages import STAGES
from engine.statistics import Comparison, compare
from engine.study.runs import Study

METRICS = ("dice", "nsd_2mm", "hd95_mm")


@dataclass
class Results:
    """The evaluations of one variant: ``rows`` by (seed, case); ``runs`` as (seed, centre)."""

    rows: dict[tuple[int, str], CaseRow] = field(default_factory=dict)
    runs: list[tuple[int, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for seed, _ in self.runs})

    @property
    def cases(self) -> set[str]:
        return {case for _, case in self.rows}


def collect(study: Study) -> dict[str, Results]:
    """The evaluations of every variant that has any. Raises InputError where there are none."""
    results: dict[str, Results] = {}
    for run in study.runs():
        found = results.setdefault(run.variant, Results())
        found.runs.append((run.seed, run.centre))
        for row in read_case_table(study.evaluation(run) / "cases.csv"):
            if failed(row):
                found.faults.append(f"{run}: {row['case']}")
            else:
                found.rows[run.seed, row["case"]] = row
    if not any(found.rows for found in results.values()):
        remedy = f"go on with python -m engine.study run {study.folder} --stage {study.stage.name}"
        raise InputError(f"{study.folder}: no finished run of {study.stage.title}; {remedy}")
    return results


def per_case(rows: Mapping[tuple[int, str], CaseRow], metric: str) -> dict[str, float]:
    """By case, the mean over the seeds whose value is defined; NaN where none is."""
    values: dict[str, list[float]] = {}
    for (_, case), row in rows.items():
        values.setdefault(case, []).append(float(row.get(metric, math.nan)))
    return {case: mean(numbers) for case, numbers in values.items()}


def mean(values: Iterable[float]) -> float:
    """Of the values that are defined; NaN where none is. Who calls it says how many were."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def with_reference(rows: Iterable[CaseRow]) -> list[CaseRow]:
    """The evaluations that have something to find."""
    return [row for row in rows if row["reference_ml"] > 0]


def missed(row: CaseRow) -> bool:
    """Whether there was something to find and not one voxel of it was found, be the prediction empty or elsewhere."""
    return row["reference_ml"] > 0 and row["dice"] == 0


def pair(ours: Results, theirs: Results, metric: str = "dice") -> tuple[Comparison, list[int]]:
    """Compare two variants case by case over the evaluations that both have; and the seeds of those."""
    shared = ours.rows.keys() & theirs.rows.keys()
    values = (per_case({key: found.rows[key] for key in shared}, metric) for found in (ours, theirs))
    return compare(*values), sorted({seed for seed, _ in shared})


def reference_variant(results: Mapping[str, Results], against: str | None) -> str:
    """The variant that the others are compared with. Raises InputError where it has no results."""
    if against is None:
        return "baseline" if "baseline" in results else next(iter(results))
    if against not in results:
        raise InputError(f"--against {against}: has no finished run; choose one of {', '.join(results)}")
    return against


def variant_row(results: Mapping[str, Results], variant: str, against: str) -> CaseRow:
    """What the tables say of one variant."""
    found = results[variant]
    wanted = with_reference(found.rows.values())
    lost = sum(map(missed, wanted))
    row = {
        "variant": variant,
        "runs": len(found.runs),
        "seeds": len(found.seeds),
        "cases": len({case for (_, case), r in found.rows.items() if r["reference_ml"] > 0}),
        **{metric: mean(per_case(found.rows, metric).values()) for metric in METRICS},
        "evaluations": len(wanted),
        "hd95_defined": sum(not math.isnan(r["hd95_mm"]) for r in wanted),
        "missed": lost,
        "missed_share": lost / len(wanted) if wanted else math.nan,
    }
    if variant != against:
        comparison, seeds = pair(found, results[against])
        difference = {"difference": comparison.mean_difference, "low": comparison.low, "high": comparison.high}
        row |= {"against": against, **difference, "p": comparison.p, "n": comparison.n, "common_seeds": len(seeds)}
    return row


def centre_means(results: Mapping[str, Results]) -> dict[str, dict[str, float]]:
    """Mean Dice by variant and held-out centre; a centre that a variant lacks is absent."""
    means: dict[str, dict[str, float]] = {}
    for variant, found in results.items():
        by_centre: dict[str, dict] = {}
        for key, row in found.rows.items():
            by_centre.setdefault(row["centre"], {})[key] = row
        means[variant] = {centre: mean(per_case(rows, "dice").values()) for centre, rows in by_centre.items()}
    return means


def write_report(study: Study, against: str | None = None) -> str:
    """Write ``<stage>_table.md``, ``<stage>_table.csv`` and ``<stage>.png``. Returns the table with where it lies."""
    results = collect(study)
    against = reference_variant(results, against)
    rows = [variant_row(results, variant, against) for variant in results]
    means = centre_means(results)
    text = markdown(study, results, rows, means, against)
    stem = study.folder / study.stage.name
    table, numbers, picture = (Path(f"{stem}{end}") for end in ("_table.md", "_table.csv", ".png"))
    with replacing(table) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    centres = sorted({centre for found in means.values() for centre in found})
    dice = {
        row["variant"]: {f"dice_{centre}": means[row["variant"]].get(centre, "") for centre in centres} for row in rows
    }
    write_case_table(numbers, [row | dice[row["variant"]] for row in rows])
    points = {variant: points_of(found) for variant, found in results.items()}
    differences = {r["variant"]: (r["difference"], r["low"], r["high"]) for r in rows if "difference" in r}
    draw_study(picture, points, differences, against, f"{study.stage.title}: centres that were held out")
    return f"\n{text}\ntable: {table}, {numbers}\nfigure: {picture}"


def points_of(found: Results) -> list[tuple[str, float]]:
    """(centre, Dice) of every case that has a Dice."""
    centre = {case: row["centre"] for (_, case), row in found.rows.items()}
    return [(centre[case], dice) for case, dice in per_case(found.rows, "dice").items() if not math.isnan(dice)]


def markdown(
    study: Study, results: Mapping[str, Results], rows: Sequence[CaseRow], means: Mapping[str, dict], against: str
) -> str:
    """Both tables and what has to be known to read them."""
    head = ["variant", "runs", "seeds", "cases", "Dice", "NSD 2 mm", "HD95 mm", "missed"]
    head += [f"Dice - {against}", "95 % interval", "p", "compared"]
    centres = sorted({centre for found in means.values() for centre in found})
    centre_rows = [[variant, *(number(means[variant].get(c, math.nan)) for c in centres)] for variant in means]
    parts = [
        f"### {study.stage.title.capitalize()}, held-out centres",
        grid(head, [cells(row) for row in rows]),
        "Mean Dice by the centre that was held out:",
        grid(["variant", *centres], centre_rows),
        "\n".join(notes(study, results, against)),
    ]
    return "\n\n".join(parts) + "\n"


def cells(row: CaseRow) -> list[str]:
    """A variant's line of the first table."""
    defined = f" ({row['hd95_defined']} of {row['evaluations']})"
    lost = f"{100 * row['missed_share']:.0f} % ({row['missed']} of {row['evaluations']})" if row["evaluations"] else "-"
    line = [str(row[name]) for name in ("variant", "runs", "seeds", "cases")]
    line += [number(row["dice"]), number(row["nsd_2mm"]), number(row["hd95_mm"], ".1f") + defined, lost]
    if "difference" not in row:
        return [*line, "", "", "", ""]
    interval = f"{number(row['low'], '+.3f')} to {number(row['high'], '+.3f')}"
    p = "< 0.001" if row["p"] < 0.001 else number(row["p"])
    return [*line, number(row["difference"], "+.3f"), interval, p, str(row["n"])]


def notes(study: Study, results: Mapping[str, Results], against: str) -> list[str]:
    """What stands under the tables."""
    seeds = sorted({seed for found in results.values() for seed in found.seeds})
    cases = {case for found in results.values() for case in found.cases}
    rows = [row for found in results.values() for row in found.rows.values()]
    wanted = {row["case"] for row in with_reference(rows)}
    settings = ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in study.settings.items())
    steps = ", ".join(f"{centre} {count}" for centre, count in study.steps.items())
    averaged = [name for name in results if study.readouts[name] == "average"]
    lines = [
        f"Stage {study.stage.title}{looked(study)}; steps by held-out centre: {steps}; "
        f"seeds {', '.join(map(str, seeds))}; {len(cases)} cases, {len(wanted)} of them with something to find, "
        f"which alone have a Dice; {settings}.",
        "A case's value is the mean over its seeds, a mean is over cases. HD95 has no value where the prediction is "
        "empty (in brackets: evaluations that have one). Missed: no voxel of the reference found, of all evaluations.",
        f"Difference to {against}: over the cases (last column) and seeds that both have; bootstrap interval of the "
        "mean, two-sided Wilcoxon signed-rank p, not corrected for the number of variants.",
    ]
    short = [f"{name} {len(found.seeds)}" for name, found in results.items() if len(found.seeds) < len(seeds)]
    lines += [f"Fewer than {len(seeds)} seeds so far: {', '.join(short)}."] if short else []
    lines += [f"Read out as the mean of both tasks: {', '.join(averaged)}."] if averaged else []
    faults = [fault for found in results.values() for fault in found.faults]
    lines += [f"Not evaluated, left out: {'; '.join(faults)}."] if faults else []
    return [*lines, f"{time.strftime('%Y-%m-%d')}, `{'`, `'.join(study.commands)}`"]


def looked(study: Study) -> str:
    """Where its evaluations looked: of the stages before, the reference stands for the pancreas alone."""
    if not study.roi:
        return ""
    before = STAGES[study.stage.predecessor]
    if is_pancreas(before):
        return f", in the reference mask of {before.title}"
    return f", around the same variant's {before.title}, in the reference pancreas"


def grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table that reads well as plain text too."""
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    table = [head, ["-" * width for width in widths], *lines]
    return "\n".join(f"| {' | '.join(c.ljust(w) for c, w in zip(line, widths, strict=True))} |" for line in table)


def number(value: float, form: str = ".3f") -> str:
    """As the tables print it."""
    return "-" if math.isnan(value) else format(value, form)
