"""Tables of an evaluation: they are read as they were written, count every case once and report undefined values."""

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.common.errors import InputError
from data.common.files import replacing
from engine.metrics import COLUMNS, case_metrics
from engine.report.tables import (
    NEEDED,
    count_outcomes,
    pick_cases,
    pick_false_positive,
    read_case_table,
    read_summary,
    summary_table,
    write_case_table,
    write_summary,
)
from engine.statistics import NO_INTERVAL


def row(case: str, found: int, wanted: int, **more) -> dict:
    """Return the row of a case whose prediction and reference fill ``found`` and ``wanted`` slices of 1 ml each."""
    prediction, reference = np.zeros((8, 10, 10)), np.zeros((8, 10, 10))
    prediction[:found], reference[:wanted] = 1, 1
    return {"case": case, "centre": "north", **case_metrics(prediction, reference, (10, 1, 1)), **more}


@pytest.fixture
def rows() -> list[dict]:
    return [
        row("001", 4, 4, seconds=1.5),
        row("002", 2, 4, seconds=2.5),
        row("003", 0, 3, seconds=1.0),
        row("004", 2, 0, seconds=1.0),
        row("005", 0, 0, seconds=1.0),
        {"case": "006", "centre": "south", "error": "scan.nii.gz: truncated, with a comma"},
    ]


def test_a_table_is_read_as_it_was_written(tmp_path, rows):
    path = tmp_path / "new" / "cases.csv"
    write_case_table(path, rows)
    assert str(read_case_table(path)) == str(rows)
    assert [file.name for file in path.parent.iterdir()] == ["cases.csv"]
    header = path.read_text().splitlines()[0].split(",")
    assert header == ["case", "centre", *COLUMNS, "seconds", "error"]


@given(st.lists(st.floats(allow_infinity=False), min_size=1, max_size=5), st.text("ab,\"'\n ü0", min_size=1))
@settings(max_examples=40, deadline=None)
def test_any_number_and_any_name_are_read_as_they_were_written(tmp_path_factory, values, name):
    path = tmp_path_factory.mktemp("csv") / "cases.csv"
    needed = dict.fromkeys(NEEDED, 1.0)
    written = [{"case": f"{name}{i}", **needed, "volume_error_ml": value} for i, value in enumerate(values)]
    write_case_table(path, written)
    assert str(read_case_table(path)) == str(written)


GOOD = f"case,{','.join(NEEDED)}\na,0.5,1,1,1,1,0\n".encode()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a table of cases"),
        (b"case,dice\n", "not a table of cases"),
        (b"name,dice\nx,1\n", "not a table of cases"),
        (b"case,dice\na,1,2\n", "not a table of cases"),
        (b"case,dice\na\n", "not a table of cases"),
        (b"\xff\xfe\x00", "not a readable CSV table"),
        (GOOD.replace(b"0.5", b"O.5"), "damaged: the case 'a' has 'O.5' as its dice"),
        (GOOD.replace(b"0.5", b""), "damaged: the case 'a' has '' as its dice"),
        (GOOD.replace(b"0.5", b"6.5"), "damaged: the case 'a' has '6.5' as its dice"),
        (GOOD.replace(b"reference_ml", b"beference_ml"), "damaged: the case 'a' has '' as its reference_ml"),
    ],
)
def test_a_file_that_is_not_a_table_of_cases_is_refused(tmp_path, content, problem):
    path = tmp_path / "cases.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_case_table(path)
    assert error.value.path == path
    assert error.value.problem.startswith(problem)
    assert error.value.remedy == "give the table of cases that an evaluation wrote (cases.csv)"


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError) as error:
        read_case_table(tmp_path / "cases.csv")
    assert error.value.path == tmp_path / "cases.csv"
    assert error.value.problem.startswith("not a readable CSV table")


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as unfinished:
        unfinished.write_text("half of the ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_every_case_is_counted_once(rows):
    count = count_outcomes(rows)
    assert count["cases"] == 6 and count["segmented"] == 2
    assert all(count[name] == 1 for name in ("missed", "false_positive", "correctly_empty", "failed"))
    assert (count["reference_lesions"], count["detected_lesions"], count["false_positive_components"]) == (3, 2, 1)


def test_the_summary_says_which_cases_were_left_out(rows):
    table = summary_table(rows, "pancreas fine")
    lines = {line.split()[0]: line.split() for line in table.splitlines() if line}
    # Dice is 1, 2/3 and 0 (missed). The false positive and the correctly empty case are left out; HD95 is not defined
    # for the missed case either.
    assert lines["dice"][1] == "0.556" and lines["dice"][-2:] == ["3", "2"]
    assert lines["hd95_mm"][-2:] == ["2", "3"]
    assert lines["seconds"][1] == "1.400" and lines["seconds"][-1] == "5"
    assert table.startswith("pancreas fine\n")
    for text in ("missed           003 (3.00 ml)", "false positive   004 (2.00 ml)", "correctly empty  005"):
        assert text in table
    assert "failed           006: scan.nii.gz: truncated, with a comma" in table
    assert "2 of 3 detected (67 %), 1 false positive components" in table


def test_the_summary_of_the_pancreas_has_no_line_of_lesions(rows):
    table = summary_table(rows, "pancreas fine", lesions=False)
    assert "lesions" not in table and table == "".join(
        line
        for line in summary_table(rows, "pancreas fine").splitlines(True)
        if not line.startswith(("lesions", "without tumour"))
    )


def test_a_summary_of_failed_cases_only(rows):
    assert "cases            1: 0 segmented, 1 failed" in summary_table(rows[-1:], "t")


def test_both_formats_of_the_summary_for_programs_agree(tmp_path, rows):
    write_summary(tmp_path / "summary.json", rows)
    write_summary(tmp_path / "summary.csv", rows)
    content = json.loads((tmp_path / "summary.json").read_text())
    with (tmp_path / "summary.csv").open() as file:
        lines = {line["metric"]: line for line in csv.DictReader(file)}
    for name, summary in content["metrics"].items():
        assert all(float(lines[name][key]) == value for key, value in summary.items() if value is not None)
    assert content["counts"] == count_outcomes(rows) == {name: int(lines[name]["n"]) for name in content["counts"]}


def test_undefined_values_are_null_in_json(tmp_path, rows):
    write_summary(tmp_path / "one.json", rows[:1])
    summary = json.loads((tmp_path / "one.json").read_text())["metrics"]["dice"]
    assert summary == {"mean": 1.0, "sd": None, "n": 1, "excluded": 0, "low": None, "high": None}


def test_the_summary_says_why_an_interval_is_missing(rows):
    many = [rows[0] | {"case": f"w/{i}", "dice": 0.5 + 0.01 * i} for i in range(12)]
    metrics = {line.split()[0]: line for line in summary_table(many, "t").splitlines() if " +- " in line}
    assert " to " in metrics["dice"] and " to " not in metrics["recall"]  # which is the same in all cases
    few = summary_table(rows[:2], "t")
    assert NO_INTERVAL in few and " to " not in few.partition(NO_INTERVAL)[0]


def test_a_summary_with_another_suffix_is_refused(tmp_path, rows):
    with pytest.raises(ValueError, match=r"\.json or \.csv"):
        write_summary(tmp_path / "summary.txt", rows)


def test_the_best_the_median_and_the_worst_case_are_picked():
    cases = [{"case": name, "dice": dice} for name, dice in zip("abcde", [0.5, math.nan, 0.9, 0.1, 0.7], strict=True)]
    cases.append({"case": "f", "error": "unreadable"})
    best, median, worst = pick_cases(cases)
    assert (best["case"], median["case"], worst["case"]) == ("c", "a", "d")


@pytest.mark.parametrize(
    ("dice", "names"), [([], "---"), ([math.nan], "---"), ([0.5], "a--"), ([0.5, 0.5], "b-a"), ([0.3, 0.3, 0.3], "cba")]
)
def test_no_case_is_picked_twice_if_there_are_few(dice, names):
    picked = pick_cases([{"case": name, "dice": value} for name, value in zip("abc", dice, strict=False)][::-1])
    assert "".join(case["case"] if case else "-" for case in picked) == names


def test_a_summary_is_read_as_it_was_written_and_named_if_it_is_damaged(tmp_path):
    path = tmp_path / "summary.json"
    write_summary(path, [row("a", 2, 3), row("b", 0, 3)])
    text = path.read_text()
    assert read_summary(path)["counts"]["cases"] == 2
    for damaged in (text[:-9], text.replace('"failed"', '"faileb"'), text.replace('"mean"', '"meam"'), "null", "{}"):
        path.write_text(damaged)
        with pytest.raises(InputError, match="not the summary of an evaluation"):
            read_summary(path)


@pytest.fixture
def two_centres(rows) -> list[dict]:
    """The rows of one centre, and another centre with three cases without a tumour; 0.011 ml count as nothing."""
    other = [row("007", 3, 3), row("008", 0, 0), row("009", 5, 0), row("010", 1, 0)]
    other[3]["prediction_ml"] = 0.011
    return [*rows, *({**case, "centre": "south"} for case in other)]


def test_cases_without_a_tumour_are_summarised_over_all_and_by_centre(tmp_path, two_centres):
    write_summary(tmp_path / "summary.json", two_centres)
    found = read_summary(tmp_path / "summary.json")["tumour_free"]
    by_centre = found.pop("centres")
    mean = pytest.approx((2 + 0 + 0 + 5 + 0.011) / 5)
    assert found == {
        "cases": 5,
        "found_nothing": 3,
        "specificity": 0.6,
        "false_positive_ml_mean": mean,
        "false_positive_ml_max": 5.0,
    }
    assert {name: (f["cases"], f["found_nothing"]) for name, f in by_centre.items()} == {
        "north": (2, 1),
        "south": (3, 2),
    }
    assert by_centre["south"]["specificity"] == pytest.approx(2 / 3)
    lines = summary_table(two_centres, "tumour fine").splitlines()
    said = "nothing found in 3 of 5, specificity 0.600; false positive volume 1.40 ml, at most 5.00 ml"
    assert f"without tumour   {said}" in lines
    assert (
        "  north: nothing found in 1 of 2, specificity 0.500; false positive volume 1.00 ml, at most 2.00 ml" in lines
    )


def test_without_such_cases_nothing_is_claimed_of_them(tmp_path, rows):
    write_summary(tmp_path / "summary.json", rows[:3])
    found = read_summary(tmp_path / "summary.json")["tumour_free"]
    assert found["cases"] == 0 and found["specificity"] is None and found["centres"] == {}
    assert "without tumour" not in summary_table(rows[:3], "tumour fine")
    write_summary(tmp_path / "pancreas.json", rows, lesions=False)
    assert "tumour_free" not in read_summary(tmp_path / "pancreas.json")


def test_the_largest_false_positive_is_picked_for_a_picture(two_centres):
    assert pick_false_positive(two_centres)["case"] == "009"
    assert pick_false_positive([two_centres[0], two_centres[1], two_centres[4], two_centres[5], two_centres[9]]) is None
