"""The report of a study: how evaluations are counted, and what the tables and the figure show."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from data.common.errors import InputError
from engine.report.lost import is_missed
from engine.report.plots import draw_study
from engine.stages import STAGES, VARIANTS
from engine.study import command as study
from engine.study.compare import Training
from engine.study.report import (
    VariantResults,
    compare_variants,
    explain_tables,
    format_cells,
    gather_results,
    mean_per_case,
    summarise_variant,
    write_report,
)
from engine.study.runs import Run, read_studies
from tests.study_parts import case, fake_run, options, parse_tables

NAN = math.nan


def results(*triples: tuple[int, str, float]) -> VariantResults:
    """Return the results of one stage: (seed, case, Dice), where a case lies in the centre that it begins with."""
    return of_rows(*((seed, case(name, dice)) for seed, name, dice in triples))


def of_rows(*rows: tuple[int, dict]) -> VariantResults:
    found = VariantResults()
    for seed, row in rows:
        found.tables.setdefault(Training("tumor_coarse", row["centre"], seed), {})[row["case"]] = row
    return found


def test_a_difference_is_a_mean_over_the_held_out_centres():
    ours = results((1, "e/a", 0.6), (1, "e/b", 0.8), (1, "e/c", 0.4), (1, "w/a", 0.5))
    theirs = results((1, "e/a", 0.5), (1, "e/b", 0.7), (1, "e/c", 0.3), (1, "w/a", 0.9))
    compared = compare_variants(ours, theirs)
    assert compared.pairs == 2 and compared.difference == pytest.approx((0.1 - 0.4) / 2)  # not a mean over four cases


def test_only_trainings_and_cases_that_both_have_are_compared():
    ours = results((1, "e/a", 0.9), (1, "e/b", 0.9), (2, "e/a", 0.1), (1, "w/a", 0.7), (2, "n/a", 0.3))
    theirs = results((1, "e/a", 0.6), (3, "e/a", 0.0), (1, "w/a", 0.6), (1, "n/a", 0.3))
    compared = compare_variants(ours, theirs)
    assert compared.pairs == 2 and compared.difference == pytest.approx(((0.9 - 0.6) + (0.7 - 0.6)) / 2)
    assert compare_variants(results((1, "e/a", 0.9)), results((2, "e/a", 0.9))) is None


def test_an_interval_needs_three_trainings_however_many_cases_there_are():
    def arm(gain: float, seeds: int) -> VariantResults:
        values = ((seed, f"e/{i}", 0.5 + 0.01 * i + gain * seed) for seed in range(1, seeds + 1) for i in range(20))
        return results(*values)

    two, three = (compare_variants(arm(0.02, seeds), arm(0.0, seeds)) for seeds in (2, 3))
    assert two.difference == pytest.approx(0.03) and all(map(math.isnan, (two.low, two.high, two.p)))
    assert three.low == pytest.approx(0.02) and three.high == pytest.approx(0.06)  # from one training to another
    assert three.p == 0.25  # of eight patterns of signs, two are as extreme


def test_a_mean_over_seeds_takes_the_defined_ones_and_says_how_many():
    rows = {(1, "e/a"): case("e/a", 0.5, hd95=4.0), (2, "e/a"): case("e/a", 0.0, hd95=NAN)}
    rows |= {(1, "e/b"): case("e/b", 0.0, hd95=NAN), (2, "e/b"): case("e/b", 0.4, hd95=8.0)}
    rows |= {(seed, "e/none"): case("e/none", NAN, NAN, reference_ml=0.0) for seed in (1, 2)}
    values = mean_per_case(rows, "hd95_mm")
    assert (values["e/a"], values["e/b"]) == (4.0, 8.0) and math.isnan(values["e/none"])
    found = of_rows(*((seed, row) for (seed, _), row in rows.items()))
    assert found.rows == rows
    row = summarise_variant({"full": found}, "full", "full")
    assert (row["hd95_mm"], row["hd95_defined"], row["evaluations"], row["cases"]) == (6.0, 2, 4, 2)
    assert row["dice"] == pytest.approx((0.25 + 0.2) / 2)  # the case without a tumour has no Dice
    assert (row["missed"], row["missed_share"]) == (2, 0.5)


def test_the_report_counts_the_lost_evaluations_of_each_stage():
    rows = [case("west/a", 0.0) | {"lost_in": "tumor_coarse"}, case("west/b", 0.05), case("west/c", 0.9)]
    row = summarise_variant({"baseline": of_rows(*((1, row) for row in rows))}, "baseline", "baseline")
    assert (row["lost"], row["lost_in_tumor_coarse"], row["lost_in_tumor_fine"]) == (2, 1, 0)
    assert format_cells(row)[8] == "2 of 3: 1 in tumor coarse, 1 in a stage that was not recorded"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (case("e/a", 0.0, found_ml=0.0), True),
        (case("e/a", 0.0, found_ml=3.0), True),  # something was found, elsewhere
        (case("e/a", 0.01), False),
        (case("e/a", NAN, reference_ml=0.0, found_ml=3.0), False),
        (case("e/a", NAN, reference_ml=0.0, found_ml=0.0), False),
    ],
)
def test_missed_is_no_overlapping_voxel_where_there_was_something_to_find(row, expected):
    assert is_missed(row) is expected


@pytest.fixture
def finished(study_store, tmp_path, fake_scripts) -> Path:
    """A study with invented results: full is better than baseline by 0.1 on every case, and misses one."""
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
    assert first[0][8:10] == ["lost", "Dice - baseline"]
    baseline, full = first[1:]
    assert baseline[:8] == ["baseline", "3", "2", "5", "0.460", "0.460", "5.0 (8 of 8)", "0 % (0 of 8)"]
    assert full[:8] == ["full", "3", "2", "6", "0.467", "0.467", "5.0 (8 of 9)", "11 % (1 of 9)"]
    assert (baseline[8], full[8]) == ("0 of 8", "1 of 9")
    assert full[9:] == ["+0.100", "-", "-", "3"]
    assert second == [["variant", "east", "west"], ["baseline", "0.250", "0.600"], ["full", "0.233", "0.700"]]
    for words in (
        "Seeds: 1, 2.",
        "Optimisation steps by held-out centre: west 8, east 6.",
        "epochs 2",
        "width 8",
        "Cases: 6, of which 6 contain the target",
    ):
        assert words in text
    assert "reference mask of pancreas fine" in text and "python -m engine.study run" in text
    assert "Left out because they could not be evaluated: full, seed 1, east held out: east/broken." in text


def test_the_report_of_tumour_fine_names_the_region_that_it_was_evaluated_in(finished):
    (made,) = read_studies(finished).values()
    fine = replace(made, stage=STAGES["tumor_fine"])
    words = "Stage tumor fine, around the prediction of tumor coarse of the same variant, in the reference pancreas."
    assert any(words in line for line in explain_tables(fine, gather_results(made), "baseline"))


def test_the_csv_holds_the_same_and_against_turns_it_round(finished):
    (made,) = read_studies(finished).values()
    write_report(made, "full")
    lines = {line.split(",")[0]: line for line in (finished / "tumor_coarse_table.csv").read_text().splitlines()}
    header, baseline = lines["variant"].split(","), lines["baseline"].split(",")
    row = dict(zip(header, baseline, strict=True))
    assert float(row["difference"]) == pytest.approx(-0.1) and row["against"] == "full" and row["pairs"] == "3"
    assert float(row["dice_east"]) == pytest.approx(0.25)
    with pytest.raises(InputError) as error:
        write_report(made, "sdf")
    assert (error.value.path, error.value.problem) == ("--against sdf", "has no finished run")
    assert error.value.remedy == "choose one of baseline, full"


def test_without_a_finished_run_the_report_says_what_to_do(finished, tmp_path, capsys):
    for variant in ("baseline", "full"):
        shutil.rmtree(finished / variant)
    assert study.main(["report", str(finished)]) == 2
    (made,) = read_studies(finished).values()
    continued = f"Continue the study: {made.commands[-1]}\n"
    assert capsys.readouterr().err == f"error: {finished}: no run of tumor coarse is finished. {continued}"
    assert study.main(["report", str(tmp_path / "nowhere")]) == 2
    assert "has no study.yaml. Start a study: python -m engine.study run" in capsys.readouterr().err


def test_a_run_with_a_failed_case_is_not_finished_but_reported(finished):
    (made,) = read_studies(finished).values()
    assert not made.is_finished(Run("full", 1, "east")) and made.is_finished(Run("full", 1, "west"))
    assert len(gather_results(made)["full"].faults) == 1


@pytest.mark.parametrize("number", [1, 7])
def test_the_figure_of_few_and_many_variants(tmp_path, number):
    rng = np.random.default_rng(0)
    variants = sorted(VARIANTS, key=lambda name: name != "baseline")[:number]
    dice = {v: [(f"centre{i % 3}", float(value)) for i, value in enumerate(rng.uniform(size=12))] for v in variants}
    differences = {v: (0.1, -0.1, 0.2) for v in variants[1:]} | ({variants[-1]: (0.1, NAN, NAN)} if number > 1 else {})
    draw_study(tmp_path / "figure.png", dice, differences, variants[0], "title")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.size[0] > 1200 and np.asarray(picture.convert("L")).std() > 5
