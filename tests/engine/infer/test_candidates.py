"""Lesion candidates are the components of suspicious voxels in the pancreas, the most suspicious first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from engine.infer.candidates import CANDIDATE_THRESHOLD, NO_CANDIDATES, find_candidates
from engine.stages import MIN_TUMOUR_ML

SPACING = (2.0, 2.0, 2.0)  # 2 voxels are more than the smallest tumour


def field(**places: float) -> np.ndarray:
    """Cubes of 2 x 2 x 5 voxels at x = 1, 8, ... with one probability each, and 1 in a voxel of each."""
    probability = np.full((6, 8, 30), 0.02, np.float32)
    for number, value in enumerate(places.values()):
        probability[2:4, 3:5, 1 + 7 * number : 6 + 7 * number] = value
    return probability


def test_the_confidence_is_the_mean_of_the_highest_tenth():
    probability = field(a=0.5, b=0.7)
    probability[2, 3, 2:4] = (0.9, 0.8)  # the two highest of twenty
    found = find_candidates(probability, SPACING)
    assert [c.confidence for c in found.found] == pytest.approx([0.85, 0.7])
    assert found.found[0].volume_ml == pytest.approx(20 * 8 / 1000) and found.found[0].peak == (2, 3, 2)
    assert found.score == found.found[0].confidence
    assert np.unique(found.numbers[:, :, 1:6]).tolist() == [0, 1] and np.unique(found.numbers[:, :, 8:]).tolist() == [
        0,
        2,
    ]


def test_the_faint_surroundings_of_a_lesion_are_no_part_of_its_candidate():
    """Everything is suspicious, and one block is very much so; another has more than half of its probability."""
    probability = np.full((6, 8, 30), 0.25, np.float32)
    probability[2:4, 3:5, 1:6], probability[2:4, 3:5, 20:25] = 0.9, 0.5
    pancreas = np.zeros(probability.shape, bool)
    pancreas[:, :, :8] = True
    found = find_candidates(probability, SPACING, pancreas)
    assert [c.confidence for c in found.found] == pytest.approx([0.9])  # the other is outside
    assert np.array_equal(found.numbers > 0, probability == np.float32(0.9))
    assert [c.confidence for c in find_candidates(probability, SPACING).found] == pytest.approx([0.9, 0.5])
    pancreas[:, :, :8], pancreas[:, :, 10:] = False, True  # the peak outside does not hide what is inside
    assert [c.confidence for c in find_candidates(probability, SPACING, pancreas).found] == pytest.approx([0.5])


def test_what_is_tiny_or_outside_of_the_pancreas_is_no_candidate():
    probability, pancreas = field(a=0.4, b=0.7, c=0.9), np.zeros((6, 8, 30), bool)
    pancreas[:, :, :10] = True  # holds 2 of the 5 columns of b, and nothing of c
    assert [c.confidence for c in find_candidates(probability, SPACING, pancreas).found] == pytest.approx([0.7, 0.4])
    pancreas[:, :, 8:] = False
    pancreas[2, 3, 8] = True  # 1 of the 20 voxels of b
    assert [c.confidence for c in find_candidates(probability, SPACING, pancreas).found] == pytest.approx([0.4])
    edge = (MIN_TUMOUR_ML * 1000 / 20) ** (1 / 3)
    assert find_candidates(probability, (1.01 * edge,) * 3).score > 0
    assert find_candidates(probability, (0.99 * edge,) * 3).found == ()


@pytest.mark.parametrize("shape", [(0, 0, 0), (4, 5, 6)])
def test_nothing_suspicious_has_a_score_of_zero(shape):
    found = find_candidates(np.full(shape, CANDIDATE_THRESHOLD, np.float32), SPACING)
    assert found.score == NO_CANDIDATES.score == 0 and not found.numbers.any() and found.numbers.shape == shape


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_candidates_are_those_of_a_plain_search(seed):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(8, 14, 14)), 1.2)
    probability = (1 / (1 + np.exp(3 - 12 * noise))).astype(np.float32)
    pancreas = ndimage.gaussian_filter(rng.normal(size=noise.shape), 2) > 0
    expected = []
    regions, count = ndimage.label(probability > CANDIDATE_THRESHOLD, np.ones((3, 3, 3)))
    masks = []
    for region in (regions == number for number in range(1, count + 1)):
        if (region & pancreas).any():
            level = max(np.float32(CANDIDATE_THRESHOLD), probability[region & pancreas].max() / 2)
            parts, many = ndimage.label(region & (probability > level), np.ones((3, 3, 3)))
            masks += [parts == number for number in range(1, many + 1)]
    for mask in masks:
        if mask.sum() >= 2 and (mask & pancreas).sum() >= 0.1 * mask.sum():
            highest = np.sort(probability[mask])[::-1][: int(np.ceil(mask.sum() / 10))]
            expected.append((highest.mean(), mask.sum()))
    found = find_candidates(probability, SPACING, pancreas)
    assert [c.confidence for c in found.found] == pytest.approx(sorted((e[0] for e in expected), reverse=True))
    sizes = np.bincount(found.numbers.ravel(), minlength=len(found.found) + 1)[1:]
    assert sorted(sizes) == sorted(size for _, size in expected)
    assert [probability[c.peak] for c in found.found] == [
        probability[found.numbers == n].max() for n in range(1, len(found.found) + 1)
    ]
