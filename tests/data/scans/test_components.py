"""The components are those of scipy, also in masks of a single row or plane."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from data.scans.components import label_components


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 12)] * 3), st.floats(0, 1), st.booleans())
@example(1, (12, 1, 1), 0.4, False)
@example(0, (1, 1, 1), 0.0, False)
@settings(max_examples=200, deadline=None)
def test_components_are_those_of_scipy(seed, shape, density, strided):
    mask = np.random.default_rng(seed).random(shape) < density
    mask = mask.T[::2] if strided else mask
    components, count = label_components(mask)
    expected, expected_count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    assert count == expected_count and np.array_equal(components > 0, mask)
    # The numbers may be assigned in another order, but each belongs to exactly one number of the other labelling.
    assert len(np.unique(np.stack([components[mask], expected[mask]]), axis=1).T) == count
