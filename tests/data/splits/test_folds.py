"""Cross-validation: every case is tested on once, and every fold has patients of every centre and kind."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.common.errors import InputError
from data.splits.folds import make_folds
from data.splits.split import select_cases
from tests.data.splits.populations import centre, people, three_centres


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from("abcd"), people, min_size=1), st.integers(3, 6))
def test_each_case_is_tested_once_and_no_patient_is_in_two_parts(population, folds):
    centres = {name: centre(name, patients) for name, patients in population.items()}
    everyone = [case for cases in centres.values() for case in cases]
    patients = {(case.centre, case.patient) for case in everyone}
    if len(patients) < folds:
        with pytest.raises(InputError) as error:
            make_folds(centres, folds)
        assert (
            error.value.path == f"{folds} folds" and error.value.problem == f"there are only {len(patients)} patients"
        )
        assert error.value.remedy == "use fewer folds"
        return
    splits = make_folds(centres, folds)
    assert sorted(key for split in splits.values() for key in split.test) == sorted(case.key for case in everyone)
    for split in splits.values():
        parts = [{(c.centre, c.patient) for c in select_cases(centres, keys)} for keys in split.parts.values()]
        assert all(parts) and set().union(*parts) == patients and sum(map(len, parts)) == len(patients)
    sizes = [len({(c.centre, c.patient) for c in select_cases(centres, s.test)}) for s in splits.values()]
    assert max(sizes) - min(sizes) <= 1


def test_folds_spread_every_centre_and_its_tumours_evenly():
    centres = {name: centre(name, [(f"p{i}", i < 10) for i in range(25)]) for name in "abc"}
    for split in make_folds(centres, 5).values():
        for name in "abc":
            test = [case for case in select_cases(centres, split.test) if case.centre == name]
            assert len(test) == 5 and sum(case.tumour_box is not None for case in test) == 2
    assert make_folds(centres, 5) == make_folds(centres, 5)


@pytest.mark.parametrize("folds", [-1, 0, 2])
def test_fewer_than_three_folds_leave_nothing_to_train_on(folds):
    with pytest.raises(InputError) as error:
        make_folds(three_centres(), folds)
    assert error.value.path == f"{folds} folds" and "none is left to train on" in error.value.problem
    assert error.value.remedy == "use 3 or more"


def test_folds_know_the_cross_validation_that_they_belong_to():
    centres = three_centres()
    assert {(split.kind, split.cross_validation) for split in make_folds(centres, 3).values()} == {("fold", "folds")}
    within = make_folds({"a": centres["a"]}, 3, "a_folds")
    assert {split.cross_validation for split in within.values()} == {"a_folds"}
