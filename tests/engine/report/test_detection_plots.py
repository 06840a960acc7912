"""The plots of detection and calibration are drawn for every kind of result, also for empty ones."""

import numpy as np
import pytest
from matplotlib import image

from engine.detection.calibration import Reliability
from engine.detection.summary import summarise_detection
from engine.report.detection import describe_detection
from engine.report.detection_plots import draw_calibration, draw_detection
from tests.engine.detection.scans import random_scans, scan

RESULTS = {
    "many": (random_scans(1, 30), 0.5),
    "no operating point": (random_scans(1, 30), None),
    "all positive": ([scan("a", {10.0: 0.9}), scan("b", {10.0: 0.0})], 0.5),
    "all negative": ([scan("a", {}, (0.4,)), scan("b")], 0.5),
    "nothing found": ([scan("a", {10.0: 0.0}), scan("b")], 0.5),
    "one": ([scan("a", {10.0: 0.5})], None),
}


@pytest.mark.parametrize("result", RESULTS)
def test_curves_of_every_kind_are_drawn_and_described(tmp_path, result):
    scans, threshold = RESULTS[result]
    summary = summarise_detection(scans, threshold)
    draw_detection(tmp_path / "d.png", scans, summary, "a title")
    assert image.imread(tmp_path / "d.png").std() > 0.05
    text = "\n".join(describe_detection(summary))
    assert "nan" not in text
    assert ("none was chosen" in text) == (threshold is None)
    assert ("AUROC            -" in text) == (result in ("all positive", "all negative", "one"))


@pytest.mark.parametrize("voxels", [10_000, 3, 0])
def test_calibration_is_drawn(tmp_path, voxels):
    probability = np.random.default_rng(0).random(voxels)
    draw_calibration(tmp_path / "c.png", Reliability.of(probability, probability > 0.5), "a title")
    assert image.imread(tmp_path / "c.png").std() > 0.05
