import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import engine.infer.box
from data.samples import Sampling
from engine.infer.box import FLIPS, box_probability, keep_large_components
from engine.stages import STAGES
from models.dual_task_net import DualTaskNet, DualTaskOutput

CPU = torch.device("cpu")
STAGE = STAGES["pancreas_fine"]


class Brightness(nn.Module):
    """A network whose probability is the windowed image itself."""

    def forward(self, x):
        return DualTaskOutput(torch.logit(x.clamp(1e-6, 1 - 1e-6)), None, None, None)


def hu(rng, shape):
    return rng.integers(-100, 240, shape).astype(np.int16)


@pytest.mark.parametrize("shape", [(3, 17, 20), (16, 24, 24), (33, 9, 41)])
def test_probabilities_lie_on_the_boxs_own_grid(shape):
    image = hu(np.random.default_rng(0), shape)
    probability = box_probability(Brightness(), image, (5, 1, 1), stage=STAGE, device=CPU)
    assert probability.dtype == np.float32 and probability.shape == shape
    assert np.abs(probability - (image + 100.0) / 340).max() < 1e-4


def test_halved_grids_come_back_to_the_same_place():
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in (20, 40, 44)], indexing="ij")
    image = (np.exp(-0.5 * (z**2 + y**2 + x**2)) * 300 - 80).astype(np.int16)
    sampling = Sampling(target="pancreas", roi="scan", halve_below_mm=3.0)
    probability = box_probability(
        Brightness(), image, (2.5, 0.8, 0.8), stage=replace(STAGE, sampling=sampling), device=CPU
    )
    inside = (slice(2, -2),) * 3  # at the very border the zeros beyond the box mix in
    assert (
        np.abs(probability - (image + 100.0) / 340)[inside].max() < 0.01
    )  # a shift of half a voxel would give 0.013 and more


def test_flips_average_eight_orientations_of_the_same_image(monkeypatch):
    torch.manual_seed(0)
    net = DualTaskNet(width=8, heads=("seg",)).eval()
    image = hu(np.random.default_rng(1), (8, 16, 16))
    averaged = box_probability(net, image, (1, 1, 1), stage=STAGE, device=CPU)
    flipped = box_probability(net, image[:, ::-1], (1, 1, 1), stage=STAGE, device=CPU)[:, ::-1]
    monkeypatch.setattr(engine.infer.box, "FLIPS", FLIPS[:1])
    once = box_probability(net, image, (1, 1, 1), stage=STAGE, device=CPU)
    assert np.allclose(averaged, flipped, atol=1e-5)
    assert not np.allclose(averaged, once, atol=1e-5)


def test_the_average_of_both_tasks_is_their_mean_and_as_steep_as_the_voxels_and_the_training():
    class Both(nn.Module):
        """p = 0.5 everywhere; a distance of a tenth of tau outside."""

        def forward(self, x):
            return DualTaskOutput(torch.zeros_like(x), torch.full_like(x, float(np.arctanh(0.1))), None, None)

    image = np.zeros((8, 8, 8), np.int16)
    for voxel, trained, k in ((0.9, 50.0, 50.0), (3.0, 50.0, 15.0), (0.9, 20.0, 20.0), (3.0, math.inf, math.inf)):
        stage = replace(STAGE, method=replace(STAGE.method, steepness=trained))
        probability = box_probability(Both(), image, (voxel,) * 3, stage=stage, device=CPU, readout="average")
        assert np.allclose(probability, (0.5 + 1 / (1 + np.exp(k * 0.1))) / 2, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_tiles_cover_every_voxel_once_in_sum(monkeypatch, axis):
    monkeypatch.setattr(engine.infer.box, "_affordable_length", lambda image: 72)
    monkeypatch.setattr(engine.infer.box, "FLIPS", FLIPS[:1])
    shape = [16, 16, 16]
    shape[axis] = 200
    image = hu(np.random.default_rng(2), shape)
    probability = box_probability(Brightness(), image, (1, 1, 1), stage=STAGE, device=CPU)
    assert np.abs(probability - (image + 100.0) / 340).max() < 1e-4


def test_components_are_kept_relative_to_the_largest():
    """Parts of 100, 60 and 60 voxels keep 220, where the release kept 160; one of 50 is not larger than half."""
    mask = np.zeros((40, 10, 10), bool)
    for start, count in ((0, 100), (10, 60), (20, 60), (30, 50)):
        mask[start].flat[:count] = True
    assert keep_large_components(mask).sum() == 220
    assert not keep_large_components(np.zeros((2, 2, 2), bool)).any()


def test_components_touch_across_corners():
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True
    assert keep_large_components(mask).sum() == 3
