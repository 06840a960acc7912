"""Folds, fixed lists, the command that adds them and the table that shows them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.cases.store import write_case
from data.common.errors import InputError
from data.scans.grid import Grid
from data.splits.command import main, make_folds, read_lists, table
from data.splits.leave_one_out import SPLIT_PARTS, centres_with, choose_splits, frozen_splits, make_splits, select
from tests.data.splits.test_splits import centre, people, three_centres


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from("abcd"), people, min_size=1), st.integers(3, 6))
def test_each_case_is_tested_once_and_no_patient_is_on_two_sides(population, folds):
    centres = {name: centre(name, patients) for name, patients in population.items()}
    everyone = [case for cases in centres.values() for case in cases]
    patients = {(case.centre, case.patient) for case in everyone}
    if len(patients) < folds:
        with pytest.raises(InputError, match=f"only {len(patients)} patients; give fewer"):
            make_folds(centres, folds)
        return
    splits = make_folds(centres, folds)
    assert sorted(key for split in splits.values() for key in split.test) == sorted(case.key for case in everyone)
    for split in splits.values():
        sides = [{(c.centre, c.patient) for c in select(centres, getattr(split, part))} for part in SPLIT_PARTS]
        assert all(sides) and set().union(*sides) == patients and sum(map(len, sides)) == len(patients)
    sizes = [len({(c.centre, c.patient) for c in select(centres, s.test)}) for s in splits.values()]
    assert max(sizes) - min(sizes) <= 1


def test_folds_spread_every_centre_and_its_tumours_evenly():
    centres = {name: centre(name, [(f"p{i}", i < 10) for i in range(25)]) for name in "abc"}
    for split in make_folds(centres, 5).values():
        for name in "abc":
            test = [case for case in select(centres, split.test) if case.centre == name]
            assert len(test) == 5 and sum(case.tumour_box is not None for case in test) == 2
    assert make_folds(centres, 5) == make_folds(centres, 5)


@pytest.mark.parametrize("folds", [-1, 0, 2])
def test_fewer_than_three_folds_leave_nothing_to_train_on(folds):
    with pytest.raises(InputError, match="one part tests, one validates; give 3 or more"):
        make_folds(three_centres(), folds)


LISTS = {"train": ["a/scan0", "b/scan1"], "validation": ["b/scan2"], "test": ["c/scan0"]}


def test_lists_are_read_from_json_and_from_a_table(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(LISTS))
    (tmp_path / "two.json").write_text(json.dumps({"x": LISTS, "y": {"train": ["a/scan1"]}}))
    rows = [f"{key},{part},x" for part, keys in LISTS.items() for key in keys]
    (tmp_path / "table.csv").write_text("\n".join(["case,part,split", *rows, "a/scan1,train,y"]))
    (mine,) = read_lists(tmp_path / "mine.json", three_centres()).values()
    assert mine.name == "mine" and {part: list(getattr(mine, part)) for part in SPLIT_PARTS} == LISTS
    two = read_lists(tmp_path / "two.json", three_centres())
    assert two == read_lists(tmp_path / "table.csv", three_centres()) and two["y"].test == ()


@pytest.mark.parametrize(
    "content, words",
    [
        ("nothing", "not readable as JSON"),
        ([LISTS], "not lists of cases"),
        ({"x": {"train": "a/scan0"}}, "not lists of cases"),
        ({"x": {"training": []}}, "not lists of cases"),
        ({"a": LISTS}, "split a: a centre's name"),
        ({"../x": LISTS}, "not usable as a name"),
        (LISTS | {"test": ["c/scan99", "d/scan1"]}, "no case c/scan99 and 1 more"),
        (LISTS | {"test": ["a/scan0"]}, "names a/scan0 twice"),
        (LISTS | {"train": []}, "has no training case"),
        (LISTS | {"test": ["a/again"]}, r"patient p0 of a is in train and in test \(a/again\)"),
    ],
)
def test_lists_that_cannot_be_are_refused_in_one_line(tmp_path, content, words):
    centres = three_centres()
    centres["a"] += [case for case in centre("a", [("p0", True)])]
    object.__setattr__(centres["a"][-1], "name", "again")
    (tmp_path / "mine.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=words) as caught:
        read_lists(tmp_path / "mine.json", centres)
    assert "mine.json" in str(caught.value) and "\n" not in str(caught.value) and "; " in str(caught.value)


def test_a_table_with_an_unknown_part_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("case,part\na/scan0,tset\n")
    with pytest.raises(InputError, match="part 'tset' of a/scan0; write one of train, validation, test"):
        read_lists(tmp_path / "t.csv", three_centres())


def test_folds_are_chosen_by_name_and_never_unasked():
    centres = three_centres()
    splits = make_splits(centres) | make_folds(centres, 3) | make_folds({"a": centres["a"]}, 3, "a_folds")
    assert [s.name for s in choose_splits(splits, None)] == ["a", "b", "c"]
    assert [s.name for s in choose_splits(splits, "folds")] == ["folds_1", "folds_2", "folds_3"]
    assert [s.name for s in choose_splits(splits, "a_folds")] == ["a_folds_1", "a_folds_2", "a_folds_3"]
    assert [s.name for s in choose_splits(splits, "folds_2")] == ["folds_2"]
    with pytest.raises(InputError, match=r"--data a_fold: .*choose one of a, b, c, folds_1.*none"):
        choose_splits(splits, "a_fold")


def test_a_centre_without_tumours_is_held_out_for_the_pancreas_alone():
    centres = three_centres() | {"extra": centre("extra", [(f"p{i}", False) for i in range(6)])}
    splits = make_splits(centres)
    held_out = {
        target: [s.name for s in choose_splits(splits, None, centres_with(centres, target))]
        for target in ("pancreas", "tumour")
    }
    assert held_out == {"pancreas": ["a", "b", "c", "extra"], "tumour": ["a", "b", "c"]}
    assert any(key.startswith("extra/") for key in splits["a"].train)
    assert choose_splits(splits, "extra", centres_with(centres, "tumour"))[0].name == "extra"  # when asked for
    with pytest.raises(InputError, match="no prepared centre has what is to be segmented labelled"):
        choose_splits(splits, None, centres_with({"extra": centres["extra"]}, "tumour"))


@pytest.fixture
def store(tmp_path):
    """Two centres of six patients, half with a tumour, the first of them scanned twice."""
    label = np.zeros((3, 4, 5), np.uint8)
    label[1, 1:3, 1:4] = 1
    for name in "ab":
        for index in range(7):
            drawn = label * (2 if index % 2 else 1)
            facts = {
                "patient": f"p{index % 6}",
                "spacing": (1.0, 1.0, 1.0),
                "grid": Grid.plain(label.shape, (1.0, 1.0, 1.0)),
                "source": {},
            }
            write_case(tmp_path / "store", name, f"scan{index}", label.astype(np.int16), drawn, **facts)
    return tmp_path / "store"


def test_the_command_adds_folds_and_lists_once_and_shows_all(store, tmp_path, capsys):
    (tmp_path / "mine.json").write_text(json.dumps(LISTS | {"test": ["b/scan0"]}))
    assert main(["--store", str(store)]) == 0
    before = (store / "splits.json").read_bytes()
    assert main(["--store", str(store), "--folds", "3", "--from", str(tmp_path / "mine.json")]) == 0
    assert main(["--store", str(store), "--folds", "3", "--within", "b"]) == 0
    out = capsys.readouterr().out.split("cases/patients/patients with a tumour\n")[-1]
    names = [line.split()[0] for line in out.splitlines()[1:] if not line.startswith(" ")]
    assert names == ["a", "b", "none", "b_folds_1", "b_folds_2", "b_folds_3", "folds_1", "folds_2", "folds_3", "mine"]
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["split", "hash", "part", "all", "a", "b"] and rows[3] == ["test", "7/6/3", "7/6/3", "-"]
    assert main(["--store", str(store), "--folds", "3"]) == 0  # the same again
    assert main(["--store", str(store), "--folds", "4"]) == 2
    assert "splits_folds.json: has other splits already; delete it" in capsys.readouterr().err
    assert (store / "splits.json").read_bytes() == before
    for wrong in (["--within", "b"], ["--folds", "3", "--within", "c"], ["--from", "nowhere.json"]):
        assert main(["--store", str(store), *wrong]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1


def test_folds_are_of_all_their_centres_cases_and_lists_are_not(tmp_path):
    centres = three_centres()
    frozen_splits(tmp_path, centres)
    for name, more in (("folds", make_folds(centres, 3)), ("a_folds", make_folds({"a": centres["a"]}, 3, "a_folds"))):
        content = {key: {part: getattr(split, part) for part in SPLIT_PARTS} for key, split in more.items()}
        (tmp_path / f"splits_{name}.json").write_text(json.dumps(content))
    (tmp_path / "splits_mine.json").write_text(json.dumps({"mine": LISTS}))
    splits = frozen_splits(tmp_path, centres)
    assert len(splits) == 4 + 3 + 3 + 1 and splits["folds_1"] == make_folds(centres, 3)["folds_1"]
    centres["c"] = centres["c"][1:]
    for name in ("splits.json", "splits_folds.json", "splits_mine.json"):  # a_folds has nothing of c
        with pytest.raises(InputError, match=f"{name}: drawn for other cases .* lacks 1"):
            frozen_splits(tmp_path, centres)
        (tmp_path / name).unlink()
        if name == "splits.json":
            frozen_keys = make_splits(centres)
            content = {key: {part: getattr(split, part) for part in SPLIT_PARTS} for key, split in frozen_keys.items()}
            (tmp_path / name).write_text(json.dumps(content))
    assert "a_folds_1" in frozen_splits(tmp_path, centres)


def test_the_table_counts_patients_not_scans():
    centres = {"a": centre("a", [("p", True), ("p", False), ("q", False)])}
    lines = table(make_splits(centres), centres).splitlines()
    assert lines[4].split() == ["test", "3/2/1", "3/2/1"]
