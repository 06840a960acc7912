"""The comparison of two runs: which tables it chooses, and what it prints."""

import math
import shutil

import pytest

from engine.report.tables import write_case_table
from engine.study import command as study
from engine.study.runs import Run
from tests.study_parts import case, fake_run

NAN = math.nan


def test_compare_of_two_tables(tmp_path, capsys):
    ours, theirs = tmp_path / "a.csv", tmp_path / "b" / "b.csv"
    shared = ([0.6, 0.8, 0.0], [0.5, 0.9, 0.3])
    write_case_table(
        ours, [case(f"e/{i}", v, NAN if v == 0 else 4.0) for i, v in enumerate(shared[0])] + [case("e/x", 0.9)]
    )
    write_case_table(theirs, [case(f"e/{i}", v) for i, v in enumerate(shared[1])])
    assert study.main(["compare", str(ours), str(theirs)]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert lines["dice"][1:4] == ["0.467", "0.567", "-0.100"] and lines["dice"][-1] == "3"
    assert lines["hd95_mm"][1:4] == ["4.000", "5.000", "-1.000"] and lines["hd95_mm"][-1] == "2"
    assert "3 cases in both" in out and "missed, no voxel found: 1 of 3 in A, 0 of 3 in B" in out
    assert "only in A: e/x" in out and "only in B" not in out


def test_compare_uses_the_evaluation_that_both_runs_have(tmp_path, capsys):
    rows = [case("west/a", 0.5), case("west/b", 0.6)]
    first = fake_run(tmp_path / "1", Run("full", 1, "west"), rows, "evaluation_predicted")
    second = fake_run(tmp_path / "2", Run("full", 1, "west"), rows, "evaluation_reference")
    arguments = ["compare", str(first), str(second)]
    assert study.main(arguments) == 2
    assert "Evaluate both in the same way" in capsys.readouterr().err
    shutil.copytree(first / "evaluation_predicted", second / "evaluation_predicted")
    assert study.main(arguments) == 0
    assert f"B: {second / 'evaluation_predicted' / 'cases.csv'}" in capsys.readouterr().out
    shutil.copytree(second / "evaluation_reference", first / "evaluation_reference")
    assert study.main(arguments) == 2
    message = capsys.readouterr().err
    assert (
        f"shares several evaluations with {second}: evaluation_predicted, evaluation_reference" in message
        and message.count("\n") == 1
    )
    assert study.main([*arguments, "--roi", "reference"]) == 0
    assert study.main(["compare", str(first / "evaluation_reference"), str(second)]) == 0
    (tmp_path / "empty").mkdir()
    assert study.main(["compare", str(tmp_path / "empty"), str(second)]) == 2
    assert "Run the stage's evaluation script" in capsys.readouterr().err


@pytest.mark.parametrize("above", range(5))
def test_compare_of_a_folder_above_the_runs_names_one(tmp_path, capsys, above):
    run = fake_run(tmp_path, Run("full", 1, "west"), [case("west/a", 0.5)], "evaluation")
    assert study.main(["compare", str(run.parents[above]), str(run)]) == 2
    assert (
        f"{run.parents[above]}: a folder of several runs. Give one of them, such as {run}.\n" in capsys.readouterr().err
    )


def test_compare_of_other_cases_is_refused(tmp_path, capsys):
    write_case_table(tmp_path / "a.csv", [case("east/a", 0.5)])
    write_case_table(tmp_path / "b.csv", [case("west/a", 0.5)])
    write_case_table(tmp_path / "c.csv", [case("west/a", 0.5), case("west/a", 0.6)])
    assert study.main(["compare", str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]) == 2
    assert "no evaluated case in common" in capsys.readouterr().err
    assert study.main(["compare", str(tmp_path / "b.csv"), str(tmp_path / "c.csv")]) == 2
    assert "c.csv: some case has several rows" in capsys.readouterr().err
