"""The report of a study as one page, report.html; its cases can be seen in the reports of its runs, which it links."""

import math
from collections.abc import Mapping
from pathlib import Path

from engine.report.html.page import PAGE, Page, Picture, write_page
from engine.report.html.tables import Cell, Table, number_cell, relative_link
from engine.report.lost import count_lost, is_missed
from engine.report.tables import CaseRow, failed
from engine.stages import STAGES
from engine.study.report import (
    VariantResults,
    default_variant,
    explain_tables,
    format_cells,
    gather_results,
    head_cells,
    mean_dice_by_centre,
    mean_of_defined,
    mean_per_case,
    read_evaluations,
    summarise_variant,
)
from engine.study.runs import Run, Study


def write_study_page(studies: Mapping[str, Study], against: str | None = None) -> Path:
    """Write report.html into the folder of a study, with all stages that have results.

    Args:
        studies: The study of each stage by the name of the stage.
        against: The variant that the others are compared with, in the stages that have it; None for the baseline, or
            the first if there is none.

    Returns:
        The file.

    Raises:
        InputError: If a table of results is damaged.
        OSError: If the file cannot be written.
    """
    tables: list[Table] = []
    pictures: list[Picture] = []
    folder = next(iter(studies.values())).folder
    for study in studies.values():
        if all(failed(row) for rows in read_evaluations(study).values() for row in rows):
            continue  # nothing of this stage has been evaluated yet
        tables += _stage_tables(study, against)
        title = study.stage.title
        pictures.append(Picture(folder / f"{study.stage.name}.png", f"{title}: Dice of the variants, and differences"))
    lead = [
        "Variants of the method, compared on centres that were held out of training.",
        "The cases of each run are in its own report. The tables of runs link to it while the folders stay together.",
    ]
    page = Page(f"Study {folder.absolute().name}", lead, tables, pictures=pictures)
    write_page(folder / PAGE, page)
    return folder / PAGE


def _stage_tables(study: Study, against: str | None) -> list[Table]:
    """Return the tables of one stage: its variants, their centres, its runs and its cases."""
    results, title = gather_results(study), study.stage.title.capitalize()
    against = against if against in results else default_variant(results)
    rows = [format_cells(summarise_variant(results, variant, against)) for variant in results]
    variants = Table(
        f"{title}: variants",
        head_cells(against),
        [[Cell(text) for text in row] for row in rows],
        below=explain_tables(study, results, against),
    )
    dice = {variant: mean_dice_by_centre(found) for variant, found in results.items()}
    centres = sorted({centre for means in dice.values() for centre in means})
    by_centre = Table(
        f"{title}: mean Dice by the centre that was held out",
        ["variant", *centres],
        [[Cell(v), *(number_cell(means.get(centre, math.nan)) for centre in centres)] for v, means in dice.items()],
    )
    return [variants, by_centre, _runs_table(study, f"{title}: runs"), _cases_table(results, f"{title}: cases")]


def _runs_table(study: Study, title: str) -> Table:
    """Return the table of the runs with results; each leads to its own report, if there is one."""
    lines = []
    for run, rows in read_evaluations(study).items():
        done = [row for row in rows if not failed(row)]
        dice = mean_of_defined(float(row["dice"]) for row in done)
        missed, lost, faults = sum(map(is_missed, done)), count_lost(done), len(rows) - len(done)
        counts = [
            Cell(str(len(rows)), len(rows)),
            number_cell(dice),
            Cell(str(missed), missed),
            Cell(lost.describe(), lost.lost),
            Cell(str(faults), faults),
        ]
        report = _find_report(study, run)
        link = Cell("report", href=relative_link(report, study.folder)) if report else Cell("-")
        lines.append([Cell(run.variant), Cell(str(run.seed), run.seed), Cell(run.centre), *counts, link])
    head = ["variant", "seed", "held out", "cases", "mean Dice", "missed", "lost", "failed", "report"]
    return Table(title, head, lines, note="Click a heading to sort the table.", is_sortable=True)


def _find_report(study: Study, run: Run) -> Path | None:
    """Return the report of a run; None for a condensed study, or if an earlier version evaluated the run."""
    folder = None if study.is_condensed else study.find_evaluation(run)
    return folder / PAGE if folder and (folder / PAGE).exists() else None


def _cases_table(results: Mapping[str, VariantResults], title: str) -> Table:
    """Return the table of the cases, the worst by the mean Dice of all variants first, those without a Dice last."""
    dice = {variant: mean_per_case(found.rows, "dice") for variant, found in results.items()}
    rows: dict[str, CaseRow] = {case: row for found in results.values() for (_, case), row in found.rows.items()}
    mean = {case: mean_of_defined(values.get(case, math.nan) for values in dice.values()) for case in rows}
    lines = [
        [
            Cell(case),
            number_cell(float(rows[case]["reference_ml"]), ".2f"),
            number_cell(mean[case]),
            *(number_cell(values.get(case, math.nan)) for values in dice.values()),
            Cell(_name_lost(results, case)),
        ]
        for case in sorted(rows, key=lambda case: (math.isnan(mean[case]), mean[case], case))
    ]
    note = "Dice of each variant, mean over its seeds. The worst cases come first; click a heading to sort the table."
    head = ["case", "reference ml", "mean of variants", *dice, "lost in"]
    return Table(title, head, lines, note=note, is_sortable=True)


def _name_lost(results: Mapping[str, VariantResults], case: str) -> str:
    """Name for each variant the stages that lost the case with any of its seeds; "-" if none did."""
    parts = []
    for variant, found in results.items():
        lost = count_lost([table[case] for table in found.tables.values() if case in table])
        stages = [STAGES[name].title for name in lost.stages] + (["not recorded"] if lost.unknown else [])
        parts += [f"{variant}: {', '.join(stages)}"] if stages else []
    return "; ".join(parts) or "-"
