"""What speaks against a mask: its size and place, the length of the scan, and what the model was trained on."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from data.scans.grid import Grid, Part
from engine.infer import prepared
from engine.stages import STAGES
from tests.conftest import tiny_scan


def test_a_ct_with_a_gland_of_usual_size_gets_no_note():
    assert prepared.find_doubts(tiny_scan(0)[0]) == prepared.find_doubts_of_size(90.0) == ()


def test_a_gland_of_a_few_ml_is_a_doubt_and_that_there_is_none_is_left_to_the_cascade():
    assert prepared.find_doubts_of_size(10.0) == prepared.find_doubts_of_size(0.0) == ()
    (doubt,) = prepared.find_doubts_of_size(2.654)
    assert doubt.startswith("2.7 ml are too little for a pancreas")


@pytest.mark.parametrize(
    ("slices", "mm", "doubted"),
    [(11, 5.0, "the scan is 55 mm long, too short for a whole pancreas"), (12, 5.0, ""), (60, 0.9, "is 54 mm long")],
)
def test_a_slab_is_too_short_for_a_whole_gland_along_whatever_axis_it_is_stored(slices, mm, doubted):
    for grid in (
        Grid.plain((slices, 400, 400), (mm, 0.8, 0.8)),
        Grid.of((slices, 400, 400), (mm, 0.8, 0.8), (0, 0, 0), (0, 1, 0, 0, 0, 1, 1, 0, 0)),
    ):
        assert doubted in "; ".join(prepared.find_doubts_of_length(grid))
        assert bool(prepared.find_doubts_of_length(grid)) == bool(doubted)


@pytest.mark.parametrize(
    ("part", "ends"),
    [
        (None, "lower and left"),
        (Part((0, 10, 10), (12, 50, 60), (6, 20, 25)), "lower and left"),
        (Part((0, 10, 10), (12, 50, 59), (6, 20, 25)), "lower"),
        (Part((1, 10, 10), (12, 50, 59), (6, 20, 25)), ""),  # the ends of the crop are not those of the scan
    ],
)
def test_a_gland_at_the_end_of_the_scan_may_be_cut(part, ends):
    shape = (12, 60, 60)
    grid = replace(Grid.plain(shape, (5.0, 2.0, 2.0)), part=part)
    label = np.zeros(part.shape if part else shape, np.uint8)
    label[:3, 5:9, -4:] = 1
    label[4, 5:9, 4:9] = 2
    said = prepared.find_doubts_of_place(label, grid)
    expected = f"the pancreas found touches the {ends} end of the scan, a part of it may be missing"
    assert said == ((expected,) if ends else ())
    assert prepared.find_doubts_of_place(np.zeros_like(label), grid) == ()


def test_stages_that_were_trained_on_synthetic_scans_are_named_if_they_are_not_all():
    models = {name: SimpleNamespace(stage=STAGES[name], only_synthetic=name == "tumor_fine") for name in STAGES}
    (doubt,) = prepared.find_doubts_of_training(models)
    assert "synthetic scans only in tumor fine, do not rely" in doubt
