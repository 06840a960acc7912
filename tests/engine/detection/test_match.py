"""Candidates hit lesions as in PI-CAI: by their overlap, one to one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picai_eval.eval import evaluate_case
from scipy import ndimage

from engine.detection.match import MIN_IOU, ScanDetection, match_candidates
from tests.engine.detection.scans import scan

SHAPE = (6, 10, 30)
SPACING = (2.0, 1.0, 1.0)


def row(*spans: tuple[int, int]) -> np.ndarray:
    """Numbered bars along x."""
    numbers = np.zeros(SHAPE, np.uint8)
    for number, (start, stop) in enumerate(spans, start=1):
        numbers[2:4, 4:6, start:stop] = number
    return numbers


def test_a_lesion_is_hit_by_an_overlap_of_a_tenth():
    """10 and 10 voxels along x, 2 in common: 2 / 18 is enough; 1 / 19 is not."""
    reference = row((0, 10)) > 0
    hits = match_candidates([0.7], row((8, 18)), reference, SPACING)
    (lesion,) = hits.lesions
    assert (lesion.confidence, lesion.iou) == (0.7, pytest.approx(2 / 18)) and hits.false_positives == ()
    assert lesion.diameter_mm == pytest.approx((6 * 40 * 2 / np.pi) ** (1 / 3))
    missed = match_candidates([0.7], row((9, 19)), reference, SPACING)
    assert missed.lesions[0].confidence == missed.lesions[0].iou == 0.0 and missed.false_positives == (0.7,)


def test_two_candidates_in_one_lesion_are_one_hit_and_no_false_positive():
    hits = match_candidates([0.6, 0.9], row((0, 4), (5, 10)), row((0, 10)) > 0, SPACING)
    assert [lesion.confidence for lesion in hits.lesions] == [0.9]  # that of the larger overlap
    assert hits.false_positives == ()


def test_as_many_lesions_as_possible_are_hit():
    """The first candidate overlaps the first lesion most, but it is the only one that reaches the second."""
    numbers = row((4, 16), (0, 3))
    reference = row((0, 10)) + row((11, 15)) > 0
    hits = match_candidates([0.9, 0.5], numbers, reference, SPACING)
    assert [lesion.confidence for lesion in hits.lesions] == [0.5, 0.9]


def test_without_a_lesion_every_candidate_is_a_false_positive_and_without_a_candidate_every_lesion_is_missed():
    nothing = np.zeros(SHAPE, np.uint8)
    assert match_candidates([0.9, 0.5], row((0, 3), (8, 9)), nothing, SPACING) == ((), (0.9, 0.5))
    hits = match_candidates([], nothing, row((0, 3), (8, 9)) > 0, SPACING)
    assert [lesion.confidence for lesion in hits.lesions] == [0, 0] and hits.false_positives == ()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_hits_and_false_positives_are_those_of_picai_eval(seed):
    rng = np.random.default_rng(seed)
    reference, suspected = (ndimage.gaussian_filter(rng.normal(size=(8, 20, 20)), 1.6) > 0.12 for _ in range(2))
    reference &= rng.random() < 0.9
    numbers, count = ndimage.label(suspected | (reference & (rng.random() < 0.5)), np.ones((3, 3, 3)))
    confidences = (rng.permutation(count) + 1) / (count + 1)
    found, *_ = evaluate_case(np.append(0, confidences)[numbers], reference.astype(int), min_overlap=MIN_IOU)
    hits = match_candidates(confidences.tolist(), numbers, reference, (1, 1, 1))
    expected = sorted((confidence, overlap) for is_lesion, confidence, overlap in found if is_lesion)
    ours = sorted((lesion.confidence, lesion.iou) for lesion in hits.lesions)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    false = sorted(confidence for is_lesion, confidence, _ in found if not is_lesion)
    np.testing.assert_allclose(sorted(hits.false_positives), false, atol=1e-6)


def test_what_was_detected_comes_back_from_json():
    made = scan("a", {12.0: 0.8, 30.0: 0.0}, (0.3, 0.2))
    assert ScanDetection.from_json(made.to_json()) == made
    with pytest.raises(TypeError):
        ScanDetection.from_json(made.to_json() | {"more": 1})
