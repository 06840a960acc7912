"""The study: how it counts, what its tables say, the comparison of two runs."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from data.common.errors import InputError
from engine.report.plots import draw_study
from engine.report.tables import write_case_table
from engine.stages import STAGES, VARIANTS
from engine.study import command as study
from engine.study.report import Results, collect, missed, notes, pair, per_case, variant_row, write_report
from engine.study.runs import Run, read_studies
from tests.study_parts import case, fake_run, options, parse_tables

NAN = math.nan


def results(*triples: tuple[int, str, float]) -> Results:
    rows = {(seed, name): case(name, dice) for seed, name, dice in triples}
    return Results(rows=rows, runs=sorted({(seed, name.split("/")[0]) for seed, name, _ in triples}))


def test_a_case_counts_once_however_many_seeds_it_has():
    ours = results((1, "e/a", 0.6), (2, "e/a", 0.8), (1, "e/b", 0.5), (2, "e/b", 0.7))
    theirs = results((1, "e/a", 0.5), (2, "e/a", 0.5), (1, "e/b", 0.6), (2, "e/b", 0.8))
    comparison, seeds = pair(ours, theirs)
    assert (comparison.n, seeds) == (2, [1, 2])  # not 4
    assert comparison.mean_difference == pytest.approx(((0.7 - 0.5) + (0.6 - 0.7)) / 2)
    assert comparison.low == pytest.approx(-0.1) and comparison.high == pytest.approx(0.2)


def test_only_seeds_and_centres_that_both_have_are_compared():
    ours = results((1, "e/a", 0.9), (2, "e/a", 0.1), (1, "w/a", 0.7), (2, "n/a", 0.3))
    theirs = results((1, "e/a", 0.6), (3, "e/a", 0.0), (1, "w/a", 0.6), (1, "n/a", 0.3))
    comparison, seeds = pair(ours, theirs)
    assert (comparison.n, seeds) == (2, [1])
    assert comparison.mean_difference == pytest.approx(((0.9 - 0.6) + (0.7 - 0.6)) / 2)


def test_a_mean_over_seeds_takes_the_defined_ones_and_says_how_many():
    rows = {(1, "e/a"): case("e/a", 0.5, hd95=4.0), (2, "e/a"): case("e/a", 0.0, hd95=NAN)}
    rows |= {(1, "e/b"): case("e/b", 0.0, hd95=NAN), (2, "e/b"): case("e/b", 0.4, hd95=8.0)}
    rows |= {(seed, "e/none"): case("e/none", NAN, NAN, reference_ml=0.0) for seed in (1, 2)}
    values = per_case(rows, "hd95_mm")
    assert (values["e/a"], values["e/b"]) == (4.0, 8.0) and math.isnan(values["e/none"])
    row = variant_row({"full": Results(rows, [(1, "e"), (2, "e")])}, "full", "full")
    assert (row["hd95_mm"], row["hd95_defined"], row["evaluations"], row["cases"]) == (6.0, 2, 4, 2)
    assert row["dice"] == pytest.approx((0.25 + 0.2) / 2)  # the case without a tumour has no Dice
    assert (row["missed"], row["missed_share"]) == (2, 0.5)


@pytest.mark.parametrize(
    ("row", "is_missed"),
    [
        (case("e/a", 0.0, found_ml=0.0), True),
        (case("e/a", 0.0, found_ml=3.0), True),  # something was found, elsewhere
        (case("e/a", 0.01), False),
        (case("e/a", NAN, reference_ml=0.0, found_ml=3.0), False),
        (case("e/a", NAN, reference_ml=0.0, found_ml=0.0), False),
    ],
)
def test_missed_is_no_overlapping_voxel_where_there_was_something_to_find(row, is_missed):
    assert missed(row) is is_missed


@pytest.fixture
def finished(study_store, tmp_path, fake_scripts) -> Path:
    """A study with made-up results: full is better than baseline by 0.1 on every case, and misses one."""
    fake_scripts()
    assert (
        study.main(options(study_store, tmp_path, "--variants", "baseline", "--centres", "west", "--seeds", "1")) == 0
    )
    shutil.rmtree(tmp_path / "baseline")
    record = yaml.safe_load((tmp_path / "study.yaml").read_text())
    entry = record["tumor_coarse"]
    entry["variants"]["full"], entry["readouts"]["full"] = entry["variants"]["baseline"], "segmentation"
    entry["seeds"], entry["steps"] = [1, 2], {"west": 8, "east": 6}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
    for seed, centre in ((1, "west"), (1, "east"), (2, "west")):
        values = [0.5, 0.6, 0.7] if centre == "west" else [0.2, 0.3]
        for variant, gain in (("baseline", 0.0), ("full", 0.1)):
            rows = [case(f"{centre}/case{i}", value + gain) for i, value in enumerate(values)]
            if variant == "full" and centre == "east":
                rows.append(case("east/lost", 0.0, NAN, found_ml=0.0))
                rows.append({"case": "east/broken", "centre": "east", "error": "cannot be read"})
            fake_run(tmp_path, Run(variant, seed, centre), rows)
    return tmp_path


def test_the_markdown_table_holds_the_numbers(finished, capsys):
    assert study.main(["report", str(finished)]) == 0
    text = (finished / "tumor_coarse_table.md").read_text()
    assert text in capsys.readouterr().out
    first, second = parse_tables(text)
    assert first[0][8] == "Dice - baseline"
    baseline, full = first[1:]
    assert baseline[:8] == ["baseline", "3", "2", "5", "0.460", "0.460", "5.0 (8 of 8)", "0 % (0 of 8)"]
    assert full[:8] == ["full", "3", "2", "6", "0.467", "0.467", "5.0 (8 of 9)", "11 % (1 of 9)"]
    assert full[8:10] == ["+0.100", "+0.100 to +0.100"] and full[11] == "5"
    assert second == [["variant", "east", "west"], ["baseline", "0.250", "0.600"], ["full", "0.233", "0.700"]]
    for words in (
        "seeds 1, 2",
        "steps by held-out centre: west 8, east 6",
        "epochs 2",
        "width 8",
        "6 cases",
        "2022"[:2],
    ):
        assert words in text
    assert "reference mask of pancreas fine" in text and "python -m engine.study run" in text
    assert "Not evaluated, left out: full, seed 1, east held out: east/broken" in text


def test_tumour_fine_looked_around_what_its_own_variant_found(finished):
    (made,) = read_studies(finished).values()
    fine = replace(made, stage=STAGES["tumor_fine"])
    words = "Stage tumor fine, around the same variant's tumor coarse, in the reference pancreas; steps"
    assert any(words in note for note in notes(fine, collect(made), "baseline"))


def test_the_csv_holds_the_same_and_against_turns_it_round(finished):
    (made,) = read_studies(finished).values()
    write_report(made, "full")
    lines = {line.split(",")[0]: line for line in (finished / "tumor_coarse_table.csv").read_text().splitlines()}
    header, baseline = lines["variant"].split(","), lines["baseline"].split(",")
    row = dict(zip(header, baseline, strict=True))
    assert float(row["difference"]) == pytest.approx(-0.1) and row["against"] == "full" and row["n"] == "5"
    assert float(row["dice_east"]) == pytest.approx(0.25)
    with pytest.raises(InputError, match="--against sdf: has no finished run; choose one of baseline, full"):
        write_report(made, "sdf")


def test_without_a_finished_run_the_report_says_what_to_do(finished, tmp_path, capsys):
    for variant in ("baseline", "full"):
        shutil.rmtree(finished / variant)
    assert study.main(["report", str(finished)]) == 2
    assert "no finished run of tumor coarse; go on with python -m engine.study run" in capsys.readouterr().err
    assert study.main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no study.yaml" in capsys.readouterr().err


def test_a_run_with_a_failed_case_is_not_finished_but_reported(finished):
    (made,) = read_studies(finished).values()
    assert not made.finished(Run("full", 1, "east")) and made.finished(Run("full", 1, "west"))
    assert len(collect(made)["full"].faults) == 1


@pytest.mark.parametrize("number", [1, 7])
def test_the_figure_of_few_and_many_variants(tmp_path, number):
    rng = np.random.default_rng(0)
    variants = sorted(VARIANTS, key=lambda name: name != "baseline")[:number]
    dice = {v: [(f"centre{i % 3}", float(value)) for i, value in enumerate(rng.uniform(size=12))] for v in variants}
    differences = {v: (0.1, -0.1, 0.2) for v in variants[1:]} | ({variants[-1]: (0.1, NAN, NAN)} if number > 1 else {})
    draw_study(tmp_path / "figure.png", dice, differences, variants[0], "title")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.size[0] > 1200 and np.asarray(picture.convert("L")).std() > 5


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


def test_compare_takes_the_evaluation_that_both_runs_have(tmp_path, capsys):
    rows = [case("west/a", 0.5), case("west/b", 0.6)]
    first = fake_run(tmp_path / "1", Run("full", 1, "west"), rows, "evaluation_predicted")
    second = fake_run(tmp_path / "2", Run("full", 1, "west"), rows, "evaluation_reference")
    arguments = ["compare", str(first), str(second)]
    assert study.main(arguments) == 2
    assert "no evaluation of the same kind" in capsys.readouterr().err
    shutil.copytree(first / "evaluation_predicted", second / "evaluation_predicted")
    assert study.main(arguments) == 0
    assert f"B: {second / 'evaluation_predicted' / 'cases.csv'}" in capsys.readouterr().out
    shutil.copytree(second / "evaluation_reference", first / "evaluation_reference")
    assert study.main(arguments) == 2
    message = capsys.readouterr().err
    assert "both have evaluation_predicted, evaluation_reference" in message and message.count("\n") == 1
    assert study.main([*arguments, "--roi", "reference"]) == 0
    assert study.main(["compare", str(first / "evaluation_reference"), str(second)]) == 0
    (tmp_path / "empty").mkdir()
    assert study.main(["compare", str(tmp_path / "empty"), str(second)]) == 2
    assert "run the stage's evaluation script" in capsys.readouterr().err


@pytest.mark.parametrize("above", range(5))
def test_compare_of_a_folder_above_the_runs_names_one(tmp_path, capsys, above):
    run = fake_run(tmp_path, Run("full", 1, "west"), [case("west/a", 0.5)], "evaluation")
    assert study.main(["compare", str(run.parents[above]), str(run)]) == 2
    assert f"{run.parents[above]}: a folder of runs; give one of them, such as {run}\n" in capsys.readouterr().err


def test_compare_of_other_cases_is_refused(tmp_path, capsys):
    write_case_table(tmp_path / "a.csv", [case("east/a", 0.5)])
    write_case_table(tmp_path / "b.csv", [case("west/a", 0.5)])
    write_case_table(tmp_path / "c.csv", [case("west/a", 0.5), case("west/a", 0.6)])
    assert study.main(["compare", str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]) == 2
    assert "no case in common" in capsys.readouterr().err
    assert study.main(["compare", str(tmp_path / "b.csv"), str(tmp_path / "c.csv")]) == 2
    assert "c.csv: a case stands in it twice" in capsys.readouterr().err
