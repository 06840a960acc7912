"""Scans of 512 x 512 through every stage: what small scans cannot show."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.cases.store import read_case, write_case
from data.phantom.scanner import SCANNERS, render_case
from data.samples import scan_box
from data.scans.grid import Grid
from data.splits.split import Split
from engine.stages import STAGES
from engine.train.loop import TrainSettings, fit, prepare_training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    image, label, spacing = render_case(SCANNERS[0], 1, 0, size="full")
    assert image.shape[1:] == (512, 512) and (label == 2).any()
    store = tmp_path_factory.mktemp("store")
    return read_case(
        write_case(
            store,
            "c",
            "one",
            image,
            label,
            patient="p",
            spacing=spacing,
            grid=Grid.plain(image.shape, spacing),
            source={},
        )
    )


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_clinical_scan_trains_every_stage(case, name, tmp_path: Path):
    stage = STAGES[name]
    settings = TrainSettings(epochs=1, width=8, workers=0)
    split = Split("none", (case.key,), (), ())
    training = prepare_training(stage, split, [case], [], settings, torch.device("cpu"), tmp_path)
    fit(training)
    assert (tmp_path / "best.pt").exists()
    sample = training.train_loader.dataset[1, 0]
    assert np.prod(sample.grid.shape) <= 1.15 * stage.sampling.max_voxels  # rounding up to 8 included


def test_the_first_stages_field_of_view_holds_the_pancreas(case):
    assert scan_box(case.shape, case.spacing, STAGES["pancreas_coarse"].sampling).contains(case.pancreas_box)
