"""AUROC, AP and FROC: worked examples, properties, and the same figures as picai_eval and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picai_eval.metrics import Metrics
from sklearn.metrics import average_precision_score, roc_auc_score

from engine.detection.curves import auroc, average_precision, cumulate, flatten, froc, sensitivity_at
from engine.detection.summary import FALSE_POSITIVES
from tests.engine.detection.scans import random_scans, scan

SCORES = np.array([0.9, 0.8, 0.7, 0.7, 0.2])
POSITIVE = np.array([True, False, True, False, False])
LABELLED = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12)


def test_auroc_counts_pairs_and_ties_one_half():
    """0.9 is above all three negatives; 0.7 is above 0.2, ties with 0.7 and is below 0.8."""
    assert auroc(SCORES, POSITIVE) == pytest.approx((3 + 1.5) / 6)
    assert auroc(-SCORES, POSITIVE) == pytest.approx(1 - (3 + 1.5) / 6)
    assert np.isnan(auroc(SCORES, POSITIVE & False)) and np.isnan(auroc(SCORES, POSITIVE | True))


def test_average_precision_is_the_sum_over_the_steps_of_the_recall():
    """Recall 1/2 at precision 1; recall 1 at 0.7, where two of four are right."""
    assert average_precision(SCORES, POSITIVE) == pytest.approx(0.5 * 1 + 0.5 * 2 / 4)
    assert average_precision(SCORES, POSITIVE, wanted=np.array(4.0)) == pytest.approx(0.25 * 1 + 0.25 * 2 / 4)
    assert np.isnan(average_precision(SCORES, POSITIVE & False))


@given(LABELLED)
def test_auroc_is_the_share_of_pairs_in_the_right_order(labelled):
    scores, positive = np.array([s for s, _ in labelled], float), np.array([p for _, p in labelled])
    pairs = np.sign(scores[positive][:, None] - scores[~positive])
    expected = (pairs + 1).mean() / 2 if pairs.size else np.nan
    assert auroc(scores, positive) == pytest.approx(expected, nan_ok=True)


@settings(deadline=None)
@given(LABELLED, st.data())
def test_weights_count_like_repetitions(labelled, data):
    scores, positive = np.array([s for s, _ in labelled], float), np.array([p for _, p in labelled])
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(scores), max_size=len(scores))))
    repeated = np.repeat(np.arange(len(scores)), weights)
    for figure in (auroc, average_precision):
        expected = figure(scores[repeated], positive[repeated])
        both = figure(scores, positive, np.stack([weights, 2 * weights]).astype(float))
        np.testing.assert_allclose(both, [expected, expected])


@given(LABELLED)
def test_both_are_those_of_scikit_learn(labelled):
    scores, positive = np.array([s for s, _ in labelled], float), np.array([p for _, p in labelled])
    if positive.any() and not positive.all():
        assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    if positive.any():
        assert average_precision(scores, positive) == pytest.approx(average_precision_score(positive, scores))


def test_the_sensitivity_is_the_highest_with_at_most_so_many_false_positives():
    """Thresholds 0.9, 0.8, 0.6, 0.5 and 0.4 over 4 scans; one of four lesions has no candidate."""
    scans = [
        scan("a", {10.0: 0.9, 20.0: 0.6}),
        scan("b", {30.0: 0.5}, (0.8,)),
        scan("c", {5.0: 0.0}),
        scan("d", {}, (0.4,)),
    ]
    curve = froc(flatten(scans), np.ones(4))
    np.testing.assert_allclose(curve.hits, [0.25, 0.25, 0.5, 0.75, 0.75])
    np.testing.assert_allclose(curve.false, [0, 0.25, 0.25, 0.25, 0.5])
    assert [float(sensitivity_at(curve, x)) for x in (0.125, 0.25, 8)] == [0.25, 0.75, 0.75]


def test_nothing_found_is_a_sensitivity_of_zero():
    curve = froc(flatten([scan("a", {10.0: 0.0}), scan("b")]), np.ones((3, 2)))
    assert sensitivity_at(curve, 1.0).tolist() == [0, 0, 0]
    assert cumulate(np.zeros(0), np.zeros(0, bool), np.ones(0)).thresholds.size == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_figures_over_scans_are_those_of_picai_eval(seed):
    """A lesion is always missed: at the lowest threshold picai_eval assumes that there is one."""
    scans = [*random_scans(seed, 25), scan("zzz", {10.0: 0.0})]
    results = {
        s.case: [(1, lesion.confidence, lesion.iou) for lesion in s.lesions] + [(0, c, 0.0) for c in s.false_positives]
        for s in scans
    }
    theirs = Metrics(results)
    scores, positive = np.array([s.score for s in scans]), np.array([bool(s.lesions) for s in scans])
    flat, weights = flatten(scans), np.ones(len(scans))
    assert auroc(scores, positive) == pytest.approx(theirs.auroc)
    wanted = np.array(float(theirs.num_lesions))
    assert average_precision(flat.confidence, flat.is_hit, wanted=wanted) == pytest.approx(theirs.AP)
    for x in FALSE_POSITIVES:
        assert sensitivity_at(froc(flat, weights), x) == pytest.approx(theirs.lesion_TPR_at_FPR(x))
