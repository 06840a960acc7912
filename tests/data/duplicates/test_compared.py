"""The record of what was compared saves the comparison, and never changes what is found."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.cases.case import write_case
from data.cases.store import read_store
from data.common.records import CHECKSUM, checksum
from data.duplicates import pairs
from data.duplicates.compared import RECORD, Compared, read_compared
from data.duplicates.match import IDENTICAL, RULES, match_thumbnails
from data.duplicates.pairs import Duplicate, find_duplicates
from data.duplicates.thumbnail import load_thumbnails
from data.scans.grid import Grid
from tests.conftest import edit_manifest

SHAPE = (3, 4, 5)  # such a small piece is a duplicate only if its voxels are identical
NAMES = tuple(f"{centre}/{number}" for centre in "ab" for number in range(3))


def put(store: Path, key: str, scan: int) -> None:
    image, label = np.full(SHAPE, scan, np.int16), np.ones(SHAPE, np.uint8)
    centre, name = key.split("/")
    grid = Grid.plain(SHAPE, (1.0, 1.0, 1.0))
    write_case(store, centre, name, image, label, patient=key, spacing=(1.0, 1.0, 1.0), grid=grid, source={})


def stored(store: Path) -> list:
    return [case for cases in read_store(store).values() for case in cases]


@pytest.fixture
def store(tmp_path) -> Path:
    for number, key in enumerate(NAMES):
        put(tmp_path, key, number % 4)  # a/0 and b/1, a/1 and b/2
    return tmp_path


@pytest.fixture
def compared(monkeypatch) -> list[int]:
    """Return a list that grows by the number of thumbnails whenever some are compared."""
    calls = []

    def count(*thumbnails: np.ndarray) -> list:
        calls.append(sum(map(len, thumbnails)))
        return match_thumbnails(*thumbnails)

    monkeypatch.setattr(pairs, "match_thumbnails", count)
    return calls


FOUND = [Duplicate("a/0", "b/1", IDENTICAL, 1.0), Duplicate("a/1", "b/2", IDENTICAL, 1.0)]


def test_unchanged_cases_are_compared_once(store, compared):
    assert find_duplicates(stored(store)) == FOUND and compared == [6]
    for path in store.rglob("thumbnail*"):
        path.unlink()
    assert find_duplicates(stored(store)) == FOUND and compared == [6]
    assert not list(store.rglob("thumbnail*"))


def test_only_a_new_or_changed_case_is_compared_with_the_others(store, compared):
    find_duplicates(stored(store))
    put(store, "a/3", 3)
    put(store, "b/2", 2)
    expected = [FOUND[0], Duplicate("a/2", "b/2", IDENTICAL, 1.0), Duplicate("a/3", "b/0", IDENTICAL, 1.0)]
    del compared[:]
    assert find_duplicates(stored(store)) == expected and compared == [2, 7]
    assert find_duplicates(stored(store)) == expected and compared == [2, 7]


def test_a_moved_store_keeps_its_record(store, compared, tmp_path):
    find_duplicates(stored(store))
    shutil.copytree(store, tmp_path / "copy")
    assert find_duplicates(stored(tmp_path / "copy")) == FOUND and compared == [6]


def test_without_save_the_record_is_read_and_not_written(store, compared):
    assert find_duplicates(stored(store), save=False) == FOUND and not (store / RECORD).exists()
    find_duplicates(stored(store))
    put(store, "a/3", 3)
    before = (store / RECORD).read_bytes()
    del compared[:]
    assert len(find_duplicates(stored(store), save=False)) == 3 and compared == [1, 7]
    assert (store / RECORD).read_bytes() == before


def test_a_folder_that_cannot_be_written_to_does_not_stop_the_comparison(store, monkeypatch):
    def refuse(path):
        raise OSError("read-only")

    monkeypatch.setattr("data.duplicates.compared.replacing", refuse)
    assert find_duplicates(stored(store)) == FOUND and not (store / RECORD).exists()


def test_lists_of_few_cases_do_not_make_others_forgotten(store, compared):
    """Two splits that list different cases are each compared once, however often they are trained in turn."""
    cases = stored(store)
    for _ in range(2):
        for part in (cases[:4], cases[3:], cases):
            find_duplicates(part, others=[case for case in cases if case not in part])
    assert compared == [4, 2, 6] and find_duplicates(cases) == FOUND
    assert find_duplicates(cases[:5]) == FOUND[:1]


@pytest.mark.parametrize("position", range(0, 100, 4))
def test_a_record_with_a_changed_character_is_made_again(store, position, compared):
    find_duplicates(stored(store))
    whole = (store / RECORD).read_text()
    place = len(whole) * position // 100
    (store / RECORD).write_text(whole[:place] + ("1" if whole[place] != "1" else "2") + whole[place + 1 :])
    assert find_duplicates(stored(store)) == FOUND and compared == [6, 6]
    assert (store / RECORD).read_text() == whole


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"cases": [], "pairs": []}', '{"rules": [1]}', "\x00"])
def test_a_file_that_is_no_record_is_replaced(store, content):
    (store / RECORD).write_text(content)
    assert read_compared(store, RULES) == Compared()
    assert find_duplicates(stored(store)) == FOUND and len(read_compared(store, RULES).cases) == 6


def test_a_record_by_other_rules_is_made_again(store, compared):
    find_duplicates(stored(store))
    record = json.loads((store / RECORD).read_text())
    record["rules"][1] += 0.01
    (store / RECORD).write_text(json.dumps(record | {CHECKSUM: checksum(record)}))
    assert find_duplicates(stored(store)) == FOUND and compared == [6, 6]


def test_another_image_under_the_same_description_is_compared_again(store, compared):
    find_duplicates(stored(store))
    shutil.copy(store / "a" / "0" / "image.npy", store / "a" / "1" / "image.npy")
    edit_manifest(store / "a" / "1", files={})
    find_duplicates(stored(store))
    assert compared == [6, 1, 6]


def test_a_case_that_is_prepared_again_meanwhile_is_not_recorded(store, monkeypatch):
    cases = stored(store)

    def load(part: list, *, save: bool) -> np.ndarray:
        edit_manifest(store / "a" / "1", patient="another")
        return load_thumbnails(part, save=save)

    monkeypatch.setattr(pairs, "load_thumbnails", load)
    find_duplicates(cases)
    assert not (store / RECORD).exists()


def test_starts_at_the_same_time_leave_a_whole_record(store):
    cases = stored(store)
    parts = [cases, cases[:4], cases[2:], cases[1:5]] * 4
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda part: find_duplicates(part, others=cases), parts))
    assert find_duplicates(cases) == FOUND and not list(store.glob(".*"))


CHANGES = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(-1, 3), st.sets(st.sampled_from(NAMES))), min_size=1, max_size=8
)


@settings(max_examples=25)
@given(changes=CHANGES, held=st.integers(1, 3))
def test_whatever_was_added_or_changed_between_the_pairs_are_those_of_all(changes, held, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    put(store, "c/0", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "HELD_CASES", held)
        for key, scan, left_out in changes:
            if scan < 0:
                shutil.rmtree(store / key, ignore_errors=True)
            else:
                put(store, key, scan)
            cases = stored(store)
            part = [case for case in cases if case.key not in left_out]
            expected = [
                Duplicate(part[i].key, part[j].key, kind, correlation)
                for i, j, kind, correlation in match_thumbnails(load_thumbnails(part, save=False))
            ]
            assert find_duplicates(part, others=[case for case in cases if case not in part]) == expected
