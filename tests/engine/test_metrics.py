"""Metrics: worked examples, properties, and brute force, medpy, MONAI and SciPy as independent references."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from medpy.metric import binary as medpy
from monai.metrics import compute_surface_dice
from scipy import ndimage

from engine.metrics import AGREEMENT, COLUMNS, case_metrics, count_lesions, outcome

SPACINGS = st.sampled_from([(1.0, 1.0, 1.0), (2.5, 0.75, 0.75), (5.0, 0.66666669, 0.66666669)])
ANISOTROPIC = st.tuples(st.floats(1.5, 6.0), st.floats(0.5, 1.0), st.floats(1.0, 1.5))


def blob(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Return a random box with holes and specks, which has several components and may touch the border of the scan."""
    low, high = np.sort(rng.integers(0, np.array(shape) + 1, (2, 3)), axis=0)
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, max(a + 1, b)) for a, b in zip(np.minimum(low, np.array(shape) - 1), high, strict=True))] = True
    return mask ^ (rng.random(shape) < 0.05)


@st.composite
def mask_pairs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.integers(1, 11)) for _ in range(3))
    first, second = blob(rng, shape), blob(rng, shape)
    first.flat[rng.integers(first.size)] = second.flat[rng.integers(first.size)] = True
    return first, second


def single_voxels(shape: tuple[int, int, int], *indices: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for index in indices:
        mask[index] = 1
    return mask


def brute_force_distances(prediction: np.ndarray, reference: np.ndarray, spacing) -> tuple[np.ndarray, np.ndarray]:
    """Measure all pairwise distances between the surface voxels of two masks and keep the shortest of each voxel.

    A surface voxel is a foreground voxel with at least one of its six neighbours outside the mask or the scan.

    Returns:
        Distances in mm from the surface of the prediction to that of the reference, and in the other direction.
    """
    surfaces = []
    for mask in (prediction, reference):
        padded = np.pad(mask, 1)
        neighbours = [np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (1, -1)]
        surfaces.append(np.argwhere(mask & ~np.all(neighbours, axis=0)) * np.asarray(spacing))
    pairwise = np.linalg.norm(surfaces[0][:, None] - surfaces[1][None], axis=-1)
    return pairwise.min(axis=1), pairwise.min(axis=0)


def test_two_voxels_three_millimetres_apart():
    prediction, reference = single_voxels((5, 9, 9), (2, 4, 4)), single_voxels((5, 9, 9), (2, 4, 6))
    values = case_metrics(prediction, reference, (4.0, 1.5, 1.5), margin_mm=(0, 0, 0))
    assert values["hd95_mm"] == values["asd_mm"] == 3.0
    assert values["nsd_2mm"] == values["dice"] == values["roi_recall"] == 0.0
    assert values["reference_ml"] == pytest.approx(9e-3)
    assert values["reference_lesions"] == values["false_positive_components"] == 1 and values["detected_lesions"] == 0


def test_surface_dice_counts_distances_equal_to_the_tolerance_if_spacings_are_float32():
    prediction, reference = single_voxels((1, 1, 9), (0, 0, 1)), single_voxels((1, 1, 9), (0, 0, 4))
    values = case_metrics(prediction, reference, np.float32([1, 1, 2 / 3]))
    assert values["nsd_2mm"] == 1.0 and values["nsd_1mm"] == 0.0


def test_a_prediction_of_half_of_a_block():
    reference, prediction = np.zeros((12, 20, 20)), np.zeros((12, 20, 20))
    reference[2:6, 4:8, 4:8] = 1
    prediction[2:6, 4:8, 4:6] = 1
    values = case_metrics(prediction, reference, (1, 1, 1), margin_mm=(0, 0, 2))
    assert values["recall"] == 0.5 and values["precision"] == 1.0 and values["dice"] == pytest.approx(2 / 3)
    assert values["roi_recall"] == 0.5 and values["roi_recall_margin"] == 1.0
    assert values["volume_error_ml"] == pytest.approx(-0.032)


def test_the_margin_of_the_roi_is_in_millimetres_and_ends_at_the_border_of_the_scan():
    prediction = single_voxels((40, 40, 40), (0, 20, 20))
    reference = single_voxels((40, 40, 40), (0, 20, 20), (0, 36, 20))
    recall = [case_metrics(prediction, reference, (1, 2, 1), (99, mm, 99))["roi_recall_margin"] for mm in (16, 32)]
    assert recall == [0.5, 1.0]


def test_lesions_connect_across_corners_and_are_detected_by_one_voxel():
    reference = single_voxels((6, 6, 12), (1, 1, 1), (2, 2, 2), (4, 4, 6), (1, 1, 10))
    prediction = single_voxels((6, 6, 12), (2, 2, 2), (1, 1, 10), (5, 1, 5))
    values = case_metrics(prediction, reference, (1, 1, 1))
    assert [values[name] for name in COLUMNS[-3:]] == [3, 2, 1]


@pytest.mark.parametrize(
    ("found", "wanted", "name", "zero"),
    [
        (False, True, "missed", {"dice", "recall", "roi_recall", "roi_recall_margin", "nsd_2mm", "nsd_1mm"}),
        (True, False, "false_positive", set()),
        (False, False, "correctly_empty", set()),
    ],
)
def test_metrics_of_empty_masks_are_zero_or_undefined_as_documented(found, wanted, name, zero):
    filled = np.ones((3, 4, 5))
    values = case_metrics(filled * found, filled * wanted, (1, 1, 1))
    assert outcome(values) == name
    assert all(values[key] == 0 if key in zero else math.isnan(values[key]) for key in AGREEMENT)
    assert values["volume_error_ml"] == pytest.approx(0.06 * (found - wanted))
    assert values["false_positive_components"] == (found and not wanted)


@given(mask_pairs(), SPACINGS)
@settings(max_examples=60, deadline=None)
def test_cropping_to_the_masks_does_not_change_what_medpy_computes(pair, spacing):
    prediction, reference = pair
    values = case_metrics(prediction, reference, spacing)
    assert values["hd95_mm"] == pytest.approx(medpy.hd95(prediction, reference, spacing), abs=1e-9)
    assert values["asd_mm"] == pytest.approx(medpy.assd(prediction, reference, spacing), abs=1e-9)
    for name in ("dice", "recall", "precision"):
        compute = {"dice": medpy.dc, "recall": medpy.recall, "precision": medpy.precision}[name]
        assert values[name] == pytest.approx(compute(prediction, reference))


@given(mask_pairs(), ANISOTROPIC)
@settings(max_examples=60, deadline=None)
def test_surface_distances_equal_brute_force_over_all_pairs_of_surface_voxels(pair, spacing):
    values = case_metrics(*pair, spacing)
    pooled = np.concatenate(brute_force_distances(*pair, spacing))
    assert values["hd95_mm"] == pytest.approx(np.percentile(pooled, 95), abs=1e-9)
    assert values["asd_mm"] == pytest.approx(pooled.mean(), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_surface_distances_are_pooled_if_the_surfaces_differ_in_size(seed):
    rng = np.random.default_rng(seed)
    spacing = rng.uniform((1.5, 0.5, 1.0), (6.0, 1.0, 1.5))
    small, large = np.zeros((12, 14, 16), bool), np.zeros((12, 14, 16), bool)
    small[tuple(rng.integers(0, 3, 3))] = True
    large[2:11, 1:13, 3:15] = rng.random((9, 12, 12)) < 0.9
    for pair in ((small, large), (large, small)):
        values, directed = case_metrics(*pair, spacing), brute_force_distances(*pair, spacing)
        assert max(map(len, directed)) > 100 * min(map(len, directed))
        pooled = np.concatenate(directed)
        assert values["hd95_mm"] == pytest.approx(np.percentile(pooled, 95), abs=1e-9)
        assert values["asd_mm"] == pytest.approx(pooled.mean(), abs=1e-9)
        # The mean of the two directed means, which medpy computed before version 0.5, is another number here.
        assert abs(values["asd_mm"] - np.mean([distances.mean() for distances in directed])) > 0.5


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 12)] * 3), st.floats(0.01, 0.6), st.floats(0.01, 0.6))
@settings(max_examples=80, deadline=None)
def test_lesions_are_the_components_of_scipy(seed, shape, density, other_density):
    rng = np.random.default_rng(seed)
    mask, other = rng.random(shape) < density, rng.random(shape) < other_density
    expected, expected_count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    found, found_count = ndimage.label(other, structure=np.ones((3, 3, 3)))
    assert count_lesions(other, mask) == {
        "reference_lesions": expected_count,
        "detected_lesions": len(np.unique(expected[mask & other])),
        "false_positive_components": found_count - len(np.unique(found[mask & other])),
    }


@given(mask_pairs(), SPACINGS)
@settings(max_examples=40, deadline=None)
def test_surface_dice_equals_monai(pair, spacing):
    def one_hot(mask):
        return torch.from_numpy(np.stack([~mask, mask]))[None].float()

    prediction, reference = (np.pad(mask, 1) for mask in pair)
    values = case_metrics(prediction, reference, spacing)
    for name, tolerance in (("nsd_2mm", 2.0001), ("nsd_1mm", 1.0001)):
        expected = compute_surface_dice(one_hot(prediction), one_hot(reference), [tolerance], spacing=spacing)
        assert values[name] == pytest.approx(expected.item(), abs=1e-6)


@given(mask_pairs(), SPACINGS)
@settings(max_examples=40, deadline=None)
def test_swapping_the_masks_swaps_recall_and_precision(pair, spacing):
    there, back = case_metrics(*pair, spacing), case_metrics(*pair[::-1], spacing)
    for name in ("dice", "nsd_2mm", "nsd_1mm", "hd95_mm", "asd_mm"):
        assert there[name] == pytest.approx(back[name], abs=1e-12)
    assert there["recall"] == back["precision"] and there["volume_error_ml"] == -back["volume_error_ml"]


@given(mask_pairs(), SPACINGS)
@settings(max_examples=30, deadline=None)
def test_a_mask_against_itself_is_perfect(pair, spacing):
    values = case_metrics(pair[0], pair[0], spacing)
    assert all(values[name] == (0.0 if name.endswith("_mm") else 1.0) for name in AGREEMENT)
    assert values["detected_lesions"] == values["reference_lesions"] > 0 == values["false_positive_components"]


@given(mask_pairs(), SPACINGS, st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 3))
@settings(max_examples=30, deadline=None)
def test_position_and_empty_surroundings_do_not_matter(pair, spacing, rim):
    here, there = case_metrics(*pair, spacing), case_metrics(*(np.pad(mask, rim) for mask in pair), spacing)
    # The border of the scan limits the enlarged box, so only the recall in that box may differ.
    assert {**there, "roi_recall_margin": 0} == {**here, "roi_recall_margin": 0}


@given(mask_pairs(), SPACINGS)
@settings(max_examples=30, deadline=None)
def test_metrics_are_in_range_and_in_the_order_of_the_columns(pair, spacing):
    values = case_metrics(*pair, spacing)
    assert tuple(values) == COLUMNS and all(type(value) is float for value in values.values())
    assert values["recall"] <= values["roi_recall"] <= values["roi_recall_margin"] <= 1
    assert values["nsd_1mm"] <= values["nsd_2mm"] <= 1


@pytest.mark.parametrize(("shape", "spacing"), [((2, 3, 5), (1, 1, 1)), ((2, 3, 4), (1, 0, 1)), ((2, 3, 4), (1, 1))])
def test_shapes_and_spacings_that_do_not_fit_are_refused(shape, spacing):
    with pytest.raises(ValueError, match="must be"):
        case_metrics(np.ones(shape), np.ones((2, 3, 4)), spacing)
