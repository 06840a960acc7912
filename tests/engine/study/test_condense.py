"""Condensing a study: two tables from which the report makes the same as from the runs."""

import csv
import shutil
from pathlib import Path

import pytest

from data.common.errors import InputError
from engine.report.tables import read_case_table
from engine.study import command as study
from engine.study.condense import condense, read_condensed
from engine.study.runs import Run, read_studies
from tests.study_parts import case, fake_run, options


@pytest.fixture
def finished(study_store, tmp_path, fake_scripts) -> Path:
    """A study of two variants and two seeds, of which one run has a case that could not be evaluated."""
    folder = tmp_path / "study"
    fake_scripts()
    more = ["--variants", "baseline", "full", "--centres", "west", "east", "--seeds", "1", "2"]
    assert study.main(options(study_store, folder, *more)) == 0
    shutil.rmtree(folder / "full" / "seed_2")
    rows = [case("west/case0", 0.1 + 0.2), {"case": "west/case1", "centre": "west", "error": "cannot be read, at all"}]
    fake_run(folder, Run("full", 2, "west"), rows)
    return folder


def read_runs(folder: Path) -> list[dict[str, str]]:
    with (folder / "runs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_report_of_the_tables_is_that_of_the_runs(finished, tmp_path):
    out = tmp_path / "condensed"
    assert study.main(["condense", str(finished), str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["cases.csv", "runs.csv", "study.yaml"]
    for folder in (finished, out):
        assert study.main(["report", str(folder), "--against", "full"]) == 0
    for name in ("tumor_coarse_table.md", "tumor_coarse_table.csv", "tumor_coarse.png"):
        assert (finished / name).read_bytes() == (out / name).read_bytes()


def test_a_row_per_run_holds_its_settings_and_its_mean_figures(finished, tmp_path):
    condense(finished, tmp_path)
    rows = read_runs(tmp_path)
    assert [(row["variant"], row["seed"], row["held_out"]) for row in rows] == [
        *(("baseline", seed, centre) for seed in "12" for centre in ("west", "east")),
        *(("full", "1", centre) for centre in ("west", "east")),
        ("full", "2", "west"),
    ]
    expected = {
        "stage": "tumor_coarse",
        "run": "full/seed_2/tumor_coarse/west/2026_01_01_00_00_00/evaluation_reference",
        "steps": "4",
        "device": "cpu",
        "network.width": "8",
        "method.weights.sdf": "1",
        "method.views": "randconv",
        "sampling.hu_window": "-100.0,240.0",
        "training.epochs": "2",
        "evaluation.epoch": "1",
        "evaluation.threshold": "0.45",
        "best_validation_dice": "0.25",
        "training_seconds": "3.0",
        "last_epoch.loss": "0.8",
        "count.cases": "2",
        "count.failed": "1",
        "mean.dice": repr(0.1 + 0.2),
    }
    assert {name: rows[-1][name] for name in expected} == expected


def test_the_cases_keep_every_digit_and_the_failed_ones(finished, tmp_path):
    condense(finished, tmp_path)
    lost, found = (
        {(row["variant"], row["seed"], row["case"]): row for row in read_case_table(tmp_path / "cases.csv")}[
            "full", 2.0, f"west/case{number}"
        ]
        for number in (1, 0)
    )
    assert found["dice"] == 0.1 + 0.2 and found["held_out"] == found["centre"] == "west"
    assert lost["error"] == "cannot be read, at all" and "dice" not in lost
    (made,) = read_studies(tmp_path).values()
    assert len(read_condensed(made)) == 7 and made.commands == next(iter(read_studies(finished).values())).commands


def test_of_a_folder_without_a_study_every_run_and_evaluation_has_a_row(tmp_path):
    rows = [case("west/a", 0.5)]
    first = fake_run(tmp_path / "runs" / "wide", Run("full", 1, "west"), rows)
    shutil.copytree(first / "evaluation_reference", first / "evaluation_predicted")
    bare = fake_run(tmp_path / "runs", Run("baseline", 2, "none"), rows)
    shutil.rmtree(bare / "evaluation_reference")
    line = condense(tmp_path / "runs", tmp_path / "out")
    assert line == f"{tmp_path / 'out'}: 3 rows in runs.csv, 2 in cases.csv"
    found = [
        (row["variant"], row["seed"], Path(row["run"]).name, row["mean.dice"]) for row in read_runs(tmp_path / "out")
    ]
    assert found == [
        ("baseline", "2", "2026_01_01_00_00_00", ""),
        ("wide/full", "1", "evaluation_predicted", "0.5"),
        ("wide/full", "1", "evaluation_reference", "0.5"),
    ]


def test_tables_that_would_hide_runs_or_hold_nothing_are_refused(finished, study_store, tmp_path):
    out, other = tmp_path / "condensed", tmp_path / "other"
    condense(finished, out)
    condense(finished, out)  # made again
    shutil.copytree(finished, other)
    (tmp_path / "empty").mkdir()
    for folder, target, path, problem in (
        (finished, finished, finished, "holds runs"),
        (finished, other, other, "holds runs"),
        (out, tmp_path / "again", out, "condensed already"),
        (tmp_path / "empty", out, tmp_path / "empty", "no evaluated run"),
    ):
        with pytest.raises(InputError) as error:
            condense(folder, target)
        assert error.value.path == path and problem in error.value.problem
    with pytest.raises(InputError) as error:
        study.run_study(study.parse(options(study_store, out)))
    assert (error.value.path, error.value.problem) == (out, "holds the tables of a condensed study")


def test_a_damaged_record_is_named(finished, tmp_path):
    damaged = next((finished / "full" / "seed_1").glob("*/west/*/losses.csv"))
    damaged.write_text("epoch,loss\n")
    with pytest.raises(InputError) as error:
        condense(finished, tmp_path / "out")
    assert error.value.path == damaged and not (tmp_path / "out").exists()


def test_a_table_whose_rows_name_no_run_is_refused(finished, tmp_path):
    condense(finished, tmp_path)
    table = tmp_path / "cases.csv"
    table.write_text(table.read_text().replace("baseline/seed_1/", ""))
    (made,) = read_studies(tmp_path).values()
    with pytest.raises(InputError) as error:
        read_condensed(made)
    assert error.value.path == table and "west/case0 does not name the evaluation" in error.value.problem
