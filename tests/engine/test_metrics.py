"""Metrics: worked examples, properties, brute force, and medpy and MONAI as independent oracles."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from medpy.metric import binary as medpy
from monai.metrics import compute_surface_dice
from scipy import ndimage
from scipy.spatial.distance import cdist

from engine.metrics import AGREEMENT, COLUMNS, case_metrics, outcome

SPACINGS = st.sampled_from([(1.0, 1.0, 1.0), (2.5, 0.75, 0.75), (5.0, 0.66666669, 0.66666669)])


def blob(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """A random box with holes and specks: it has inner surfaces and several components, and may touch the border."""
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


def one_voxel(shape: tuple[int, int, int], *at: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for place in at:
        mask[place] = 1
    return mask


def test_two_voxels_that_are_three_millimetres_apart():
    prediction, reference = one_voxel((5, 9, 9), (2, 4, 4)), one_voxel((5, 9, 9), (2, 4, 6))
    values = case_metrics(prediction, reference, (4.0, 1.5, 1.5), margin_mm=(0, 0, 0))
    assert values["hd95_mm"] == values["asd_mm"] == 3.0
    assert values["nsd_2mm"] == values["dice"] == values["roi_recall"] == 0.0
    assert values["reference_ml"] == pytest.approx(9e-3)
    assert values["reference_lesions"] == values["false_positive_components"] == 1 and values["detected_lesions"] == 0


def test_surface_dice_includes_a_distance_equal_to_the_tolerance_despite_rounded_spacings():
    prediction, reference = one_voxel((1, 1, 9), (0, 0, 1)), one_voxel((1, 1, 9), (0, 0, 4))
    values = case_metrics(prediction, reference, np.float32([1, 1, 2 / 3]))
    assert values["nsd_2mm"] == 1.0 and values["nsd_1mm"] == 0.0


def test_a_prediction_of_half_a_block():
    reference, prediction = np.zeros((12, 20, 20)), np.zeros((12, 20, 20))
    reference[2:6, 4:8, 4:8] = 1
    prediction[2:6, 4:8, 4:6] = 1
    values = case_metrics(prediction, reference, (1, 1, 1), margin_mm=(0, 0, 2))
    assert values["recall"] == 0.5 and values["precision"] == 1.0 and values["dice"] == pytest.approx(2 / 3)
    assert values["roi_recall"] == 0.5 and values["roi_recall_margin"] == 1.0
    assert values["volume_error_ml"] == pytest.approx(-0.032)


def test_the_margin_of_the_roi_is_in_millimetres_and_stays_in_the_scan():
    prediction = one_voxel((40, 40, 40), (0, 20, 20))
    reference = one_voxel((40, 40, 40), (0, 20, 20), (0, 36, 20))
    recalls = [case_metrics(prediction, reference, (1, 2, 1), (99, mm, 99))["roi_recall_margin"] for mm in (16, 32)]
    assert recalls == [0.5, 1.0]


def test_lesions_connect_through_corners_and_one_voxel_detects_them():
    reference = one_voxel((6, 6, 12), (1, 1, 1), (2, 2, 2), (4, 4, 6), (1, 1, 10))
    prediction = one_voxel((6, 6, 12), (2, 2, 2), (1, 1, 10), (5, 1, 5))
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
def test_metrics_of_empty_masks_are_zero_or_undefined(found, wanted, name, zero):
    filled = np.ones((3, 4, 5))
    values = case_metrics(filled * found, filled * wanted, (1, 1, 1))
    assert outcome(values) == name
    assert all(values[key] == 0 if key in zero else math.isnan(values[key]) for key in AGREEMENT)
    assert values["volume_error_ml"] == pytest.approx(0.06 * (found - wanted))
    assert values["false_positive_components"] == (found and not wanted)


@given(mask_pairs(), SPACINGS)
@settings(max_examples=60, deadline=None)
def test_metrics_equal_those_of_medpy_which_does_not_crop(pair, spacing):
    prediction, reference = pair
    values = case_metrics(prediction, reference, spacing)
    assert values["hd95_mm"] == pytest.approx(medpy.hd95(prediction, reference, spacing), abs=1e-9)
    assert values["asd_mm"] == pytest.approx(medpy.assd(prediction, reference, spacing), abs=1e-9)
    for name in ("dice", "recall", "precision"):
        oracle = {"dice": medpy.dc, "recall": medpy.recall, "precision": medpy.precision}[name]
        assert values[name] == pytest.approx(oracle(prediction, reference))


def surface_points(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Positions (n, 3) in mm of the voxels of a mask that have a face in common with the background."""
    padded = np.pad(mask, 1)
    neighbours = [np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (-1, 1)]
    return np.argwhere(mask & ~np.all(neighbours, axis=0)) * np.array(spacing)


def brute_force(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]) -> dict[str, float]:
    """Surface metrics from the distances of all pairs of surface voxels."""
    distances = cdist(*(surface_points(mask, spacing) for mask in (prediction, reference)))
    pooled = np.concatenate([distances.min(axis=1), distances.min(axis=0)])
    nsd = {f"nsd_{mm}mm": np.mean(pooled <= mm + 1e-4) for mm in (1, 2)}
    return {"hd95_mm": np.percentile(pooled, 95), "asd_mm": pooled.mean(), **nsd}


@given(mask_pairs(), SPACINGS)
@settings(max_examples=60, deadline=None)
def test_surface_metrics_equal_brute_force(pair, spacing):
    values = case_metrics(*pair, spacing)
    for name, value in brute_force(*pair, spacing).items():
        assert values[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.8)])
def test_surfaces_of_unequal_size_are_pooled(seed, spacing):
    """A speck beside a large organ: the many distant voxels of the organ outweigh the few near ones of the speck."""
    rng = np.random.default_rng(seed)
    organ = ndimage.gaussian_filter(rng.normal(size=(12, 30, 30)), 3)
    organ = organ > np.quantile(organ, 0.7)
    speck = np.zeros_like(organ)
    z, y, x = np.argwhere(organ)[rng.integers(organ.sum())]
    speck[z : z + 2, y : y + 2, x : x + 2] = True
    values, expected = case_metrics(speck, organ, spacing), brute_force(speck, organ, spacing)
    assert [values[name] for name in expected] == pytest.approx(list(expected.values()), abs=1e-9)
    distances = cdist(*(surface_points(mask, spacing) for mask in (speck, organ)))
    directed = [distances.min(axis=axis) for axis in (0, 1)]
    assert len(directed[0]) > 20 * len(directed[1])
    assert abs(values["asd_mm"] - np.mean([d.mean() for d in directed])) > 1  # not the mean of the directed means
    assert values["hd95_mm"] <= max(np.percentile(d, 95) for d in directed)


@given(mask_pairs(), SPACINGS)
@settings(max_examples=40, deadline=None)
def test_surface_dice_equals_monai(pair, spacing):
    def one_hot(mask):
        return torch.from_numpy(np.stack([~mask, mask]))[None].float()

    prediction, reference = (np.pad(mask, 1) for mask in pair)
    values = case_metrics(prediction, reference, spacing)
    for name, tolerance in (("nsd_2mm", 2.0001), ("nsd_1mm", 1.0001)):
        oracle = compute_surface_dice(one_hot(prediction), one_hot(reference), [tolerance], spacing=spacing)
        assert values[name] == pytest.approx(oracle.item(), abs=1e-6)


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
def test_empty_surroundings_do_not_change_the_metrics(pair, spacing, rim):
    here, there = case_metrics(*pair, spacing), case_metrics(*(np.pad(mask, rim) for mask in pair), spacing)
    # Only the enlarged box may differ, because the scan cuts it.
    assert {**there, "roi_recall_margin": 0} == {**here, "roi_recall_margin": 0}


@given(mask_pairs(), SPACINGS)
@settings(max_examples=30, deadline=None)
def test_metrics_stay_in_their_ranges_and_order(pair, spacing):
    values = case_metrics(*pair, spacing)
    assert tuple(values) == COLUMNS and all(type(value) is float for value in values.values())
    assert values["recall"] <= values["roi_recall"] <= values["roi_recall_margin"] <= 1
    assert values["nsd_1mm"] <= values["nsd_2mm"] <= 1


@pytest.mark.parametrize(("shape", "spacing"), [((2, 3, 5), (1, 1, 1)), ((2, 3, 4), (1, 0, 1)), ((2, 3, 4), (1, 1))])
def test_other_shapes_and_spacings_are_refused(shape, spacing):
    with pytest.raises(ValueError, match="must be"):
        case_metrics(np.ones(shape), np.ones((2, 3, 4)), spacing)
