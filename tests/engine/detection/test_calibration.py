"""Voxels are counted in bins of their probability."""

import numpy as np
import pytest

from engine.detection.calibration import BINS, Reliability


def test_counts_and_errors_by_hand():
    probability = np.array([0.0, 0.05, 0.1, 0.95, 1.0, 1.0], np.float32).reshape(1, 2, 3)
    target = np.array([0, 0, 1, 1, 1, 0], np.uint8).reshape(1, 2, 3)
    made = Reliability.of(probability, target)
    assert made.voxels.tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 3] and made.positives.tolist()[1::8] == [1, 2]
    assert made.error() == pytest.approx((0.05 + 0.9 + 0.95) / 6)
    assert made.error(1) == pytest.approx((0.9 + 0.95) / 4)


def test_a_calibrated_network_has_hardly_an_error_and_boxes_add_up():
    rng = np.random.default_rng(0)
    probability = rng.random((20, 50, 50))
    parts = [Reliability.of(p, rng.random(p.shape) < p) for p in probability]
    whole = Reliability.sum_of(parts)
    assert whole.voxels.sum() == probability.size and whole.error() < 0.01
    assert Reliability.of(probability, rng.random(probability.shape) < probability**2).error() > 0.1


def test_counts_come_back_from_json_and_others_are_refused():
    made = Reliability.of(np.linspace(0, 1, 50), np.arange(50) > 20)
    again = Reliability.from_json(made.to_json())
    assert all(np.array_equal(getattr(again, name), getattr(made, name)) for name in made.to_json())
    with pytest.raises(ValueError, match=f"not {BINS} bins"):
        Reliability.from_json(made.to_json() | {"voxels": [1.0]})


def test_no_voxels_have_no_error():
    assert np.isnan(Reliability.of(np.zeros((0, 0, 0)), np.zeros((0, 0, 0))).error())
