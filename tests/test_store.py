import json

import numpy as np
import pytest

from data.boxes import Box
from data.errors import InputError
from data.store import read_case, read_store, write_case


def write(store, centre="a", name="one", value=0):
    image = np.full((4, 5, 6), value, np.int16)
    label = np.zeros((4, 5, 6), np.uint8)
    label[1:3, 2:4, 3:6] = 1
    label[2, 3, 5] = 2
    return write_case(store, centre, name, image, label, patient="p", spacing=(2.5, 0.8, 0.8), grid={}, source={"x": 1})


def test_a_case_comes_back_as_written(tmp_path):
    case = read_case(write(tmp_path, value=-1000))
    assert (case.key, case.patient, case.shape, case.spacing) == ("a/one", "p", (4, 5, 6), (2.5, 0.8, 0.8))
    assert case.pancreas_box == Box((1, 2, 3), (3, 4, 6)) and case.tumour_box == Box((2, 3, 5), (3, 4, 6))
    assert isinstance(case.image(), np.memmap) and case.image().dtype == np.int16 and (case.image() == -1000).all()
    assert int(case.label().sum()) == 13


def test_writing_again_replaces_and_leaves_nothing_behind(tmp_path):
    write(tmp_path, value=1)
    folder = write(tmp_path, value=2)
    assert (read_case(folder).image() == 2).all()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["one"]


def test_the_store_lists_whole_cases_only(tmp_path):
    for centre, name in (("b", "z"), ("a", "two"), ("a", "one")):
        write(tmp_path, centre, name)
    (tmp_path / "a" / ".three.99.unfinished").mkdir()
    centres = read_store(tmp_path)
    assert [case.key for cases in centres.values() for case in cases] == ["a/one", "a/two", "b/z"]


def test_an_empty_store_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"no centre is prepared; run python -m data\.prepare"):
        read_store(tmp_path)


def test_a_case_prepared_in_another_way_says_how_to_renew_it(tmp_path):
    path = write(tmp_path) / "case.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "preparation_hash": "0"}))
    with pytest.raises(InputError, match=r"case\.json: prepared with other settings.*delete .* run python -m"):
        read_case(path.parent)


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    path = write(tmp_path) / "case.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"case\.json: not a readable manifest"):
        read_store(tmp_path)
