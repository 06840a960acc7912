import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.cases.case import Case, read_case, write_case
from data.cases.preparation import Preparation
from data.samples import BoxDataset, mask_box, network_grid, read_sample, reference_box, scan_box
from data.scans.boxes import Box
from data.scans.grid import Grid
from engine.stages import STAGES

spacing_of_scans = st.tuples(st.floats(0.5, 8), st.floats(0.5, 3), st.floats(0.5, 3))


@st.composite
def cases(draw) -> Case:
    shape = tuple(draw(st.integers(low, 300)) for low in (1, 20, 20))
    boxes = []
    start, stop = (0, 0, 0), shape
    for _ in range(2):  # the tumour's box inside the pancreas's inside the scan
        start = tuple(draw(st.integers(a, b - 1)) for a, b in zip(start, stop, strict=True))
        stop = tuple(draw(st.integers(a + 1, b)) for a, b in zip(start, stop, strict=True))
        boxes.append(Box(start, stop))
    return Case(Path("none"), "c", "n", "p", shape, draw(spacing_of_scans), boxes[0], boxes[1], {}, {}, Preparation())


@settings(max_examples=200, deadline=None)
@given(cases(), st.sampled_from(sorted(STAGES)), st.integers(0, 1000))
def test_boxes_of_every_stage_lie_inside_the_scan_and_hold_the_target(case, name, seed):
    sampling = STAGES[name].sampling
    target = case.tumour_box if sampling.roi == "tumour" else case.pancreas_box
    for rng in (np.random.default_rng(seed), None):
        box = reference_box(case, sampling, rng)
        assert all(0 <= a < b <= n for a, b, n in zip(*box, case.shape, strict=True))
        centre = [(a + b) / 2 for a, b in zip(*target, strict=True)]
        assert all(a <= c <= b for a, c, b in zip(box.start, centre, box.stop, strict=True))
        if rng is None or sampling.roi == "scan":
            assert box.contains(target)
        grid = network_grid(box.shape, case.spacing, sampling)
        assert all(side % 8 == 0 for side in grid.shape)
        covered = [side * f for side, f in zip(grid.shape, grid.factor, strict=True)]
        assert all(c >= n - 1e-3 for c, n in zip(covered, box.shape, strict=True))


@given(st.tuples(*[st.integers(8, 600)] * 3), spacing_of_scans)
def test_the_network_grid_respects_the_voxel_limit(shape, spacing):
    sampling = replace(STAGES["tumor_coarse"].sampling, max_voxels=200_000)
    grid = network_grid(shape, spacing, sampling)
    unpadded = math.prod(n / f for n, f in zip(shape, grid.factor, strict=True))
    assert unpadded <= 200_001 and len(set(grid.factor)) == 1


def test_the_first_stage_halves_fine_axes_only():
    grid = network_grid((96, 320, 368), (5.0, 0.8, 0.8), STAGES["pancreas_coarse"].sampling)
    assert grid.factor == (1, 2, 2) and grid.shape == (96, 160, 184)


def test_the_field_of_view_is_320_by_368_of_a_clinical_scan():
    box = scan_box((100, 512, 512), (2.5, 0.8, 0.8), STAGES["pancreas_coarse"].sampling)
    assert box.shape == (100, 320, 368)


def test_a_mask_of_nothing_has_no_box():
    assert mask_box(np.zeros((4, 5, 6), bool), (1, 1, 1), (5, 5, 5)) is None


@pytest.fixture
def thin_case(tmp_path) -> Case:
    rng = np.random.default_rng(0)
    image = rng.integers(-100, 240, (3, 40, 44)).astype(np.int16)
    label = np.zeros(image.shape, np.uint8)
    label[1:, 10:20, 12:30] = 1
    label[2, 12:15, 20:24] = 2
    folder = write_case(
        tmp_path,
        "c",
        "thin",
        image,
        label,
        patient="p",
        spacing=(5, 1, 1),
        grid=Grid.plain(image.shape, (5, 1, 1)),
        source={},
    )
    return read_case(folder)


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_scan_of_three_slices_is_read_and_padded_later(thin_case, name):
    sampling = STAGES[name].sampling
    box = reference_box(thin_case, sampling, None)
    sample = read_sample(thin_case, box, sampling)
    assert sample.image.shape == sample.mask.shape == box.shape and sample.grid.shape[0] == 8
    assert int(sample.mask.sum()) == int((thin_case.label() == 2).sum() if "tumor" in name else 360)


def test_the_jitter_depends_on_epoch_and_index_alone(thin_case):
    dataset = BoxDataset([thin_case] * 3, STAGES["tumor_coarse"].sampling, seed=7)
    first, again = dataset[1, 2], dataset[1, 2]
    assert np.array_equal(first.image, again.image) and first.grid == again.grid
    corners = [dataset[epoch, 0].image for epoch in range(8)]
    assert len({(tuple(image.shape), int(image[0, 0, 0])) for image in corners}) > 1
