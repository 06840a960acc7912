"""Leave-one-centre-out splits: no patient is in two parts, and both kinds of patients are validated on."""

from hypothesis import given, settings
from hypothesis import strategies as st

from data.splits.leave_one_out import make_splits
from data.splits.split import select_cases
from tests.data.splits.populations import centre, people, three_centres


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from("abcd"), people, min_size=2))
def test_no_case_and_no_patient_is_in_two_parts(population):
    centres = {name: centre(name, patients) for name, patients in population.items()}
    everyone = {case.key for cases in centres.values() for case in cases}
    for split in make_splits(centres).values():
        parts = [set(split.train), set(split.validation), set(split.test)]
        assert set().union(*parts) == everyone and sum(map(len, parts)) == len(everyone)
        assert {key.split("/")[0] for key in split.test} <= {split.name}
        assert all(not key.startswith(f"{split.name}/") for key in (*split.train, *split.validation))
        train, validation = (
            {(c.centre, c.patient) for c in select_cases(centres, keys)} for keys in (split.train, split.validation)
        )
        assert not train & validation


def test_the_validation_part_has_both_kinds_of_patients_and_is_the_same_in_every_split():
    centres = three_centres()
    splits = make_splits(centres)
    of_b = [{key for key in splits[name].validation if key.startswith("b/")} for name in ("a", "c", "none")]
    assert of_b[0] == of_b[1] == of_b[2]
    tumours = {case.tumour_box is not None for case in select_cases(centres, of_b[0])}
    assert tumours == {True, False}


def test_the_kind_of_each_split_is_recorded():
    assert {name: split.kind for name, split in make_splits(three_centres()).items()} == {
        "a": "centre",
        "b": "centre",
        "c": "centre",
        "none": "none",
    }
