"""A scan of clinical size, 512 x 512 pixels, goes through every stage; small scans would not show its faults."""

from pathlib import Path

import pytest
import torch

from data.augment import Augmentation
from data.cases.case import read_case, write_case
from data.phantom.scanner import SCANNERS, render_case
from data.samples import patch_shape, scan_box
from data.scans.grid import Grid
from data.splits.split import Split
from engine.device import Execution
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import STAGES
from engine.train.loop import train
from engine.train.training import prepare_training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    image, label, spacing = render_case(SCANNERS[0], 1, 0, size="full")
    assert image.shape[1:] == (512, 512) and (label == 2).any()
    store, grid = tmp_path_factory.mktemp("store"), Grid.plain(image.shape, spacing)
    return read_case(write_case(store, "c", "one", image, label, patient="p", spacing=spacing, grid=grid, source={}))


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_clinical_scan_trains_every_stage(case, name, tmp_path: Path):
    stage = STAGES[name]
    settings = TrainSettings(epochs=1, workers=0)
    training = prepare_training(
        stage=stage,
        split=Split("none", (case.key,), (), ()),
        recipe=Recipe(
            NetworkSettings(width=8), stage.method, stage.sampling, Augmentation(), settings, case.preparation
        ),
        train_cases=[case],
        validation_cases=[],
        execution=Execution(torch.device("cpu")),
        folder=tmp_path,
    )
    train(training)
    assert (tmp_path / "best.pt").exists()
    sample = training.boxes[1, 0]
    assert all(side <= most for side, most in zip(sample.grid.shape, patch_shape(stage.sampling), strict=True))


def test_the_box_of_the_first_stage_contains_the_pancreas(case):
    assert scan_box(case.image(), case.spacing, STAGES["pancreas_coarse"].sampling).contains(case.pancreas_box)
