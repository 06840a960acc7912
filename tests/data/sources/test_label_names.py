"""What names of label codes mean, and which map follows from them."""

from pathlib import Path

import pytest

from data.common.errors import InputError
from data.sources.label_map import LabelMap, find_contradiction, map_of_names, settle_map
from data.sources.label_names import label_of_name

GIVEN = LabelMap(((0, 0), (1, 1), (2, 2)), given=True)
DEFAULT = LabelMap.parse("1=1,2=2")
PATH = Path("a.nrrd")
SWAPPED = {1: "tumor", 2: "pancreas"}


@pytest.mark.parametrize(
    "label, names",
    [
        (1, "pancreas, Pancreas, PANCREAS_HEAD, pancreas-body, PancreasTail, pancreatic duct, healthy pancreas 1"),
        (2, "tumour, Tumors, lesion_2, PDAC, pancreas cyst, Pancreatic Lesions, cancer, PancreasTumor, masses"),
        (0, "background, liver, Left Kidney, kidneys, liver tumor, portal vein, common bile duct, gall bladder"),
    ],
)
def test_names_of_the_table_have_a_meaning(label, names):
    assert {name: label_of_name(name) for name in names.split(", ")} == dict.fromkeys(names.split(", "), label)


@pytest.mark.parametrize(
    "name",
    [
        *("Segment_1", "no tumor", "non-tumorous pancreas", "pancreas and tumor", "pancreas without tumor", "body"),
        *(
            "head",
            "12",
            "P",
            "",
            "peripancreatic fat",
            "pancreas duodenum",
            "ignore",
            "pseudocyst",
            "胰腺",
            "胰腺 tumor",
        ),
    ],
)
def test_other_names_are_not_guessed_at(name):
    assert label_of_name(name) is None


def test_the_names_make_the_map():
    assert str(map_of_names(PATH, SWAPPED)) == "0=0,1=2,2=1"
    assert str(map_of_names(PATH, {0: "background", 1: "spleen", 10: "pancreas"})) == "0=0,1=0,10=1"


@pytest.mark.parametrize(
    "names, problem, pairs",
    [
        ({1: "Segment_1", 2: "pancreas"}, 'not known: 1 "Segment_1", 2 "pancreas"', "1=?,2=1"),
        ({1: "tumor"}, "do not tell which is the pancreas", "1=2"),
        ({0: "pancreas", 1: "tumor"}, "do not tell which is the pancreas", "0=1,1=2"),
    ],
)
def test_names_that_tell_too_little_are_listed_without_a_guess(names, problem, pairs):
    with pytest.raises(InputError) as error:
        map_of_names(PATH, names)
    assert problem in error.value.problem and f'--labels "{pairs}"' in error.value.remedy


def test_names_come_before_what_a_data_set_usually_has():
    assert settle_map(PATH, {}, DEFAULT, accept=False) == (DEFAULT, [])
    assert settle_map(PATH, {1: "pancreas", 2: "tumor"}, DEFAULT, accept=False) == (DEFAULT, [])
    labels, notes = settle_map(PATH, SWAPPED, DEFAULT, accept=False)
    assert str(labels) == "0=0,1=2,2=1" and notes == ['codes by their names in the file: 1 "tumor", 2 "pancreas"']
    assert str(settle_map(PATH, {1: "pancreas"}, DEFAULT, accept=False)[0]) == "0=0,1=1"  # a code 2 would be unknown


def test_a_map_of_the_user_that_contradicts_the_names_is_refused_unless_it_is_insisted_on():
    with pytest.raises(InputError) as error:
        settle_map(PATH, SWAPPED, GIVEN, accept=False)
    assert '1 "tumor", 2 "pancreas"' in error.value.problem and "the map 0=0,1=1,2=2" in error.value.problem
    assert "--accept-labels" in error.value.remedy
    labels, (note,) = settle_map(PATH, SWAPPED, GIVEN, accept=True)
    assert labels == GIVEN and "contradicts" in note


@pytest.mark.parametrize(
    "text, names",
    [
        ("1=2,2=1", SWAPPED),
        ("1=1,2=1", SWAPPED),  # the tumour counts as pancreas
        ("2=1", SWAPPED),  # code 1 is refused where it is found
        ("1=1,2=2", {1: "Segment_1", 2: "Segment_2"}),
    ],
)
def test_maps_that_agree_with_the_names(text, names):
    assert not find_contradiction(LabelMap.parse(text), names)


@pytest.mark.parametrize(
    "text, names",
    [
        ("1=1,2=2", SWAPPED),
        ("1=1,*=0", SWAPPED),  # the pancreas would be background
        ("1=1,*=0", {1: "spleen", 10: "pancreas"}),
        ("1=1,2=0", {1: "pancreas", 2: "tumor"}),  # a hole in the pancreas
    ],
)
def test_maps_that_contradict_the_names(text, names):
    assert find_contradiction(LabelMap.parse(text), names)
