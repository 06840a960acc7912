"""Probabilities are averaged over the flips that a network was trained with, and over no others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.augment import Augmentation, draw_pose
from data.cases.case import read_case, write_case
from data.cases.preparation import Preparation
from data.samples import NetworkGrid
from data.scans.grid import Grid
from engine.checkpoint import Checkpoint
from engine.infer.box import FLIPS, NO_FLIPS, box_probability, flips_of
from engine.infer.cascade import segment_stage
from engine.infer.members import combine
from engine.infer.models import StageModel, build_model
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.train.validate import mean_dice, validation_dice
from tests.engine.train.test_validate import CPU, STAGE, Brightness

SPACING = (2.0, 2.0, 2.0)
LEFT_RIGHT = ((), (4,))


@pytest.fixture
def image() -> np.ndarray:
    """A bright block in soft tissue, at whose threshold the network finds one side more easily than the other."""
    found = np.random.default_rng(0).normal(20, 15, (16, 24, 32))
    found[4:12, 6:18, 4:28] += 70
    return found.astype(np.int16)


def model_of(**changes) -> StageModel:
    return replace(
        StageModel(STAGE, Brightness(), "segmentation", 0.5, CPU, STAGE.name, 1, "", Preparation()), **changes
    )


@pytest.mark.parametrize(
    ("probabilities", "flips"),
    [
        ((0.5, 0.5, 0.5), FLIPS),
        ((0, 0, 0), NO_FLIPS),
        ((0, 0, 0.1), LEFT_RIGHT),
        ((1, 0.5, 0), ((), (2,), (3,), (2, 3))),
    ],
)
def test_the_flips_of_a_training_are_those_with_a_probability(probabilities, flips):
    assert flips_of(probabilities) == flips
    augmentation = Augmentation(flip=probabilities, probability=0.0)
    grid, signs = NetworkGrid((8, 8, 8), (1.0, 1.0, 1.0)), set()
    for seed in range(60):
        pose = draw_pose(grid, SPACING, augmentation, torch.Generator().manual_seed(seed))
        signs.add(tuple(axis + 2 for axis in range(3) if pose.matrix[axis, axis] < 0))
    assert signs <= {*flips} and (max(probabilities) == 1 or signs == {*flips})


def test_a_model_is_averaged_over_the_flips_of_its_recipe(image):
    recipe = Recipe(
        NetworkSettings(8),
        STAGE.method,
        STAGE.sampling,
        Augmentation(flip=(0.0, 0.0, 0.5)),
        TrainSettings(epochs=1),
        Preparation(),
    )
    net = recipe.build_network(CPU)
    checkpoint = Checkpoint(STAGE.name, "c", "", "", recipe, None, 1, net.state_dict(), {"segmentation": 0.5})
    model = build_model(checkpoint, "best.pt", CPU, run=STAGE.name, sha256="")
    assert model.flips == LEFT_RIGHT and replace(model, fast=True).flips == NO_FLIPS
    for flips in (FLIPS, NO_FLIPS, LEFT_RIGHT):
        used = model_of(trained_flips=flips)
        result = segment_stage(used, image, SPACING, image > -500, keep=True)
        box = result.probability.box
        alone = box_probability(Brightness(), image[box.slices], SPACING, stage=STAGE, device=CPU, flips=flips)
        np.testing.assert_array_equal(result.probability.values, alone)


def test_an_ensemble_is_averaged_over_the_flips_that_all_its_members_know():
    parts = [model_of(trained_flips=flips) for flips in (FLIPS, LEFT_RIGHT)]
    assert combine(parts).flips == combine(parts[::-1]).flips == LEFT_RIGHT
    assert combine([model_of(), model_of()]).flips == FLIPS


def test_validation_averages_over_the_same_flips(image, tmp_path):
    label = np.zeros(image.shape, np.uint8)
    label[4:12, 6:18, 4:28] = 1
    facts = {"patient": "p", "spacing": SPACING, "grid": Grid.plain(label.shape, SPACING), "source": {}}
    case = read_case(write_case(tmp_path, "c", "one", image, label, **facts))
    tilted, level = (mean_dice(Brightness(), STAGE, [case], CPU, flips=flips) for flips in (NO_FLIPS, FLIPS))
    assert level.max() > tilted.max()  # the network is tilted along x
    assert mean_dice(Brightness(), STAGE, [case], CPU, flips=LEFT_RIGHT).max() > tilted.max()
    assert mean_dice(Brightness(), STAGE, [case], CPU, flips=((), (2,))).max() < level.max()
    best = validation_dice(Brightness(), STAGE, [case], CPU, flips=NO_FLIPS)
    assert best < validation_dice(Brightness(), STAGE, [case], CPU, flips=FLIPS)
