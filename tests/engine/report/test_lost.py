"""How many cases were lost, and in which stage, is counted over the cases that have a target."""

from engine.report.lost import count_lost, is_lost, is_missed
from engine.report.tables import summary_table
from tests.study_parts import case

ROWS = [
    case("w/0", 0.8),
    case("w/1", 0.0) | {"lost_in": "tumor_fine"},
    case("w/2", 0.0999) | {"lost_in": "tumor_coarse"},
    case("w/3", 0.1),
    case("w/4", float("nan"), reference_ml=0.0),
    {"case": "w/5", "centre": "w", "error": "unreadable"},
]


def test_a_case_is_lost_below_a_dice_of_a_tenth_if_it_has_a_target():
    assert [is_lost(row) for row in ROWS] == [False, True, True, False, False, False]
    assert [is_missed(row) for row in ROWS] == [False, True, False, False, False, False]


def test_losses_are_counted_by_stage_in_the_order_of_the_cascade():
    lost_cases = count_lost(ROWS)
    assert (lost_cases.with_target, lost_cases.lost) == (4, 2)
    assert list(lost_cases.stages.items()) == [("tumor_coarse", 1), ("tumor_fine", 1)]
    assert lost_cases.describe() == "2 of 4: 1 in tumor coarse, 1 in tumor fine"


def test_masks_of_other_programs_are_lost_in_no_stage():
    rows = [{key: value for key, value in row.items() if key != "lost_in"} for row in ROWS]
    assert count_lost(rows).describe() == "2 of 4"
    assert count_lost([*rows, ROWS[1]]).describe() == "3 of 5: 1 in tumor fine, 2 in a stage that was not recorded"
    assert count_lost(rows[:1]).describe() == "0 of 1"


def test_the_summary_says_where_cases_were_lost():
    lines = summary_table(ROWS, "tumor fine").splitlines()
    assert "lost             2 of 4: 1 in tumor coarse, 1 in tumor fine (Dice below 0.1)" in lines
    assert [line.split() for line in lines if line.startswith("lost in")] == [
        ["lost", "in", "tumor", "fine", "w/1", "(Dice", "0.000)"],
        ["lost", "in", "tumor", "coarse", "w/2", "(Dice", "0.100)"],
    ]
    assert "lost" not in summary_table(ROWS[4:], "tumor fine")
