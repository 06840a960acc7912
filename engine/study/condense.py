"""Condense many runs into two tables, small enough to be published and complete enough to repeat the statistics.

runs.csv    one row per run and evaluation: settings, versions, chosen epoch and threshold, mean figures
cases.csv   the per-case tables of all evaluations, one below the other

The report of a study reads these tables in place of the folders of its runs.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from data.common.errors import InputError
from data.common.records import read_yaml
from engine.report.tables import CaseRow, read_case_table, read_summary, write_case_table
from engine.stages import STAGES
from engine.study.runs import CASES_TABLE, RECORD, RUNS_TABLE, Run, Study, read_studies, write_study

Section = dict[str, Any]


class Source(NamedTuple):
    """A run that goes into the tables.

    Attributes:
        variant: Variant of the method; outside of a study, the part of the run's path that is not stage, split or time.
        folder: The run folder.
        evaluation: The folder of one of its evaluations; None if it has none.
        steps: Number of optimisation steps; None if unknown.
    """

    variant: str
    folder: Path
    evaluation: Path | None
    steps: int | None


def condense(folder: Path, out: Path) -> str:
    """Write the tables of all runs in a folder.

    Of a study, those runs and evaluations are taken that its report counts, and ``study.yaml`` is copied. Of any other
    folder, such as ``checkpoints``, all runs in it are taken with all their evaluations.

    Args:
        folder: Of a study, or any folder above run folders.
        out: Folder for the tables; older ones in it are replaced.

    Returns:
        One line that says what was written.

    Raises:
        InputError: If there is no run, a run's record is incomplete, or ``out`` holds runs.
    """
    if out.resolve() == folder.resolve() or ((out / RECORD).exists() and not (out / CASES_TABLE).exists()):
        raise InputError(out, "holds runs, which the tables would hide from the report", "give another folder")
    studies = read_studies(folder)
    if any(study.is_condensed for study in studies.values()):
        raise InputError(folder, "is condensed already", "give the folder that has the runs")
    if studies:
        sources = [source for study in studies.values() for source in _list_runs_of_study(study)]
    else:
        sources = list(_list_runs_below(folder))
    if not sources:
        raise InputError(folder, "no evaluated run of a study and no other run in it", "give a folder that has runs")
    rows, cases = [], []
    for source in sources:
        sections = _describe_run(folder, source)
        rows.append(sections)
        if source.evaluation is not None:
            cases += [{**sections[0], **row} for row in read_case_table(source.evaluation / CASES_TABLE)]
    # The columns of a section stay together, also those that only some runs have.
    columns = [dict.fromkeys(name for section in column for name in section) for column in zip(*rows, strict=True)]
    write_case_table(
        out / RUNS_TABLE,
        [
            {name: section.get(name) for names, section in zip(columns, sections, strict=True) for name in names}
            for sections in rows
        ],
    )
    (out / RECORD).unlink(missing_ok=True)
    for study in studies.values():
        write_study(replace(study, folder=out))
    write_case_table(out / CASES_TABLE, cases)
    return f"{out}: {len(rows)} rows in {RUNS_TABLE}, {len(cases)} in {CASES_TABLE}"


def read_condensed(study: Study) -> dict[Run, list[CaseRow]]:
    """Read the per-case rows of a condensed study.

    Returns:
        The rows of each run that has any, in the order of ``study.runs``.

    Raises:
        InputError: If the table is damaged.
    """
    path = study.folder / CASES_TABLE
    found: dict[Run, list[CaseRow]] = {}
    for row in read_case_table(path):
        try:
            variant, seed, stage, centre, _, _ = row["run"].split("/")
            run = Run(variant, int(seed.removeprefix("seed_")), centre)
        except (KeyError, ValueError, AttributeError) as error:
            problem = f"the row of {row['case']} does not name the evaluation that it is from"
            raise InputError(path, problem, "condense the study again") from error
        if stage == study.stage.name:
            found.setdefault(run, []).append(row)
    return {run: found[run] for run in study.runs if run in found}


def _list_runs_of_study(study: Study) -> Iterator[Source]:
    for run in study.runs:
        evaluation = study.find_evaluation(run)
        if evaluation is not None:
            yield Source(run.variant, evaluation.parent, evaluation, study.steps[run.centre])


def _list_runs_below(folder: Path) -> Iterator[Source]:
    for losses in sorted(folder.rglob("losses.csv")):
        run = losses.parent
        parts = run.relative_to(folder).parts[:-2]  # without the split and the time
        variant = "/".join(part for part in parts if part not in STAGES and not part.startswith("seed_"))
        evaluations: list[Path | None] = [table.parent for table in sorted(run.glob(f"evaluation*/{CASES_TABLE}"))]
        for evaluation in evaluations or [None]:
            yield Source(variant, run, evaluation, None)


def _describe_run(folder: Path, source: Source) -> tuple[Section, ...]:
    """Return the sections of a run's row: identity, settings, evaluation, course of the training, figures.

    Raises:
        InputError: If a file of the run's record is missing or damaged.
    """
    run, evaluation = source.folder, source.evaluation
    path = run / "settings.yaml"
    try:
        settings = read_yaml(path)
        identity = {
            "stage": settings.pop("stage"),
            "variant": source.variant,
            "seed": settings["training"].pop("seed"),
            "held_out": settings.pop("split"),
            "run": (evaluation or run).relative_to(folder).as_posix(),
        }
        made_with, figures = {}, {}
        if evaluation is not None:
            path = evaluation / "settings.yaml"
            made_with = read_yaml(path)
            del made_with["run"]
            path = evaluation / "summary.json"
            summary = read_summary(path)
            figures = {f"count.{name}": count for name, count in summary["counts"].items()}
            figures |= {f"mean.{name}": values["mean"] for name, values in summary["metrics"].items()}
            tumour_free = summary.get("tumour_free", {})  # of a tumour stage, since it is reported
            figures |= {f"tumour_free.{name}": n for name, n in tumour_free.items() if name != "centres"}
        path = run / "losses.csv"
        with path.open(newline="") as file:
            epochs = list(csv.DictReader(file))
        validated = [name for name in epochs[-1] if name.startswith("validation_dice")]
        dice = [float(epoch[name]) for epoch in epochs for name in validated if epoch[name]]
        course = {
            "best_validation_dice": max(dice, default=None),
            "training_seconds": round(sum(float(epoch["seconds"]) for epoch in epochs), 1),
            **{f"last_epoch.{name}": epochs[-1][name] for name in epochs[-1] if name not in ("lr", "seconds")},
        }
    except (OSError, ValueError, csv.Error, KeyError, TypeError, AttributeError, IndexError) as error:
        problem = f"missing, or not the record of a run ({' '.join(str(error).split())})"
        raise InputError(path, problem, "leave this run out") from error
    return identity, {"steps": source.steps, **_flatten(settings)}, _flatten(made_with, "evaluation."), course, figures


def _flatten(record: Mapping[str, Any], prefix: str = "") -> Section:
    """Flatten nested settings: names are joined by dots, the numbers of a list by commas as on the command line."""
    flat: Section = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = ",".join(map(str, value)) if isinstance(value, list) else value
    return flat
