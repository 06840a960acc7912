"""The table of voxel sizes: the same anatomy on other voxels, segmented and scored there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.cases.preparation import Preparation
from engine.infer.models import StageModel
from engine.stages import STAGES
from experiments.voxel_sizes import ROWS, Scan, score, table
from models.dual_task_net import DualTaskOutput


class Bright(nn.Module):
    """Segments what is brighter than 80 HU."""

    def forward(self, x):
        return DualTaskOutput(40 * (x - 180 / 340), None, None, None)


@pytest.fixture
def scan() -> Scan:
    """A gland of 150 HU with a lesion in soft tissue, on voxels of 2.5 x 1.2 x 1.2 mm."""
    z, y, x = np.indices((24, 40, 40)) - np.array([12, 20, 20]).reshape(3, 1, 1, 1)
    gland = (z * 2.5 / 18) ** 2 + (y * 1.2 / 14) ** 2 + (x * 1.2 / 17) ** 2 < 1
    label = gland.astype(np.uint8)
    label[10:14, 18:24, 18:24] = 2
    return Scan(np.where(gland, 150, 20).astype(np.int16), label, (2.5, 1.2, 1.2))


def centre_of_gland(scan: Scan) -> np.ndarray:
    """The centre of the gland in mm from the corner of the scan."""
    return (np.argwhere(scan.label > 0).mean(axis=0) + 0.5) * scan.spacing


@pytest.mark.parametrize("row", ROWS)
def test_every_row_holds_the_same_anatomy_and_a_stage_that_sees_mm_finds_it(scan, row):
    changed = ROWS[row](scan)
    assert changed.image.shape == changed.label.shape and changed.image.dtype == np.int16
    for code in (1, 2):
        volumes = [np.count_nonzero(s.label >= code) * np.prod(s.spacing) for s in (scan, changed)]
        assert volumes[1] == pytest.approx(volumes[0], rel=0.12 if code == 1 else 0.3)
    np.testing.assert_allclose(centre_of_gland(changed), centre_of_gland(scan), atol=0.3)
    stage = replace(
        STAGES["pancreas_fine"], sampling=replace(STAGES["pancreas_fine"].sampling, target_mm=(2.5, 1.2, 1.2))
    )
    model = StageModel(stage, Bright(), "segmentation", 0.5, torch.device("cpu"), Path("run"), 1, "", Preparation())
    assert score(model, changed) > 0.93


def test_the_table_compares_with_the_first_row_and_leaves_out_what_is_undefined():
    dice = np.full((2, len(ROWS)), 0.8)
    dice[:, 1], dice[1, 2] = (0.7, 0.5), np.nan
    lines = table(dice).splitlines()
    assert len(lines) == 1 + len(ROWS)
    assert lines[1].split()[-3:] == ["2", "0.800", "+0.000"]
    assert lines[2].split()[-3:] == ["2", "0.600", "-0.200"] and lines[3].split()[-3:] == ["1", "0.800", "+0.000"]
