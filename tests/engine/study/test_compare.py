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
def test_a_folder_above_one_run_is_an_arm_of_one_training(tmp_path, capsys, above):
    run = fake_run(tmp_path, Run("full", 1, "west"), [case("west/a", 0.5)], "evaluation")
    assert study.main(["compare", str(run.parents[above]), str(run)]) == 0
    out = capsys.readouterr().out
    assert "1 pairs of trainings (west seeds 1)" in out and "No interval" in out


def make_arm(folder, variant, seeds, shift):
    """Trainings with two splits of four cases; the values of a seed differ by its own amount."""
    for seed in seeds:
        for split in ("east", "west"):
            rows = [case(f"{split}/{i}", 0.4 + 0.1 * i + 0.01 * seed + shift) for i in range(4)]
            fake_run(folder, Run(variant, seed, split), rows)


def rows_of(out):
    return {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}


def test_two_variants_are_compared_over_their_trainings(tmp_path, capsys):
    make_arm(tmp_path, "full", (1, 2, 3), 0.05)
    make_arm(tmp_path, "baseline", (1, 2, 3, 4), 0.0)
    assert study.main(["compare", str(tmp_path / "full"), str(tmp_path / "baseline")]) == 0
    out = capsys.readouterr().out
    assert "6 pairs of trainings (east seeds 1 2 3; west seeds 1 2 3)" in out
    # All six pairs and all cases have the same difference: two of 64 sign patterns are as extreme.
    assert rows_of(out)["dice"] == ["dice", "0.620", "0.570", "+0.050", "+0.050", "to", "+0.050", "0.031", "6"]
    assert "without a partner: tumor_coarse east seed 4 in B, tumor_coarse west seed 4 in B" in out
    assert "No interval" not in out


def test_fewer_than_three_trainings_have_no_interval_and_no_p(tmp_path, capsys):
    make_arm(tmp_path, "full", (1, 2), 0.05)
    make_arm(tmp_path, "baseline", (1, 2), 0.0)
    assert study.main(["compare", str(tmp_path / "full"), str(tmp_path / "baseline")]) == 0
    out = capsys.readouterr().out
    assert rows_of(out)["dice"][3:] == ["+0.050", "-", "-", "4"] and "fewer than 3 pairs" in out


def test_single_runs_have_no_interval(tmp_path, capsys):
    for variant, dice in (("full", 0.5), ("baseline", 0.25)):
        fake_run(tmp_path, Run(variant, 1, "west"), [case(f"west/{i}", dice) for i in range(3)])
    runs = [str(next((tmp_path / v).glob("*/*/*/*"))) for v in ("full", "baseline")]
    assert study.main(["compare", *runs]) == 0
    out = capsys.readouterr().out
    assert rows_of(out)["dice"] == ["dice", "0.500", "0.250", "+0.250", "3"]
    assert "95 % interval" not in out and "No interval" in out


def test_values_that_one_arm_lacks_count_in_neither(tmp_path, capsys):
    for seed in (1, 2, 3):
        fake_run(tmp_path, Run("full", seed, "west"), [case("west/a", 0.5, NAN), case("west/b", 0.7, 4.0)])
        fake_run(tmp_path, Run("baseline", seed, "west"), [case("west/a", 0.5, 9.0), case("west/b", 0.6, 6.0)])
    assert study.main(["compare", str(tmp_path / "full"), str(tmp_path / "baseline")]) == 0
    assert rows_of(capsys.readouterr().out)["hd95_mm"][1:4] == ["4.000", "6.000", "-2.000"]


def test_the_folder_of_a_whole_study_is_no_arm(tmp_path, capsys):
    for variant in ("full", "baseline"):
        make_arm(tmp_path, variant, (1,), 0.0)
    assert study.main(["compare", str(tmp_path), str(tmp_path / "full")]) == 2
    assert "Give the folder of one variant" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    fake_run(tmp_path / "other", Run("full", 7, "west"), [case("west/a", 0.5)])
    assert study.main(["compare", str(tmp_path / "full"), str(tmp_path / "other")]) == 2
    assert "no evaluated training of the same stage, split and seed" in capsys.readouterr().err


def test_compare_of_other_cases_is_refused(tmp_path, capsys):
    write_case_table(tmp_path / "a.csv", [case("east/a", 0.5)])
    write_case_table(tmp_path / "b.csv", [case("west/a", 0.5)])
    write_case_table(tmp_path / "c.csv", [case("west/a", 0.5), case("west/a", 0.6)])
    assert study.main(["compare", str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]) == 2
    assert "no evaluated case in common" in capsys.readouterr().err
    assert study.main(["compare", str(tmp_path / "b.csv"), str(tmp_path / "c.csv")]) == 2
    assert "c.csv: some case has several rows" in capsys.readouterr().err
