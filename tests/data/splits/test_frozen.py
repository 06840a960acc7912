"""The splits of a store are written once; a changed store is refused; files of earlier versions are still read."""

import json

import pytest

from data.common.errors import InputError
from data.splits import frozen
from data.splits.folds import make_folds
from data.splits.frozen import describe_new_cases, frozen_splits, read_splits, select_splits, write_splits
from data.splits.leave_one_out import make_splits
from data.splits.split import choose_splits
from tests.data.splits.populations import LISTS, centre, three_centres


def write_without_kinds(path, splits):
    """Write a file as earlier versions did, which did not record kinds."""
    path.write_text(json.dumps({name: split.parts for name, split in splits.items()}, indent=1))


def test_splits_are_frozen_and_a_changed_store_is_refused(tmp_path):
    centres = three_centres()
    first = frozen_splits(tmp_path, centres)
    assert frozen_splits(tmp_path, centres) == first
    assert first["a"].hash != first["b"].hash
    centres["d"] = centre("d", [("p0", True)])
    with pytest.raises(InputError) as error:
        frozen_splits(tmp_path, centres)
    assert error.value.path == tmp_path / "splits.json" and "has 1 new and lacks 0 (d)" in error.value.problem
    assert error.value.remedy.startswith("delete it") and error.value.remedy.endswith(
        f"or keep it and delete {tmp_path}/d"
    )
    del centres["d"], centres["a"][0]
    with pytest.raises(InputError) as error:
        frozen_splits(tmp_path, centres)
    assert "has 0 new and lacks 1 (a)" in error.value.problem and error.value.remedy.endswith("then train again")


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", json.dumps({"a": {"train": []}}), json.dumps({"none": LISTS | {"kind": "other"}})]
)
def test_damaged_splits_are_refused(tmp_path, content):
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(InputError) as error:
        frozen_splits(tmp_path, three_centres())
    assert error.value.path == tmp_path / "splits.json" and "cannot be read as splits" in error.value.problem


def test_nothing_is_written_when_asked_not_to(tmp_path):
    assert frozen_splits(tmp_path, three_centres(), save=False) == make_splits(three_centres())
    assert not list(tmp_path.iterdir())


def test_kinds_are_written_and_read_back(tmp_path):
    splits = make_splits(three_centres()) | make_folds(three_centres(), 3)
    write_splits(tmp_path / "any.json", splits)
    assert read_splits(tmp_path / "any.json") == splits
    kinds = {name: record["kind"] for name, record in json.loads((tmp_path / "any.json").read_text()).items()}
    assert kinds == dict.fromkeys("abc", "centre") | {"none": "none"} | {f"folds_{i}": "fold" for i in (1, 2, 3)}


def test_files_without_kinds_are_still_read(tmp_path):
    centres = three_centres()
    within = make_folds({"a": centres["a"]}, 3, "a_folds")
    write_without_kinds(tmp_path / "splits.json", make_splits(centres))
    write_without_kinds(tmp_path / "splits_folds.json", make_folds(centres, 3))
    write_without_kinds(tmp_path / "splits_a_folds.json", within)
    (tmp_path / "splits_mine.json").write_text(json.dumps({"mine": LISTS, "mine_1": LISTS}))
    splits = frozen_splits(tmp_path, centres)
    assert splits.items() >= (make_splits(centres) | make_folds(centres, 3) | within).items()
    assert splits["mine"].kind == splits["mine_1"].kind == "list" and len(splits) == 4 + 3 + 3 + 2
    assert choose_splits(splits, "a_folds") == list(within.values())


@pytest.mark.parametrize("write", [write_splits, write_without_kinds])
def test_folds_must_hold_all_cases_of_their_centres_and_lists_need_not(tmp_path, write):
    centres = three_centres()
    frozen_splits(tmp_path, centres)
    write(tmp_path / "splits_folds.json", make_folds(centres, 3))
    write(tmp_path / "splits_a_folds.json", make_folds({"a": centres["a"]}, 3, "a_folds"))
    (tmp_path / "splits_mine.json").write_text(json.dumps({"mine": LISTS}))
    splits = frozen_splits(tmp_path, centres)
    assert len(splits) == 4 + 3 + 3 + 1 and splits["folds_1"] == make_folds(centres, 3)["folds_1"]
    centres["c"] = centres["c"][1:]
    for name in ("splits.json", "splits_folds.json", "splits_mine.json"):  # a_folds holds no case of c
        with pytest.raises(InputError) as error:
            frozen_splits(tmp_path, centres)
        assert error.value.path == tmp_path / name and "has 0 new and lacks 1 (c)" in error.value.problem
        (tmp_path / name).unlink()
        if name == "splits.json":
            write(tmp_path / name, make_splits(centres))
    assert "a_folds_1" in frozen_splits(tmp_path, centres)
    centres["a"] = [*centres["a"], *centre("a", [("new", True)] * 10)[9:]]
    write(tmp_path / "splits.json", make_splits(centres))
    with pytest.raises(InputError) as error:
        frozen_splits(tmp_path, centres)
    assert error.value.path == tmp_path / "splits_a_folds.json" and "has 1 new and lacks 0 (a)" in error.value.problem


def test_two_splits_of_one_name_are_refused(tmp_path):
    frozen_splits(tmp_path, three_centres())
    (tmp_path / "splits_mine.json").write_text(json.dumps({"a": LISTS}))
    with pytest.raises(InputError) as error:
        frozen_splits(tmp_path, three_centres())
    assert error.value.path == tmp_path / "splits_mine.json" and '"a" is also the name of' in error.value.problem


def test_cases_that_were_prepared_after_the_draw_are_described(tmp_path):
    centres = three_centres()
    assert describe_new_cases(tmp_path, ["a/scan0"]) == ""
    frozen_splits(tmp_path, centres)
    assert describe_new_cases(tmp_path, ["a/scan0"]) == ""
    line = describe_new_cases(tmp_path, ["a/scan0", "d/1", "d/0"])
    assert line.startswith(f"{tmp_path}/splits.json was drawn without 2 cases of the store, such as d/0; delete it")


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ('"a/scan1"', '"a/scan3"', "its checksum does not fit"),
        ('"validation"', '"validatiom"', "unknown field 'validatiom'"),
        ('"checksum"', '"checksun"', "unknown field 'checksun'"),
        ('"b": {', '"c": {', "a field occurs twice"),
        ('"centre"', '"list"', "its checksum does not fit"),
    ],
)
def test_splits_that_were_damaged_or_edited_are_refused(tmp_path, before, after, problem):
    centres = three_centres()
    frozen_splits(tmp_path, centres)
    path = tmp_path / "splits.json"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))
    with pytest.raises(InputError) as error:
        frozen_splits(tmp_path, centres)
    assert error.value.path == path and problem in error.value.problem


def test_the_patients_of_an_only_centre_are_divided(tmp_path, capsys):
    frozen._say_once.cache_clear()
    centres = {"a": centre("a", [(f"p{i}", i % 3 > 0) for i in range(20)])}
    (tried,) = select_splits(tmp_path, centres, None, save=False)
    assert not list(tmp_path.iterdir())
    (split,) = select_splits(tmp_path, centres, None, {"a"})
    assert split == tried and [len(part) for part in split.parts.values()] == [12, 4, 4]
    assert (
        capsys.readouterr().out.count("a_folds_1 trains on 12 cases, validates on 4 and tests on 4.\n") == 1
    )  # for all stages together
    assert select_splits(tmp_path, centres, None) == select_splits(tmp_path, centres, "a_folds_1") == [split]
    assert len(select_splits(tmp_path, centres, "a_folds")) == 5
    with pytest.raises(InputError, match="holds out the only prepared centre"):
        select_splits(tmp_path, centres, "a")
    with pytest.raises(InputError, match="no centre has a label of the structure to segment"):
        select_splits(tmp_path, centres, None, set())


def test_folds_of_an_only_centre_that_are_there_are_used(tmp_path):
    centres = {"a": three_centres()["a"]}
    within = make_folds(centres, 3, "a_folds")
    write_splits(tmp_path / "splits_a_folds.json", within)
    assert select_splits(tmp_path, centres, None) == [within["a_folds_1"]]
    with_another = centres | {"b": three_centres()["b"]}
    (tmp_path / "splits.json").unlink()
    assert [split.name for split in select_splits(tmp_path, with_another, None)] == ["a", "b"]


@pytest.mark.parametrize(("patients", "folds"), [(2, None), (3, 3), (4, 4), (6, 5)])
def test_an_only_centre_needs_three_patients(tmp_path, patients, folds):
    centres = {"a": centre("a", [(f"p{i}", True) for i in range(patients)])}
    if folds:
        select_splits(tmp_path, centres, None)
        assert len(read_splits(tmp_path / "splits_a_folds.json")) == folds
        return
    with pytest.raises(InputError, match="the only prepared centre, with 2 patient") as error:
        select_splits(tmp_path, centres, None)
    assert error.value.path == "a" and "--data none" in error.value.remedy
