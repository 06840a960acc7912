"""The figures over scans: their intervals, the operating point, and lesions by their size."""

from dataclasses import asdict

import numpy as np
import pytest

from engine.detection import summary
from engine.detection.summary import choose_score_threshold, summarise_detection
from engine.report.detection import describe_detection
from tests.engine.detection.scans import random_scans, scan


def test_sizes_and_operating_point_by_hand():
    scans = [
        scan("a", {10.0: 0.9}),
        scan("b", {19.9: 0.4, 20.0: 0.8}),
        scan("c", {40.0: 0.0}, (0.6,)),
        scan("d", {}, (0.5,)),
        scan("e"),
    ]
    found = summarise_detection(scans, 0.5)
    assert (found.scans, found.positive, found.lesions) == (5, 3, 4)
    sizes = {name: (size.found, size.lesions) for name, size in found.sizes.items()}
    assert sizes == {"<20 mm": (1, 2), "20-40 mm": (1, 1), ">40 mm": (0, 1)}
    point = found.operating_point
    assert (point.sensitivity.value, point.specificity.value) == (1.0, 0.5)  # 0.5 is at the threshold: positive
    without = summarise_detection(scans)
    assert without.operating_point is None and without.sizes["<20 mm"].found == 2


def test_intervals_hold_the_figure_and_scans_of_a_patient_are_drawn_together():
    scans = random_scans(0, 40)
    alone = summarise_detection(scans, 0.5)
    for estimate in (alone.auroc, alone.ap, alone.lesion_ap, *alone.froc.values()):
        assert estimate.low < estimate.value < estimate.high
    pairs = [*scans, *(scan_of_same_patient(s) for s in scans)]
    together = summarise_detection(pairs, 0.5)
    assert asdict(together.auroc) == pytest.approx(asdict(alone.auroc))  # two equal scans of a patient tell nothing new
    apart = summarise_detection([*scans, *(scan_of_same_patient(s, patient=f"other {s.patient}") for s in scans)], 0.5)
    assert apart.auroc.high - apart.auroc.low < 0.8 * (alone.auroc.high - alone.auroc.low)


def scan_of_same_patient(first, **changes):
    return type(first)(**{**first.__dict__, "case": f"{first.case} again", **changes})


def test_what_is_not_defined_is_nan():
    positive = summarise_detection([scan("a", {10.0: 0.9}), scan("b", {10.0: 0.2})], 0.5)
    assert np.isnan(positive.auroc.value) and np.isnan(positive.operating_point.specificity.value)
    assert positive.lesion_ap.value == 1 and np.isnan(positive.sizes[">40 mm"].share.value)
    negative = summarise_detection([scan("a", {}, (0.3,)), scan("b")])
    assert all(np.isnan(e.value) for e in (negative.auroc, negative.ap, negative.lesion_ap, *negative.froc.values()))
    (single,) = [summarise_detection([scan("a", {10.0: 0.9}, (0.95,))])]
    assert single.ap.value == 1 and single.lesion_ap.value == 0.5 and np.isnan(single.ap.low)


def test_few_patients_and_figures_that_do_not_vary_have_no_interval():
    scans = [scan(str(i), {10.0: 0.9}) if i % 2 else scan(str(i), {}, (0.3,) if i % 4 else ()) for i in range(12)]
    found = summarise_detection(scans, 0.2)
    assert found.auroc.value == 1 and str(found.auroc) == "1.000"  # in every resample
    assert found.operating_point.specificity.low < found.operating_point.specificity.high
    assert describe_detection(found)[-1].startswith("There is no interval for fewer than 10 patients")
    few = summarise_detection(scans[:9], 0.2)
    assert np.isnan(few.operating_point.specificity.low) and 0 < few.operating_point.specificity.value < 1


def test_chunks_of_resamples_change_nothing(monkeypatch):
    scans = random_scans(3, 12)
    whole = summarise_detection(scans, 0.4)
    monkeypatch.setattr(summary, "CHUNK", 700)
    assert repr(summarise_detection(scans, 0.4)) == repr(whole)


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0], 0.55),
        ([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0], 0.25),  # 0.25 and 0.7 are equally good: the lower one misses none
        ([0.9, 0.0, 0.0, 0.0], [1, 1, 0, 0], 0.45),
        ([0.9, 0.8], [1, 1], None),
        ([0.9, 0.8], [0, 0], None),
        ([0.5, 0.5], [1, 0], None),
    ],
)
def test_the_threshold_of_the_score_has_the_best_sensitivity_and_specificity(scores, positive, expected):
    found = choose_score_threshold(scores, [bool(p) for p in positive])
    assert found == (expected if expected is None else pytest.approx(expected))
