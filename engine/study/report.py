"""The report of a study: for each stage a Markdown table to paste into a document, the same as CSV, and a figure.

An evaluation is one case segmented by one run. A case counts once: its value is the mean over the seeds by which it was
evaluated, so that more seeds do not pass for more patients. Two variants are compared over pairs of trainings that
differ in the variant only, with intervals over trainings (engine.study.compare).
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.common.errors import InputError
from data.common.files import replacing
from engine.report.drawing import drawing
from engine.report.lost import LOST_DICE, LostCases, count_lost, has_target, is_missed
from engine.report.plots import draw_study
from engine.report.side_by_side import format_difference
from engine.report.tables import CaseRow, failed, format_number, read_case_table, write_case_table
from engine.stages import STAGES
from engine.statistics import FEWEST_TRAININGS
from engine.study.compare import ArmDifference, Training, compare_trainings, shared_rows
from engine.study.condense import read_condensed
from engine.study.runs import CASES_TABLE, Run, Study

METRICS = ("dice", "nsd_2mm", "hd95_mm")


@dataclass
class VariantResults:
    """The evaluations of one variant.

    Attributes:
        tables: The rows of the evaluated cases of each training that has results.
        faults: A line for each case that could not be evaluated.
    """

    tables: dict[Training, dict[str, CaseRow]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def rows(self) -> dict[tuple[int, str], CaseRow]:
        """The row of each evaluated case, by (seed, case)."""
        return {(training.seed, case): row for training, rows in self.tables.items() for case, row in rows.items()}

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs, ascending."""
        return sorted({training.seed for training in self.tables})

    @property
    def cases(self) -> set[str]:
        """The cases that any run has evaluated."""
        return {case for table in self.tables.values() for case in table}


def gather_results(study: Study) -> dict[str, VariantResults]:
    """Gather the evaluations of every variant that has any, from the runs or from the tables of a condensed study.

    Raises:
        InputError: If there are none, or a table is damaged.
    """
    results: dict[str, VariantResults] = {}
    for run, rows in read_evaluations(study).items():
        found = results.setdefault(run.variant, VariantResults())
        table = found.tables.setdefault(Training(study.stage.name, run.centre, run.seed), {})
        for row in rows:
            if failed(row):
                found.faults.append(f"{run}: {row['case']}")
            else:
                table[row["case"]] = row
    if not any(found.cases for found in results.values()):
        raise InputError(
            study.folder,
            f"no run of {study.stage.title} is finished",
            "continue the study",
            command=study.commands[-1],
        )
    return results


def read_evaluations(study: Study) -> dict[Run, list[CaseRow]]:
    """Read the rows of every evaluated run, in the order of ``study.runs``."""
    if study.is_condensed:
        return read_condensed(study)
    folders = {run: study.find_evaluation(run) for run in study.runs}
    return {run: read_case_table(folder / CASES_TABLE) for run, folder in folders.items() if folder is not None}


def mean_per_case(rows: Mapping[tuple[int, str], CaseRow], metric: str) -> dict[str, float]:
    """Return for each case the mean of a metric over the seeds for which it is defined; NaN if there are none.

    Args:
        rows: By (seed, case).
        metric: Name of the column.
    """
    values: dict[str, list[float]] = {}
    for (_, case), row in rows.items():
        values.setdefault(case, []).append(float(row.get(metric, math.nan)))
    return {case: mean_of_defined(numbers) for case, numbers in values.items()}


def mean_of_defined(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none. The caller reports how many there were."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def compare_variants(ours: VariantResults, theirs: VariantResults) -> ArmDifference | None:
    """Compare the Dice of two variants over pairs of trainings; None if they have none in common."""
    pairs = {
        training: shared_rows(ours.tables[training], theirs.tables[training])
        for training in sorted(ours.tables.keys() & theirs.tables.keys())
    }
    pairs = {training: tables for training, tables in pairs.items() if tables[0]}
    return compare_trainings("dice", pairs) if pairs else None


def summarise_variant(results: Mapping[str, VariantResults], variant: str, against: str) -> dict[str, Any]:
    """Return the row of a variant in the tables: counts, means, and the difference to the variant ``against``."""
    found = results[variant]
    with_target = [row for row in found.rows.values() if has_target(row)]
    missed = sum(map(is_missed, with_target))
    lost_cases = count_lost(with_target)
    row = {
        "variant": variant,
        "runs": len(found.tables),
        "seeds": len(found.seeds),
        "cases": len({row["case"] for row in with_target}),
        **{metric: mean_of_defined(mean_per_case(found.rows, metric).values()) for metric in METRICS},
        "evaluations": len(with_target),
        "hd95_defined": sum(not math.isnan(row["hd95_mm"]) for row in with_target),
        "missed": missed,
        "missed_share": missed / len(with_target) if with_target else math.nan,
        "lost": lost_cases.lost,
        **{f"lost_in_{stage}": lost_cases.stages.get(stage, 0) for stage in STAGES},
    }
    if variant != against:
        row["against"] = against
        if compared := compare_variants(found, results[against]):
            _, difference, low, high, p, pairs = compared
            row |= {"difference": difference, "low": low, "high": high, "p": p, "pairs": pairs}
    return row


def mean_dice_by_centre(found: VariantResults) -> dict[str, float]:
    """Return the mean Dice over the cases of each centre of a variant."""
    by_centre: dict[str, dict[tuple[int, str], CaseRow]] = {}
    for key, row in found.rows.items():
        by_centre.setdefault(row["centre"], {})[key] = row
    return {centre: mean_of_defined(mean_per_case(rows, "dice").values()) for centre, rows in by_centre.items()}


def write_report(study: Study, against: str | None = None) -> str:
    """Write ``<stage>_table.md``, ``<stage>_table.csv`` and ``<stage>.png`` into the folder of a study.

    Args:
        study: Of one stage.
        against: The variant that the others are compared with; None for the baseline, or the first if there is none.

    Returns:
        The Markdown tables, and where the files are.

    Raises:
        InputError: If there are no results, or none of the variant ``against``.
    """
    results = gather_results(study)
    if against is None:
        against = default_variant(results)
    if against not in results:
        raise InputError(f"--against {against}", "has no finished run", f"choose one of {', '.join(results)}")
    rows = [summarise_variant(results, variant, against) for variant in results]
    dice = {variant: mean_dice_by_centre(found) for variant, found in results.items()}
    centres = sorted({centre for means in dice.values() for centre in means})
    centre_rows = [
        [v, *(format_number(means.get(centre, math.nan)) for centre in centres)] for v, means in dice.items()
    ]
    parts = [
        f"### {study.stage.title.capitalize()}, held-out centres",
        format_markdown_table(head_cells(against), [format_cells(row) for row in rows]),
        "Mean Dice by the centre that was held out:",
        format_markdown_table(["variant", *centres], centre_rows),
        "\n".join(explain_tables(study, results, against)),
    ]
    text = "\n\n".join(parts) + "\n"

    stem = study.folder / study.stage.name
    table, numbers, picture = (Path(f"{stem}{end}") for end in ("_table.md", "_table.csv", ".png"))
    with replacing(table) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    columns = {v: {f"dice_{centre}": means.get(centre, "") for centre in centres} for v, means in dice.items()}
    write_case_table(numbers, [row | columns[row["variant"]] for row in rows])
    points = {variant: _dice_points(found) for variant, found in results.items()}
    differences = {r["variant"]: (r["difference"], r["low"], r["high"]) for r in rows if "difference" in r}
    with drawing(picture) as outcome:
        draw_study(picture, points, differences, against, f"{study.stage.title}: centres that were held out")
    return f"\n{text}\ntable: {table}, {numbers}\nfigure: {outcome.fault or picture}"


def _dice_points(found: VariantResults) -> list[tuple[str, float]]:
    """Return (centre, Dice) of every case that has a Dice."""
    centre = {case: row["centre"] for (_, case), row in found.rows.items()}
    return [(centre[case], dice) for case, dice in mean_per_case(found.rows, "dice").items() if not math.isnan(dice)]


def default_variant(results: Mapping[str, VariantResults]) -> str:
    """Return the variant that the others are compared with unless one is named: the baseline, or else the first."""
    return "baseline" if "baseline" in results else next(iter(results))


def head_cells(against: str) -> list[str]:
    """Return the headings of ``format_cells``."""
    head = ["variant", "runs", "seeds", "cases", "Dice", "NSD 2 mm", "HD95 mm", "missed", "lost"]
    return [*head, f"Dice - {against}", "95 % interval", "p", "pairs"]


def format_cells(row: Mapping[str, Any]) -> list[str]:
    """Format the row of a variant for the first table."""
    defined = f" ({row['hd95_defined']} of {row['evaluations']})"
    missed = (
        f"{100 * row['missed_share']:.0f} % ({row['missed']} of {row['evaluations']})" if row["evaluations"] else "-"
    )
    cells = [str(row[name]) for name in ("variant", "runs", "seeds", "cases")]
    cells += [format_number(row["dice"]), format_number(row["nsd_2mm"])]
    lost_in = {stage: row[f"lost_in_{stage}"] for stage in STAGES if row[f"lost_in_{stage}"]}
    lost = LostCases(row["evaluations"], row["lost"], lost_in).describe() if row["evaluations"] else "-"
    cells += [format_number(row["hd95_mm"], ".1f") + defined, missed, lost]
    if "difference" not in row:
        return [*cells, "", "", "", ""]
    return [*cells, *format_difference(row["difference"], row["low"], row["high"], row["p"]), str(row["pairs"])]


def explain_tables(study: Study, results: Mapping[str, VariantResults], against: str) -> list[str]:
    """Return the lines below the tables: how the study was made, and how to read the numbers."""
    seeds = sorted({seed for found in results.values() for seed in found.seeds})
    cases = {case for found in results.values() for case in found.cases}
    with_target = {row["case"] for found in results.values() for row in found.rows.values() if has_target(row)}
    shared = {**study.recipe["training"], **study.recipe["network"]}
    settings = ", ".join(
        f"{name.replace('_', '-')} {value if isinstance(value, str) else format(value, 'g')}"
        for name, value in shared.items()
    )
    steps = ", ".join(f"{centre} {count}" for centre, count in study.steps.items())
    averaged = [name for name in results if study.readouts[name] == "average"]
    replaced = [stage.title for stage in STAGES.values() if stage.segments_pancreas and stage.name != study.stage.name]
    lines = [
        f"Stage {study.stage.title}{describe_region(study)}. Optimisation steps by held-out centre: {steps}. "
        f"Seeds: {', '.join(map(str, seeds))}. Cases: {len(cases)}, of which {len(with_target)} contain the target; "
        f"only these have a Dice. Settings: {settings}.",
        "The value of a case is its mean over the seeds; means are taken over the cases. HD95 is undefined where the "
        "prediction is empty (in brackets: evaluations in which it is defined). A target is missed if no predicted "
        "voxel lies in it (in brackets: of all evaluations). An evaluation is lost if its Dice is below "
        f"{LOST_DICE:g}, in the first stage that did not show the next one where to look."
        + (f" As it looks in the reference pancreas, none is lost in {' or '.join(replaced)}." if study.roi else ""),
        f"The difference to {against} is the mean over the held-out centres, from pairs of trainings (last column) "
        "with the same seed and the cases that both have evaluated. Its interval draws trainings and cases anew, p is "
        "that of the two-sided sign-flip test over pairs of trainings, not corrected for the number of variants. "
        f"Neither is given for fewer than {FEWEST_TRAININGS} pairs in a centre, which cannot tell by how much "
        "trainings of one variant differ.",
    ]
    short = [f"{name} {len(found.seeds)}" for name, found in results.items() if len(found.seeds) < len(seeds)]
    lines += [f"Variants with fewer than {len(seeds)} seeds so far: {', '.join(short)}."] if short else []
    lines += [f"Read out as the mean of both tasks: {', '.join(averaged)}."] if averaged else []
    faults = [fault for found in results.values() for fault in found.faults]
    lines += [f"Left out because they could not be evaluated: {'; '.join(faults)}."] if faults else []
    return [*lines, f"{time.strftime('%Y-%m-%d')}, `{'`, `'.join(study.commands)}`"]


def describe_region(study: Study) -> str:
    """Say in which region the stage was evaluated; empty for the first stage, which reads the whole scan."""
    if not study.stage.predecessor:
        return ""
    before = STAGES[study.stage.predecessor]
    if before.segments_pancreas:
        return f", in the reference mask of {before.title}"
    return f", around the prediction of {before.title} of the same variant, in the reference pancreas"


def format_markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table with aligned columns, so that it can be read as plain text, too."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    table = [head, ["-" * width for width in widths], *rows]
    return "\n".join(f"| {' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True))} |" for row in table)
