"""The meaning of label codes: the map of the command line, and codes that it does not name."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.common.errors import InputError
from data.sources.label_map import LabelMap, settle_map

CODES = np.array([[[0, 10, 11, 7]]], np.uint8)


def test_a_label_map_turns_codes_into_labels():
    assert LabelMap.parse("10=1,11=2,*=0").apply(Path("x"), CODES.copy()).tolist() == [[[0, 1, 2, 0]]]
    assert LabelMap.parse(" 10 = 1 , 11=1,7=2").apply(Path("x"), CODES.copy()).tolist() == [[[0, 1, 1, 2]]]


def test_unknown_codes_are_named_without_a_guess_at_their_meaning():
    with pytest.raises(InputError) as error:
        LabelMap.parse("10=1").apply(Path("x"), CODES)
    assert error.value.path == Path("x")
    assert error.value.problem == "it has label codes 7, 11, which the map 0=0,10=1 does not name"
    assert "pairs code=label" in error.value.remedy and "also the codes that the map names" in error.value.remedy
    assert not any(guess in error.value.remedy for guess in ("7=", "11=", "=1"))


@given(st.dictionaries(st.integers(1, 255), st.integers(0, 2)), st.sampled_from([None, 0, 1, 2]))
def test_a_label_map_survives_being_printed(codes, rest):
    made = LabelMap(tuple(sorted({0: 0, **codes}.items())), rest)
    assert LabelMap.parse(str(made)) == made


@pytest.mark.parametrize("text", ["", "10", "10=3", "x=1", "-1=1", "300=1", "1=1,,2=2", "10=1;11=2"])
def test_text_that_is_not_a_label_map_is_refused(text):
    with pytest.raises(ValueError, match="is not a pair code=label"):
        LabelMap.parse(text)


def test_a_named_code_that_no_label_can_hold_is_refused():
    with pytest.raises(InputError) as caught:
        settle_map(Path("a.nrrd"), {1: "pancreas", 300: "tumor"}, LabelMap.parse("1=1,2=2"), accept=False)
    assert caught.value.problem == "its codes run up to 300, not within 0 to 255"
