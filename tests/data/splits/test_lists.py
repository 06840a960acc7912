"""Splits that a user wrote down are read from JSON and CSV; mistakes are reported in one line."""

import json

import pytest

from data.common.errors import InputError
from data.splits.lists import read_lists
from data.splits.split import SPLIT_PARTS
from tests.data.splits.populations import LISTS, centre, three_centres


def test_lists_are_read_from_json_and_from_a_table(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(LISTS))
    (tmp_path / "two.json").write_text(json.dumps({"x": LISTS, "y": {"train": ["a/scan1"]}}))
    rows = [f"{key},{part},x" for part, keys in LISTS.items() for key in keys]
    (tmp_path / "table.csv").write_text("\n".join(["case,part,split", *rows, "a/scan1,train,y"]))
    (mine,) = read_lists(tmp_path / "mine.json", three_centres()).values()
    assert mine.name == "mine" and mine.kind == "list"
    assert {part: list(getattr(mine, part)) for part in SPLIT_PARTS} == LISTS
    two = read_lists(tmp_path / "two.json", three_centres())
    assert two == read_lists(tmp_path / "table.csv", three_centres()) and two["y"].test == ()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("nothing", "the file cannot be read as JSON"),
        ([LISTS], "the file cannot be read as JSON (it holds no fields)"),
        ({"x": {"train": "a/scan0"}}, "the file does not hold lists of cases"),
        ({"x": {"training": []}}, "the file does not hold lists of cases"),
        ({"a": LISTS}, '"a" is the name of a centre'),
        ({"../x": LISTS}, '"../x" is the name of a centre or cannot be used as a name'),
        (LISTS | {"test": ["c/scan99", "d/scan1"]}, "lists c/scan99 and 1 more, which the store does not have"),
        (LISTS | {"test": ["a/scan0"]}, "lists a/scan0 twice"),
        (LISTS | {"train": []}, "has no training case"),
        (LISTS | {"test": ["a/again"]}, "patient p0 of a is in train and in test (a/again)"),
    ],
)
def test_lists_with_a_mistake_are_refused_in_one_line(tmp_path, content, problem):
    centres = three_centres()
    centres["a"] += [case for case in centre("a", [("p0", True)])]
    object.__setattr__(centres["a"][-1], "name", "again")
    path = tmp_path / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError) as error:
        read_lists(path, centres)
    assert error.value.path == path and problem in error.value.problem and error.value.remedy
    assert "\n" not in str(error.value)


def test_a_table_with_an_unknown_part_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("case,part\na/scan0,tset\n")
    with pytest.raises(InputError) as error:
        read_lists(path, three_centres())
    assert error.value.path == path and error.value.problem == "the case a/scan0 is in an unknown part, 'tset'"
    assert error.value.remedy == "write one of train, validation, test"


def test_a_file_name_that_cannot_name_a_split_is_refused(tmp_path):
    path = tmp_path / "my lists.json"
    path.write_text(json.dumps(LISTS))
    with pytest.raises(InputError) as error:
        read_lists(path, three_centres())
    assert error.value.path == path and "cannot be used as a name" in error.value.problem
