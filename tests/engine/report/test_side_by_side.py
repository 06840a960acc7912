"""Several methods are compared over the cases that they share, in words, in a table and in a picture."""

import csv
import math

import cv2
import numpy as np
import pytest

from engine.report import plots
from engine.report.side_by_side import describe_pair, write_side_by_side
from engine.statistics import compare
from tests.study_parts import case

NAN = math.nan
BROKEN = {"case": "w/4", "centre": "w", "error": "truncated"}
OURS = [case("w/0", 0.9, 2.0), case("w/1", 0.7, 4.0), case("w/2", 0.05, 9.0), case("w/3", NAN, NAN, reference_ml=0.0)]
OURS.append(case("w/4", 0.5))
THEIRS = [case("w/0", 0.8, 3.0), case("w/1", 0.9, 2.0), case("w/2", 0.0, NAN), case("w/3", NAN, NAN, 0.0, 0.0), BROKEN]
METHODS = {"ours": OURS, "nnunet": THEIRS}


def by_case(rows: list[dict]) -> dict[str, dict]:
    return {row["case"]: row for row in rows}


def test_the_figures_of_a_pair_are_those_of_the_cases_that_both_have():
    lines = describe_pair(("ours", "nnunet"), by_case(OURS), by_case(THEIRS))
    cells = {line.split()[0]: line.split() for line in lines if line}
    expected = compare({"0": 0.9, "1": 0.7, "2": 0.05}, {"0": 0.8, "1": 0.9, "2": 0.0})
    assert cells["dice"][1:4] == ["0.550", "0.567", f"{expected.mean_difference:+.3f}"]
    assert cells["dice"][4:] == ["-", f"{expected.p:.3f}", "3"]  # no interval over three cases
    assert cells["hd95_mm"][1:4] == ["3.000", "2.500", "+0.500"] and cells["hd95_mm"][-1] == "2"
    assert lines[0] == "4 cases in both" and "not evaluated in nnunet: w/4" in lines
    assert "missed, no voxel found: 0 of 3 in ours, 1 of 3 in nnunet" in lines
    assert "lost, Dice below 0.1: 1 of 3 in ours, 1 of 3 in nnunet" in lines


def test_long_names_keep_the_columns_apart():
    head, first = describe_pair(("a_very_long_name", "another_one"), by_case(OURS), by_case(THEIRS))[2:4]
    assert head.split()[1:3] == ["a_very_long_name", "another_one"]
    assert head.index("another_one") + len("another_one") == first.index("0.567") + len("0.567")


def test_a_report_of_three_methods_compares_the_first_with_the_others(tmp_path, capsys):
    methods = {**METHODS, "other": [case(row["case"], 0.6) for row in OURS]}
    write_side_by_side(tmp_path, methods, title="tumour, w", lesions=True)
    text = (tmp_path / "side_by_side.txt").read_text()
    assert text in capsys.readouterr().out
    assert text.startswith("tumour, w\n=========\n4 cases in both\n") and "ours - other" in text
    assert "nnunet - other" not in text
    assert "  nnunet: nothing found in 1 of 1, specificity 1.000" in text and "  other: no such case" in text
    with (tmp_path / "side_by_side.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert list(rows) == [f"w/{i}" for i in range(5)]
    assert (rows["w/0"]["dice_ours"], rows["w/0"]["dice_nnunet"], rows["w/0"]["dice_other"]) == ("0.9", "0.8", "0.6")
    assert (rows["w/4"]["dice_nnunet"], rows["w/4"]["error_nnunet"], rows["w/4"]["centre"]) == ("", "truncated", "w")
    assert rows["w/4"]["reference_ml"] == "2.0" and rows["w/3"]["reference_ml"] == "0.0"
    assert cv2.imread(str(tmp_path / "side_by_side.png")).shape[1] > 1500


def test_of_the_pancreas_no_cases_without_a_tumour_are_reported(tmp_path):
    write_side_by_side(tmp_path, METHODS, title="pancreas, w", lesions=False)
    assert "without tumour" not in (tmp_path / "side_by_side.txt").read_text()


def test_methods_without_a_common_case_are_reported_as_such(tmp_path):
    write_side_by_side(tmp_path, {"ours": OURS, "nnunet": [BROKEN]}, title="t", lesions=True)
    assert "no case was evaluated by both ours and nnunet" in (tmp_path / "side_by_side.txt").read_text()
    assert (tmp_path / "side_by_side.png").exists()


@pytest.mark.parametrize("metric", ["dice", "hd95_mm"])
def test_a_line_joins_the_values_of_a_case(monkeypatch, tmp_path, metric):
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    tables = {name: by_case(rows) for name, rows in METHODS.items()}
    plots.draw_side_by_side(tmp_path / "a.png", tables, {metric: ["ours - nnunet: +0.1"]})
    (axes,) = figures[0].axes
    lines = [tuple(line.get_ydata()) for line in axes.lines]
    assert (OURS[0][metric], THEIRS[0][metric]) in lines
    assert axes.get_title() == "ours - nnunet: +0.1"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ours", "nnunet"]
    diamonds = [p.get_offsets()[0][1] for p in axes.collections if len(p.get_offsets()) == 1 and p.get_zorder() == 4]
    assert diamonds[0] == pytest.approx(np.nanmean([row[metric] for row in OURS]))
