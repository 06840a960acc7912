"""Cropping to the body and resampling: which part is kept, where it lies and which values it has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.cases.preparation import Preparation
from data.cases.resample import apply_preparation, resample_linear
from data.scans.body import MARGIN_MM, body_box
from data.scans.boxes import Box, whole_box
from data.scans.grid import resample_nearest

SPACING = (4.0, 1.5, 1.5)


def patient(shape=(30, 160, 180), table=True) -> np.ndarray:
    """Noise in air, an ellipse of tissue with a lung, and a thin table under it."""
    z, y, x = np.indices(shape, sparse=True)
    image = np.random.default_rng(0).normal(-1000, 15, shape)
    image[((y - 70) / 40) ** 2 + ((x - 90) / 60) ** 2 + 0 * z < 1] = 40
    image[((y - 70) / 20) ** 2 + ((x - 110) / 20) ** 2 + ((z - 30) / 12) ** 2 < 1] = -850
    if table:
        image[:, 120:123, 20:160] = 100
    return image.astype(np.int16)


def test_the_crop_keeps_the_body_with_a_margin_but_not_the_table():
    image = patient()
    box = body_box(image, SPACING)
    margin = int(np.ceil(MARGIN_MM / 1.5))
    assert box.start[0] == 0 and box.stop[0] == 30
    for axis, (first, last) in {1: (31, 110), 2: (31, 150)}.items():
        assert first - margin - 4 <= box.start[axis] <= first - margin + 1
        assert last + margin - 1 <= box.stop[axis] <= last + margin + 4
    assert body_box(image, SPACING, Box((0, 0, 0), (2, 2, 2))).start == (0, 0, 0)


@pytest.mark.parametrize("image", [np.full((5, 40, 40), -1000), np.full((5, 40, 40), 30), np.zeros((1, 2, 3))])
def test_a_scan_without_a_visible_body_is_kept_whole(image):
    assert body_box(image.astype(np.int16), SPACING) == whole_box(image.shape)


def test_the_crop_removes_air_above_the_head_and_keeps_both_legs():
    image = patient(table=False)
    image[20:] = -1000
    image[:20, :, 80:100] = -1000
    box = body_box(image, SPACING)
    assert 20 <= box.stop[0] <= 20 + np.ceil(MARGIN_MM / 4) + 1
    assert box.start[2] <= 31 and box.stop[2] >= 150


@settings(max_examples=30, deadline=None)
@given(
    old=st.tuples(*[st.integers(1, 9)] * 3),
    new=st.tuples(*[st.integers(1, 20)] * 3),
    slope=st.tuples(*[st.integers(-300, 300)] * 3),
)
def test_linear_resampling_preserves_a_ramp_inside_the_outer_voxels(old, new, slope):
    """Voxel i of n has its centre at (i + 1/2) / n of the extent, before and after. Values are rounded, not cut."""
    ramp = sum(s * (i + 0.5) for s, i in zip(slope, np.indices(old), strict=True))
    image = np.rint(ramp).astype(np.int16)
    result = resample_linear(image, new)
    at = [np.clip((np.arange(n) + 0.5) * o / n, 0.5, o - 0.5) for n, o in zip(new, old, strict=True)]
    expected = sum(s * a for s, a in zip(slope, np.meshgrid(*at, indexing="ij"), strict=True))
    assert result.dtype == np.int16 and result.shape == new
    assert np.abs(result - expected).max() <= 1.01


def test_a_preparation_crops_then_resamples_and_keeps_image_and_label_aligned():
    image = patient()
    tissue = (image > -300).astype(np.uint8)
    prepared = apply_preparation(image, SPACING, Preparation(crop="body", spacing=(3.0, 2.0, 2.0)))
    box = body_box(image, SPACING)
    assert prepared.part.start == box.start and prepared.part.stop == box.stop
    assert prepared.image.shape == prepared.part.shape == (40, *(round(n * 1.5 / 2) for n in box.shape[1:]))
    assert prepared.spacing == pytest.approx((3.0, 2.0, 2.0), rel=0.01)
    extent = np.multiply(box.shape, SPACING)
    assert np.allclose(np.multiply(prepared.image.shape, prepared.spacing), extent)
    label = resample_nearest(tissue[box.slices], prepared.part.shape)
    assert np.mean((prepared.image > -480) == label) > 0.98


def test_a_preparation_that_changes_nothing_returns_the_very_image():
    image = patient()
    assert apply_preparation(image, SPACING, Preparation()).image is image
    assert apply_preparation(image, SPACING, Preparation(spacing=SPACING)).part is None
