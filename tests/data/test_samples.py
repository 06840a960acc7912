import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augment import Augmentation, make_batch
from data.cases.case import Case, read_case, write_case
from data.cases.preparation import Preparation
from data.samples import (
    BoxDataset,
    Sampling,
    mask_box,
    network_grid,
    patch_shape,
    read_sample,
    reference_box,
    scan_box,
    training_box,
)
from data.scans.boxes import Box, whole_box
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


def target_of(case: Case, sampling: Sampling) -> Box:
    return case.tumour_box if sampling.target == "tumour" else case.pancreas_box


@settings(max_examples=200, deadline=None)
@given(cases(), st.sampled_from([s for s in sorted(STAGES) if s != "pancreas_coarse"]), st.integers(0, 1000))
def test_boxes_lie_inside_the_scan_and_hold_the_target(case, name, seed):
    sampling = STAGES[name].sampling
    box = reference_box(case, sampling)
    assert whole_box(case.shape).contains(box) and box.contains(case.target_box(sampling.roi))
    assert_covered(box, case, sampling)
    drawn = training_box(case, sampling, np.random.default_rng(seed))
    assert whole_box(case.shape).contains(drawn)
    assert_covered(drawn, case, sampling)


def assert_covered(box: Box, case: Case, sampling: Sampling) -> None:
    """The network grid holds the box and ends within a voxel of it, unless the scan ends before."""
    grid = network_grid(box.shape, case.spacing, sampling)
    assert all(side % 8 == 0 for side in grid.shape)
    np.testing.assert_allclose(np.array(grid.factor) * case.spacing, sampling.target_mm)
    for covered, side, length in zip(grid.size, box.shape, case.shape, strict=True):
        assert covered > side - 1e-3 and (covered < side + 1 or side == length)


@settings(max_examples=200, deadline=None)
@given(cases(), st.integers(0, 1000), st.tuples(*[st.floats(20, 200)] * 3))
def test_a_patch_is_no_larger_than_asked_and_holds_the_target_or_a_part_of_it(case, seed, patch_mm):
    sampling = replace(STAGES["pancreas_coarse"].sampling, patch_mm=patch_mm)
    field = whole_box(case.shape)
    patch, target = training_box(case, sampling, np.random.default_rng(seed), field), target_of(case, sampling)
    assert field.contains(patch)
    grid = network_grid(patch.shape, case.spacing, sampling)
    assert all(side <= most for side, most in zip(grid.shape, patch_shape(sampling), strict=True))
    for a, b, first, last, n in zip(*patch, *target, case.shape, strict=True):
        holds, within = a <= first and last <= b, first <= a and b <= last
        assert holds or within or (b - a) == n


def test_patches_are_drawn_all_over_the_field():
    facts = ({}, {}, Preparation())
    case = Case(
        Path("none"), "c", "n", "p", (100, 300, 300), (3, 1, 1), Box((40, 90, 90), (60, 150, 190)), None, *facts
    )
    sampling = replace(STAGES["pancreas_coarse"].sampling, patch_mm=(120.0, 128.0, 128.0))
    starts = np.array(
        [training_box(case, sampling, np.random.default_rng(i), whole_box(case.shape)).start for i in range(200)]
    )
    assert starts.min(axis=0).tolist() == [20, 22, 62] and starts.max(axis=0).tolist() == [40, 90, 90]


def test_a_patch_of_any_size_leaves_boxes_whole():
    assert min(patch_shape(replace(STAGES["tumor_fine"].sampling, patch_mm=(math.inf,) * 3))) > 10_000


def test_the_grid_is_in_mm_whatever_the_voxels_are():
    sampling = STAGES["pancreas_coarse"].sampling
    assert network_grid((96, 320, 368), (5.0, 0.8, 0.8), sampling).shape == (160, 128, 152)
    assert network_grid((240, 160, 184), (2.0, 1.6, 1.6), sampling).shape == (160, 128, 152)


def test_the_first_stage_reads_the_body():
    image = np.full((20, 120, 120), -1000, np.int16)
    image[:, 40:100, 20:80] = 40
    sampling = STAGES["pancreas_coarse"].sampling
    box = scan_box(image, (3.0, 3.0, 3.0), sampling)
    assert box.contains(Box((0, 40, 20), (20, 100, 80))) and box.shape[1:] < (75, 75)
    assert scan_box(np.full((20, 40, 40), -1000, np.int16), (3.0, 3.0, 3.0), sampling) == whole_box((20, 40, 40))


def test_a_mask_of_nothing_has_no_box():
    assert mask_box(np.zeros((4, 5, 6), bool), (1, 1, 1), STAGES["tumor_fine"].sampling) is None


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
    sampling = replace(STAGES[name].sampling, target_mm=(5.0, 1.0, 1.0))
    box = reference_box(thin_case, sampling)
    sample = read_sample(thin_case, box, sampling)
    assert sample.image.shape == sample.mask.shape and sample.grid.shape[0] == 8
    assert int(sample.mask.sum()) == int((thin_case.label() == 2).sum() if "tumor" in name else 360)


def test_the_jitter_depends_on_epoch_and_index_alone(thin_case):
    dataset = BoxDataset([thin_case] * 3, STAGES["tumor_coarse"].sampling, seed=7)
    first, again = dataset[1, 2], dataset[1, 2]
    assert np.array_equal(first.image, again.image) and first.grid == again.grid
    corners = [dataset[epoch, 0].image for epoch in range(8)]
    assert len({(tuple(image.shape), int(image[0, 0, 0])) for image in corners}) > 1


@pytest.fixture(scope="module")
def wide_case(tmp_path_factory) -> Case:
    """A scan that ends far from its organs, all tissue."""
    label = np.zeros((70, 120, 120), np.uint8)
    label[30:40, 55:67, 52:70] = 1
    label[33:37, 58:63, 57:64] = 2
    image = np.full(label.shape, 240, np.int16)
    grid, spacing = Grid.plain(label.shape, (4.0, 2.0, 2.0)), (4.0, 2.0, 2.0)
    facts = {"patient": "p", "spacing": spacing, "grid": grid, "source": {}}
    return read_case(write_case(tmp_path_factory.mktemp("wide"), "c", "wide", image, label, **facts))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["pancreas_fine", "tumor_coarse", "tumor_fine"]))
def test_the_augmentation_brings_in_tissue_and_nothing_from_beyond_what_was_read(wide_case, seed, name):
    sampling = replace(STAGES[name].sampling, target_mm=(5.0, 3.0, 3.0))
    augmentation = Augmentation(probability=0.8, gamma=(1.0, 1.0), noise=0.0, grey_probability=0.0)
    sample = BoxDataset([wide_case], sampling, seed, augmentation.reach)[0, 0]
    batch = make_batch(
        [sample],
        torch.device("cpu"),
        hu_window=sampling.hu_window,
        augmentation=augmentation,
        generators=[torch.Generator().manual_seed(seed)],
    )
    assert float(batch.image.min()) > 0.999
    unread = BoxDataset([wide_case], sampling, seed)[0, 0]
    assert sample.image.size > unread.image.size and sample.grid.shape == unread.grid.shape


def test_what_is_read_around_a_box_does_not_move_it(wide_case):
    sampling = replace(STAGES["tumor_coarse"].sampling, target_mm=(5.0, 3.0, 3.0))
    reach = Augmentation().reach
    batches = [
        make_batch([BoxDataset([wide_case], sampling, 0, r)[0, 0]], torch.device("cpu"), hu_window=sampling.hu_window)
        for r in (None, reach)
    ]
    assert torch.equal(batches[0].mask, batches[1].mask) and bool(batches[0].mask.any())


@pytest.fixture(scope="module")
def curved_case(tmp_path_factory) -> Case:
    """A case without a tumour, whose pancreas is an angle: most of its bounding box is something else."""
    label = np.zeros((30, 60, 80), np.uint8)
    label[10:14, 10:14, 10:70] = 1
    label[10:24, 10:50, 10:14] = 1
    grid, spacing = Grid.plain(label.shape, (4.0, 2.0, 2.0)), (4.0, 2.0, 2.0)
    facts = {"patient": "p", "spacing": spacing, "grid": grid, "source": {}}
    image = np.full(label.shape, 40, np.int16)
    return read_case(write_case(tmp_path_factory.mktemp("curved"), "c", "curved", image, label, **facts))


def test_a_stage_looks_around_the_pancreas_of_a_case_without_a_tumour(curved_case):
    boxes = {name: reference_box(curved_case, STAGES[name].sampling) for name in ("tumor_coarse", "tumor_fine")}
    assert all(box.contains(curved_case.pancreas_box) for box in boxes.values())
    sampling = replace(STAGES["tumor_coarse"].sampling, patch_mm=(math.inf,) * 3)
    drawn = [training_box(curved_case, sampling, np.random.default_rng(i)) for i in range(20)]
    assert all(box.contains(curved_case.pancreas_box) for box in drawn) and len(set(drawn)) > 10


def test_tumour_fine_sees_the_pancreas_or_what_could_be_taken_for_a_tumour_in_it(curved_case):
    sampling = replace(STAGES["tumor_fine"].sampling, patch_mm=(math.inf,) * 3)
    drawn = [training_box(curved_case, sampling, np.random.default_rng(i)) for i in range(300)]
    mm = np.array([np.multiply(box.shape, curved_case.spacing) for box in drawn])
    # Along y and x the pancreas alone measures 80 and 120 mm; a finding of 40 mm with a margin of 32 mm at most 104.
    around = [box for box, size in zip(drawn, mm, strict=True) if size[2] > 112]
    findings = [box for box, size in zip(drawn, mm, strict=True) if size[2] <= 112]
    assert 0.35 < len(around) / 300 < 0.65
    label = curved_case.label()
    assert all(label[box.slices].any() for box in findings)
    centres = np.array([np.add(*box) / 2 for box in findings])
    assert np.ptp(centres, axis=0)[2] > 40 and np.ptp(centres, axis=0)[1] > 25  # all over the gland
    assert drawn[:5] == [training_box(curved_case, sampling, np.random.default_rng(i)) for i in range(5)]


def test_a_patch_of_a_case_without_a_tumour_holds_what_is_looked_at(curved_case):
    sampling = replace(STAGES["tumor_coarse"].sampling, patch_mm=(80.0, 96.0, 96.0))
    for seed in range(30):
        patch = training_box(curved_case, sampling, np.random.default_rng(seed))
        for a, b, first, last in zip(*patch, *curved_case.pancreas_box, strict=True):
            assert (a <= first and last <= b) or (first <= a and b <= last)


def test_a_tumour_is_looked_for_around_the_pancreas_as_often_as_asked(wide_case):
    sampling = STAGES["tumor_fine"].sampling
    shapes = {}
    for share in (0.0, 0.25, 1.0):
        boxes = [training_box(wide_case, sampling, np.random.default_rng(i), None, share) for i in range(200)]
        jitter = np.array(sampling.jitter_plane_mm) / 2
        shapes[share] = np.mean([box.shape[2] > 7 + 2 * jitter[1] for box in boxes])
        assert all(box.contains(Box((34, 59, 58), (36, 62, 63))) for box in boxes)
    assert shapes[0.0] == 0 and 0 < shapes[0.25] < shapes[1.0]
    plain = [training_box(wide_case, sampling, np.random.default_rng(i)) for i in range(5)]
    assert plain == [training_box(wide_case, sampling, np.random.default_rng(i), None, 0.0) for i in range(5)]


def test_repetitions_of_a_case_in_an_epoch_are_other_boxes(curved_case):
    dataset = BoxDataset([curved_case], STAGES["tumor_coarse"].sampling, seed=7)
    samples = [dataset[1, 0, number] for number in (0, 1, 0)]
    assert np.array_equal(samples[0].image, samples[2].image) and samples[0].grid == samples[2].grid
    assert samples[0].image.shape != samples[1].image.shape or samples[0].grid != samples[1].grid


def test_the_pancreas_moves_with_the_target_and_is_read_only_if_it_is_asked_for(wide_case):
    sampling = replace(STAGES["tumor_coarse"].sampling, target_mm=(4.0, 2.0, 2.0))
    found = []
    for with_pancreas in (False, True):
        dataset = BoxDataset([wide_case], sampling, 3, Augmentation().reach, with_pancreas=with_pancreas)
        generators = [torch.Generator().manual_seed(5)]
        arguments = {"hu_window": sampling.hu_window, "augmentation": Augmentation(), "generators": generators}
        found.append(make_batch([dataset[1, 0]], torch.device("cpu"), **arguments))
    plain, batch = found
    assert plain.pancreas is None
    assert torch.equal(plain.image, batch.image) and torch.equal(plain.mask, batch.mask)
    assert set(batch.pancreas.unique().tolist()) == {0.0, 1.0} and bool((batch.pancreas >= batch.mask).all())
    voxels = ((wide_case.label() > 0).sum(), (wide_case.label() == 2).sum())
    assert float(batch.pancreas.sum() / batch.mask.sum()) == pytest.approx(float(voxels[0] / voxels[1]), rel=0.3)
