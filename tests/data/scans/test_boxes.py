"""Boxes stay inside the scan and never lose a voxel of what they were made around."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.scans.boxes import Box, bounding_box, enlarge, union, whole_box

sizes = st.tuples(*[st.integers(1, 120)] * 3)


@st.composite
def box_in_scan(draw):
    shape = draw(sizes)
    start = [draw(st.integers(0, n - 1)) for n in shape]
    stop = [draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)]
    return Box(tuple(start), tuple(stop)), shape


margins = st.tuples(*[st.floats(-60, 60)] * 3)


@given(box_in_scan(), margins, margins, st.sampled_from([1, 4.7, 8, 16]))
def test_an_enlarged_box_lies_inside_the_scan_has_rounded_sides_and_keeps_its_middle(case, low, high, multiple):
    box, shape = case
    result = enlarge(box, low, high, shape, (multiple,) * 3)
    assert whole_box(shape).contains(result)
    for side, size in zip(result.shape, shape, strict=True):
        assert side == size or 0 <= np.ceil(side / multiple) * multiple - side < 1
    middle = Box(
        tuple(a + (b - a + 3) // 4 for a, b in zip(*box, strict=True)),
        tuple(b - (b - a + 3) // 4 for a, b in zip(*box, strict=True)),
    )
    assert all(a <= c and d <= b for a, b, c, d in zip(*result, *middle, strict=True) if c < d)
    if min(*low, *high) >= 0:
        assert result.contains(box)


def test_an_organ_in_slices_5_to_32_of_37_stays_in_its_enlarged_box():
    result = enlarge(Box((5, 100, 100), (33, 200, 200)), (5, 25, 25), (5, 25, 25), (37, 512, 512), (8, 8, 8))
    assert result.start[0] == 0 and result.stop[0] == 37
    assert result.contains(Box((5, 75, 75), (33, 225, 225)))


@given(box_in_scan())
def test_the_bounding_box_is_tight_and_contains_every_voxel(case):
    box, shape = case
    mask = np.zeros(shape, bool)
    mask[box.slices] = True
    assert bounding_box(mask) == box
    assert bounding_box(mask)[1] == box.stop and mask[box.slices].sum() == mask.sum()


def test_an_empty_mask_has_no_bounding_box():
    assert bounding_box(np.zeros((3, 4, 5))) is None


def test_the_union_contains_both_boxes():
    assert union(Box((0, 5, 2), (4, 6, 9)), Box((1, 2, 3), (9, 4, 5))) == Box((0, 2, 2), (9, 6, 9))
