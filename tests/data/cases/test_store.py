import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from data.cases.preparation import Preparation
from data.cases.store import read_case, read_store, write_case
from data.common.errors import InputError
from data.scans.boxes import Box
from data.scans.grid import Grid

OLD = {
    "format": 1,
    "orientation": "LPS",
    "image": "int16 HU",
    "label": "uint8 0 background, 1 pancreas, 2 tumour",
}


def write(store, centre="a", name="one", value=0, **more):
    image = np.full((4, 5, 6), value, np.int16)
    label = np.zeros((4, 5, 6), np.uint8)
    label[1:3, 2:4, 3:6] = 1
    label[2, 3, 5] = 2
    facts = {
        "patient": "p",
        "spacing": (2.5, 0.8, 0.8),
        "grid": Grid.plain(image.shape, (2.5, 0.8, 0.8)),
        "source": {"x": 1},
    }
    return write_case(store, centre, name, image, label, **facts, **more)


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


def test_cases_prepared_in_two_ways_are_not_one_store(tmp_path):
    ways = Preparation(crop="body"), Preparation(crop="body", spacing=(1.0, 0.8, 0.8))
    for name, way in zip(("one", "two"), ways, strict=True):
        write(tmp_path, name=name, preparation=way)
        assert read_case(tmp_path / "a" / name).preparation == way
    with pytest.raises(InputError, match=r"a/one with --crop body, a/two with --crop body --spacing 1 0\.8 0\.8\)"):
        read_store(tmp_path)
    write(tmp_path, name="one", preparation=ways[1])
    assert len(read_store(tmp_path)["a"]) == 2


def test_stores_from_before_there_was_a_choice_stay_valid(tmp_path):
    """The hash that version 1 wrote for its only way, of 2022's format, orientation and types."""
    assert Preparation().hash == hashlib.sha256(json.dumps(OLD, sort_keys=True).encode()).hexdigest()[:16]
    assert json.loads((write(tmp_path) / "case.json").read_text())["preparation"] == OLD


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", range(1, 9))
def test_killed_at_any_step_a_case_is_whole_or_not_there(tmp_path, monkeypatch, step):
    """Writing over an earlier version, in place of which there may be none, but never a half."""
    write(tmp_path, value=1)
    calls = []

    def dying(function, after):
        def call(*args, **kwargs):
            calls.append(function)
            if len(calls) == step and not after:
                raise Killed
            result = function(*args, **kwargs)
            if len(calls) == step:
                raise Killed
            return result

        return call

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", dying(np.save, after=True))
        for name in ("mkdir", "write_text", "rename"):
            patch.setattr(Path, name, dying(getattr(Path, name), after=False))
        with contextlib.suppress(Killed):
            write(tmp_path, value=2)
        assert len(calls) == min(step, 6)
    for path in tmp_path.glob("[!.]*/[!.]*"):
        case = read_case(path)
        assert int(case.image()[0, 0, 0]) in (1, 2) and case.image().shape == case.label().shape == case.shape
    write(tmp_path, value=3)
    assert (read_case(tmp_path / "a" / "one").image() == 3).all()


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    path = write(tmp_path) / "case.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"case\.json: not a readable manifest"):
        read_store(tmp_path)
