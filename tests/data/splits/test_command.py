"""The command ``python -m data.splits`` adds folds and lists once, and shows all splits as a table."""

import json

import numpy as np
import pytest

from data.cases.case import write_case
from data.scans.grid import Grid
from data.splits.command import format_table, main
from data.splits.leave_one_out import make_splits
from tests.data.splits.populations import LISTS, centre


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
    assert "splits_folds.json: the file holds other splits already. " in capsys.readouterr().err
    assert (store / "splits.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "path"),
    [
        (["--within", "b"], "--within b"),
        (["--folds", "3", "--within", "c"], "--within c"),
        (["--folds", "2"], "2 folds"),
        (["--from", "nowhere.json"], "nowhere.json"),
    ],
)
def test_wrong_options_are_reported_in_one_line_and_add_nothing(store, capsys, options, path):
    assert main(["--store", str(store), *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {path}: ") and err.count("\n") == 1
    assert not list(store.glob("splits_*.json"))


@pytest.mark.parametrize("name", ["folds", "folds_2"])
def test_a_list_cannot_have_the_name_of_a_cross_validation_or_fold(store, tmp_path, capsys, name):
    (tmp_path / "mine.json").write_text(json.dumps({name: {"train": ["a/scan0"]}}))
    assert main(["--store", str(store), "--folds", "3", "--from", str(tmp_path / "mine.json")]) == 2
    assert f"error: split {name}: this name belongs to another split" in capsys.readouterr().err
    assert [path.name for path in store.glob("splits_*.json")] == ["splits_folds.json"]
    assert main(["--store", str(store)]) == 0


def test_a_list_may_have_a_file_name_that_ends_in_folds(store, tmp_path):
    (tmp_path / "my_folds.json").write_text(json.dumps({"train": ["a/scan0"], "test": ["b/scan0"]}))
    assert main(["--store", str(store), "--from", str(tmp_path / "my_folds.json")]) == 0
    assert main(["--store", str(store)]) == 0


def test_the_table_counts_patients_not_scans():
    centres = {"a": centre("a", [("p", True), ("p", False), ("q", False)])}
    lines = format_table(make_splits(centres), centres).splitlines()
    assert lines[4].split() == ["test", "3/2/1", "3/2/1"]
