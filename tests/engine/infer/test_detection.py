"""Tumours get the highest probability in them, and a scan without one that of its pancreas."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.cases.preparation import Preparation
from data.scans.grid import Grid
from engine.infer.cascade import CascadeResult, StageModel
from engine.infer.detection import Detected, detect
from engine.infer.scan import PreparedScan, SegmentedScan
from engine.stages import STAGES
from models.dual_task_net import DualTaskOutput

SPACING = (2.0, 2.0, 2.0)
SHAPE = (24, 48, 48)


class ProbabilityOfHU(nn.Module):
    """Gives every voxel its HU, divided by 100, as its probability."""

    def forward(self, x):
        low, high = STAGES["tumor_fine"].sampling.hu_window
        return DualTaskOutput(torch.logit(((x * (high - low) + low) / 100).clamp(1e-4, 1 - 1e-4)), None, None, None)


def detected(image: np.ndarray, label: np.ndarray) -> Detected:
    stage = STAGES["tumor_fine"]
    stage = replace(stage, sampling=replace(stage.sampling, target_mm=SPACING))
    net = ProbabilityOfHU()
    model = StageModel(stage, net, "segmentation", 0.5, torch.device("cpu"), Path("run"), 1, "", Preparation())
    scan = PreparedScan(image, SPACING, Grid.plain(image.shape, SPACING), image.size, (), ())
    return detect({"tumor_fine": model}, SegmentedScan(scan, CascadeResult(label, ())))


@pytest.fixture
def scan() -> tuple[np.ndarray, np.ndarray]:
    """A pancreas of 20 HU with two tumours of 60 HU, whose brightest voxels have 90 and 70 HU, beside 95 HU outside."""
    image, label = np.zeros(SHAPE, np.int16), np.zeros(SHAPE, np.uint8)
    label[4:20, 10:30, 10:40], image[4:20, 10:30, 10:40] = 1, 20
    for x, brightest in ((14, 90), (30, 70)):
        label[8:12, 14:20, x : x + 6], image[8:12, 14:20, x : x + 6] = 2, 60
        image[10, 16, x + 2] = brightest
    image[10, 32:36, 20:24] = 95
    return image, label


def test_every_tumour_has_its_highest_probability_and_nothing_else_has_any(scan):
    image, label = scan
    likelihoods, likelihood = detected(image, label)
    assert likelihoods.shape == SHAPE and np.array_equal(likelihoods > 0, label == 2)
    assert np.allclose(likelihoods[8:12, 14:20, 14:20], 0.9, atol=0.01)
    assert np.allclose(likelihoods[8:12, 14:20, 30:36], 0.7, atol=0.01)
    assert likelihood == pytest.approx(0.9, abs=0.01)


def test_without_a_tumour_the_likelihood_is_the_highest_probability_in_the_pancreas(scan):
    image, label = scan
    likelihoods, likelihood = detected(image, np.minimum(label, 1))
    assert not likelihoods.any() and likelihood == pytest.approx(0.9, abs=0.01)


def test_without_a_pancreas_there_is_no_likelihood(scan):
    likelihoods, likelihood = detected(scan[0], np.zeros(SHAPE, np.uint8))
    assert not likelihoods.any() and likelihood == 0.0
