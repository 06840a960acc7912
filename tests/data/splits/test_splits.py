import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.cases.preparation import Preparation
from data.cases.store import Case
from data.common.errors import InputError
from data.scans.boxes import Box
from data.splits.leave_one_out import choose_splits, frozen_splits, make_splits, select

BOX = Box((0, 0, 0), (2, 2, 2))


def centre(name: str, patients: list[tuple[str, bool]]) -> list[Case]:
    return [
        Case(
            Path(), name, f"scan{i}", patient, (9, 9, 9), (1, 1, 1), BOX, BOX if tumour else None, {}, {}, Preparation()
        )
        for i, (patient, tumour) in enumerate(patients)
    ]


def three_centres() -> dict[str, list[Case]]:
    return {name: centre(name, [(f"p{i}", i % 3 > 0) for i in range(9)]) for name in ("a", "b", "c")}


people = st.lists(st.tuples(st.sampled_from([f"p{i}" for i in range(12)]), st.booleans()), min_size=1, max_size=25)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from("abcd"), people, min_size=2))
def test_no_case_and_no_patient_is_on_two_sides(population):
    centres = {name: centre(name, patients) for name, patients in population.items()}
    everyone = {case.key for cases in centres.values() for case in cases}
    for split in make_splits(centres).values():
        parts = [set(split.train), set(split.validation), set(split.test)]
        assert set().union(*parts) == everyone and sum(map(len, parts)) == len(everyone)
        assert {key.split("/")[0] for key in split.test} <= {split.name}
        assert all(not key.startswith(f"{split.name}/") for key in (*split.train, *split.validation))
        train, validation = (
            {(c.centre, c.patient) for c in select(centres, keys)} for keys in (split.train, split.validation)
        )
        assert not train & validation


def test_the_validation_part_has_both_kinds_and_is_the_same_in_every_split():
    centres = three_centres()
    splits = make_splits(centres)
    of_b = [{key for key in splits[name].validation if key.startswith("b/")} for name in ("a", "c", "none")]
    assert of_b[0] == of_b[1] == of_b[2]
    tumours = {case.tumour_box is not None for case in select(centres, of_b[0])}
    assert tumours == {True, False}


def test_splits_are_frozen_and_a_changed_store_is_refused(tmp_path):
    centres = three_centres()
    first = frozen_splits(tmp_path, centres)
    assert frozen_splits(tmp_path, centres) == first
    assert first["a"].hash != first["b"].hash
    centres["d"] = centre("d", [("p0", True)])
    with pytest.raises(InputError, match=rf"splits\.json.*1 new and lacks 0, of d.*delete it.*or delete {tmp_path}/d"):
        frozen_splits(tmp_path, centres)
    del centres["d"], centres["a"][0]
    with pytest.raises(InputError, match=r"0 new and lacks 1, of a\).*then train again$"):
        frozen_splits(tmp_path, centres)


@pytest.mark.parametrize("content", ["", "{}", "[1]", json.dumps({"a": {"train": []}})])
def test_damaged_splits_are_refused(tmp_path, content):
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(InputError, match=r"splits\.json: not readable"):
        frozen_splits(tmp_path, three_centres())


def test_choosing_splits():
    splits = make_splits(three_centres())
    assert [s.name for s in choose_splits(splits, None)] == ["a", "b", "c"]
    assert choose_splits(splits, "none")[0].test == ()
    with pytest.raises(InputError, match="--data d: no such centre is prepared; choose one of a, b, c, none"):
        choose_splits(splits, "d")


def test_one_centre_cannot_be_held_out_but_trained_on():
    splits = make_splits({"a": three_centres()["a"]})
    with pytest.raises(InputError, match="only one centre is prepared"):
        choose_splits(splits, None)
    assert len(choose_splits(splits, "none")[0].train) > 0
