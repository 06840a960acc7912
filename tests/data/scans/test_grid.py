"""The way of an array from its file into a prepared case and back."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.scans.grid import Grid, Part, resample_nearest

AXES = [np.eye(3)[list(order)] * signs for order, signs in product(permutations(range(3)), product((1, -1), repeat=3))]


@st.composite
def grids(draw, finest: int = 1) -> Grid:
    """Draw the grid of a file in any orientation; its part has at most ``finest`` voxels per voxel of the scan."""
    size = [draw(st.integers(1, 9)) for _ in range(3)]
    grid = Grid.of(size, (0.7, 0.9, 2.5), (-31.5, 17.25, 401.125), draw(st.sampled_from(AXES)).ravel().tolist())
    if draw(st.booleans()):
        return grid
    start = [draw(st.integers(0, n - 1)) for n in grid.lps_shape]
    stop = [draw(st.integers(a + 1, n)) for a, n in zip(start, grid.lps_shape, strict=True)]
    shape = [draw(st.integers(1, finest * (b - a))) for a, b in zip(start, stop, strict=True)]
    return replace(grid, part=Part(tuple(start), tuple(stop), tuple(shape)))


def labels(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 200, shape).astype(np.uint8)


@settings(max_examples=200, deadline=None)
@given(grids())
def test_a_mask_returns_unchanged_from_the_file_unless_its_part_is_finer_than_the_scan(grid):
    mask = labels(grid.prepared_shape)
    written = grid.to_file(mask)
    assert written.shape == grid.size[::-1] and written.flags.c_contiguous
    assert np.array_equal(grid.to_prepared(grid.to_lps(written)), mask)


@settings(max_examples=200, deadline=None)
@given(grids(finest=3))
def test_outside_the_part_the_file_is_zero_and_inside_it_has_the_nearest_voxels(grid):
    mask = labels(grid.prepared_shape)
    whole = grid.to_lps(grid.to_file(mask))
    box = grid.part.slices if grid.part else (slice(None),) * 3
    assert np.array_equal(whole[box], resample_nearest(mask, whole[box].shape))
    assert np.count_nonzero(whole) == whole[box].size


@settings(max_examples=200, deadline=None)
@given(grids(finest=3))
def test_the_outer_faces_of_the_prepared_grid_are_those_of_the_part(grid):
    spacing, origin, direction = grid.lps_frame()
    prepared_spacing, prepared_origin, prepared_direction = grid.prepared_grid().lps_frame()
    start, stop = (grid.part.start, grid.part.stop) if grid.part else ((0, 0, 0), grid.lps_shape)
    axes = np.array(direction).reshape(3, 3)

    def position(index):  # (z, y, x) of the whole scan, to (x, y, z) mm
        return origin + axes @ (np.array(index)[::-1] * spacing[::-1])

    first = prepared_origin - axes @ (0.5 * np.array(prepared_spacing[::-1]))
    last = first + axes @ (np.array(grid.prepared_shape[::-1]) * prepared_spacing[::-1])
    assert prepared_direction == direction and grid.prepared_grid().lps_shape == grid.prepared_shape
    assert np.allclose(first, position(np.array(start) - 0.5)) and np.allclose(last, position(np.array(stop) - 0.5))
