"""The components of a mask are those of scipy, whatever the slabs in which they are labelled."""

from unittest import mock

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from engine.infer import grid
from engine.infer.components import LEAST_INSIDE, keep_components


def test_components_are_kept_if_they_are_larger_than_half_of_the_largest():
    """Components of 100, 60 and 60 voxels are kept; the published release kept only one of the two of 60."""
    mask = np.zeros((40, 10, 10), bool)
    for start, count in ((0, 100), (10, 60), (20, 60), (30, 50)):
        mask[start].flat[:count] = True
    assert keep_components(mask).sum() == 220
    assert not keep_components(np.zeros((2, 2, 2), bool)).any()


def test_components_touch_across_corners():
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True
    assert keep_components(mask).sum() == 3


def test_components_that_only_graze_the_organ_do_not_count():
    """The largest component has a tenth of its voxels within the organ, less a voxel; the others follow in size."""
    mask, organ = np.zeros((40, 10, 10), bool), np.zeros((40, 10, 10), bool)
    for start, count, inside in ((0, 100, 9), (10, 60, 6), (20, 31, 31), (30, 29, 29)):
        mask[start].flat[:count] = True
        organ[start].flat[:inside] = True
    assert keep_components(mask, organ).sum() == 60 + 31
    assert not keep_components(mask, np.zeros_like(mask)).any()
    keep_components(mask, organ, out=mask)
    assert mask.sum() == 60 + 31


def components_of_scipy(mask: np.ndarray, organ: np.ndarray | None) -> np.ndarray:
    """What ``keep_components`` promises, with the labels of scipy."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels[mask], minlength=count + 1)[1:]
    if organ is not None:
        sizes[np.bincount(labels[mask & organ], minlength=count + 1)[1:] < LEAST_INSIDE * sizes] = 0
    return np.isin(labels, 1 + np.flatnonzero(sizes > 0.5 * sizes.max(initial=0)))


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    density=st.floats(0.01, 0.6),
    planes=st.integers(1, 6),
    in_organ=st.booleans(),
    strided=st.booleans(),
)
@example(seed=0, shape=(1, 1, 1), density=0.0, planes=1, in_organ=True, strided=False)
@example(seed=0, shape=(12, 12, 12), density=1.0, planes=2, in_organ=True, strided=True)
def test_components_are_those_that_scipy_finds(seed, shape, density, planes, in_organ, strided):
    mask = np.random.default_rng(seed).random(shape) < density
    mask = mask.T if strided else mask
    organ = np.indices(mask.shape)[0] < seed % 12 if in_organ else None
    expected = components_of_scipy(mask, organ)
    assert np.array_equal(keep_components(mask, organ), expected)
    with mock.patch.object(grid, "SLAB_VOXELS", planes * mask[0].size):
        assert np.array_equal(keep_components(mask, organ), expected)
        keep_components(mask, organ, out=mask)
        assert np.array_equal(mask, expected)
