"""Epoch and threshold are chosen by the masks that are made in use."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.cases.case import Case, read_case, write_case
from data.samples import reference_box
from data.scans.grid import Grid
from engine.infer.box import segment_box
from engine.stages import STAGES
from engine.train.validate import EPOCH_THRESHOLDS, THRESHOLDS, choose_threshold, mean_dice, validation_dice
from models.dual_task_net import DualTaskOutput

CPU = torch.device("cpu")
STAGE = replace(STAGES["pancreas_fine"], sampling=replace(STAGES["pancreas_fine"].sampling, target_mm=(2.0, 2.0, 2.0)))


class Brightness(nn.Module):
    """A network whose probability is the windowed image itself, brighter towards one side of the box."""

    def forward(self, x):
        tilt = torch.linspace(-0.2, 0.2, x.shape[-1])
        return DualTaskOutput(torch.logit((x + tilt).clamp(1e-4, 1 - 1e-4)), None, None, None)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A gland of 150 HU in soft tissue, and a bright vessel beside it that only its size tells from the gland."""
    label = np.zeros((24, 40, 40), np.uint8)
    label[8:16, 12:24, 12:28] = 1
    image = np.random.default_rng(0).normal(20, 15, label.shape) + 130 * (label > 0)
    image[4:20, 30:33, 30:33] = 240
    grid = Grid.plain(label.shape, (3.0, 2.5, 2.5))
    facts = {"patient": "p", "spacing": (3.0, 2.5, 2.5), "grid": grid, "source": {}}
    return read_case(write_case(tmp_path, "c", "one", image.astype(np.int16), label, **facts))


def test_the_dice_is_that_of_the_masks_that_are_made_in_use(case):
    box = reference_box(case, STAGE.sampling)
    reference = case.label()[box.slices] > 0
    expected = []
    for threshold in THRESHOLDS:
        mask = segment_box(Brightness(), case.image()[box.slices], case.spacing, threshold, stage=STAGE, device=CPU)
        expected.append(2 * (mask & reference).sum() / (mask.sum() + reference.sum()))
    found = mean_dice(Brightness(), STAGE, [case], CPU)
    np.testing.assert_allclose(found, expected)
    assert found.max() > 0.9  # the tilt is averaged out by the flips, the vessel removed as a small component
    assert validation_dice(Brightness(), STAGE, [case], CPU) == max(
        dice for t, dice in zip(THRESHOLDS, expected, strict=True) if t in EPOCH_THRESHOLDS
    )


def test_of_equally_good_thresholds_the_one_nearest_to_one_half_is_chosen(case):
    chosen = choose_threshold(Brightness(), STAGE, [case, case], CPU)
    means = dict(zip(THRESHOLDS, mean_dice(Brightness(), STAGE, [case], CPU), strict=True))
    as_good = [t for t in THRESHOLDS if means[t] >= max(means.values()) - 0.005]
    assert chosen in as_good and all(abs(chosen - 0.5) <= abs(t - 0.5) for t in as_good)
    assert choose_threshold(Brightness(), STAGE, [], CPU) == 0.5
