from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.augment import Augmentation
from data.cases.preparation import Preparation
from data.samples import mask_box
from data.scans.boxes import Box
from engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from engine.infer import cascade
from engine.infer.cascade import StageModel, load_model, segment_scan, segment_stage, select_roi
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import STAGES, Stage
from models.dual_task_net import DualTaskNet, DualTaskOutput

SPACING = (2.0, 2.0, 2.0)


class AboveHU(nn.Module):
    """Segments what is at least as bright as ``low`` and darker than ``high``, and records the boxes it was shown."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.seen: list[tuple[int, ...]] = []
        self.low, self.high = (low + 100) / 340, (high + 100) / 340

    def forward(self, x):
        self.seen.append(tuple(x.shape[2:]))
        return DualTaskOutput(torch.where((x >= self.low) & (x < self.high), 9.0, -9.0), None, None, None)


def model(name: str, low: float, high: float) -> StageModel:
    stage = STAGES[name]
    stage = replace(stage, sampling=replace(stage.sampling, halve_below_mm=0.0))
    net = AboveHU(low, high)
    return StageModel(stage, net, "segmentation", 0.5, torch.device("cpu"), Path("run"), 1, "", Preparation())


@pytest.fixture
def scan() -> np.ndarray:
    """Pancreas of 100 HU with a tumour of 50 HU, and a bright bowel loop far away from it."""
    image = np.zeros((60, 100, 100), np.int16)
    image[20:40, 40:60, 30:70] = 100
    image[26:32, 46:54, 40:52] = 50
    image[0:6, 90:96, 90:96] = 100
    return image


def all_models() -> dict[str, StageModel]:
    return {name: model(name, *((40, 200) if "pancreas" in name else (40, 60))) for name in STAGES}


def test_the_cascade_finds_both_and_looks_only_in_the_box_before(scan):
    models = all_models()
    result = segment_scan(models, scan, SPACING)
    assert result.notes == ()
    assert np.array_equal(result.label > 0, (scan >= 40) & (np.indices(scan.shape)[0] >= 20))
    assert np.array_equal(result.label == 2, scan == 50)
    assert models["pancreas_fine"].net.seen[0] < models["pancreas_coarse"].net.seen[0]
    assert models["tumor_fine"].net.seen[-1] < models["tumor_coarse"].net.seen[0]


def test_no_pancreas_gives_an_empty_mask_and_says_so():
    result = segment_scan(all_models(), np.zeros((20, 40, 40), np.int16), SPACING)
    assert not result.label.any() and result.notes == ("no pancreas found: the mask is empty",)


def test_no_coarse_tumour_sends_the_fine_stage_to_the_whole_pancreas(scan):
    models = all_models() | {"tumor_coarse": model("tumor_coarse", 900, 999)}
    result = segment_scan(models, scan, SPACING)
    assert np.array_equal(result.label == 2, scan == 50)
    assert any("tumor fine looked around the mask of pancreas fine" in note for note in result.notes)


def test_a_coarse_speck_below_ten_voxels_is_no_tumour():
    coarse, pancreas = np.zeros((9, 9, 9), bool), np.ones((9, 9, 9), bool)
    coarse[4, 4, 4] = True
    masks = {"tumor_coarse": coarse, "pancreas_fine": pancreas}
    assert select_roi(STAGES["tumor_fine"], masks, (1, 1, 1))[0] is pancreas
    assert select_roi(STAGES["tumor_fine"], masks, (3, 3, 3)) == (coarse, "")
    assert select_roi(STAGES["pancreas_coarse"], {}, (1, 1, 1)) == (None, "")


class Rounds(nn.Module):
    """Segments in each round one of the given regions, whatever it is shown; a round is eight flips of one box."""

    def __init__(self, *regions: tuple[slice, slice, slice]):
        super().__init__()
        self.regions, self.boxes = regions, []

    def probability(self, image: np.ndarray, box: Box) -> np.ndarray:
        mask = np.zeros(image.shape, np.float32)
        mask[self.regions[min(len(self.boxes), len(self.regions) - 1)]] = 1
        self.boxes.append(box)
        return mask[box.slices]


def segment_in_rounds(monkeypatch, shape: tuple[int, int, int], *regions) -> tuple[np.ndarray, list[Box]]:
    """The mask of tumour fine where its successive rounds find these regions, and the boxes in which it looked."""
    image, fine = np.zeros(shape, np.int16), Rounds(*regions)
    cropped = []

    def keep_box(mask, spacing, margin_mm):
        cropped.append(mask_box(mask, spacing, margin_mm))
        return cropped[-1]

    monkeypatch.setattr(cascade, "mask_box", keep_box)
    monkeypatch.setattr(cascade, "box_probability", lambda *_, **__: fine.probability(image, cropped[-1]))
    roi = np.zeros(shape, bool)
    roi[5:35, 20:80, 20:80] = True
    return segment_stage(replace(model("tumor_fine", 0, 1), net=fine), image, SPACING, roi).mask, fine.boxes


def region(first: int, size: int) -> tuple[slice, slice, slice]:
    return (slice(16, 22), slice(first, first + size), slice(30, 30 + size))


SHAPE = (40, 100, 100)


def test_rounds_stop_when_two_of_them_agree(monkeypatch):
    mask, boxes = segment_in_rounds(monkeypatch, SHAPE, region(30, 30), region(30, 29), region(60, 10))
    assert len(boxes) == 2 and mask.sum() == 6 * 29 * 29


def test_rounds_that_never_agree_end_after_four(monkeypatch):
    regions = [region(20 + 8 * n, 30 - 6 * n) for n in range(6)]
    mask, boxes = segment_in_rounds(monkeypatch, SHAPE, *regions)
    assert len(boxes) == STAGES["tumor_fine"].sampling.rounds == 4 and mask.sum() == 6 * 12 * 12


def test_a_round_that_loses_the_tumour_does_not_count(monkeypatch):
    mask, boxes = segment_in_rounds(monkeypatch, SHAPE, region(30, 30), region(30, 1))
    assert len(boxes) == 2 and mask.sum() == 6 * 30 * 30


def test_a_round_in_the_same_box_is_not_repeated(monkeypatch):
    whole = (slice(5, 35), slice(20, 80), slice(20, 80))
    mask, boxes = segment_in_rounds(monkeypatch, SHAPE, whole, region(30, 10))
    assert len(boxes) == 1 and mask.sum() == 30 * 60 * 60


def test_a_stage_without_a_predecessors_mask_is_empty_and_says_so(scan):
    result = segment_stage(model("pancreas_fine", 40, 200), scan, SPACING, np.zeros(scan.shape, bool))
    assert not result.mask.any() and "the stage before it found nothing" in result.note


def test_a_model_is_computed_with_the_recipe_of_its_checkpoint_whatever_the_table_says(tmp_path):
    stage = STAGES["pancreas_fine"]
    run = tmp_path / stage.name / "west" / "2026_01_01_00_00_00"
    recipe = Recipe(
        network=NetworkSettings(width=8),
        method=replace(stage.method, ramp=0.25),
        sampling=replace(stage.sampling, hu_window=(-50.0, 200.0), margin_mm=(1.0, 2.0, 3.0), max_voxels=1000),
        augmentation=Augmentation(gamma=(1.0, 1.0)),
        training=TrainSettings(epochs=3),
        preparation=Preparation(crop="body", spacing=(3.0, 2.0, 2.0)),
    )
    facts = {"split": "west", "split_hash": "", "data_hash": "", "spacing_range": None, "epoch": 1}
    content = Checkpoint(
        stage=stage.name, recipe=recipe, net=net_of(stage).state_dict(), thresholds={"segmentation": 0.4}, **facts
    )
    save_checkpoint(run / "best.pt", content)
    assert load_checkpoint(run / "best.pt", stage.name).recipe == recipe
    model = load_model(tmp_path, stage.name, "west", torch.device("cpu"))
    assert (model.stage.sampling, model.stage.method) == (recipe.sampling, recipe.method)
    assert model.preparation == recipe.preparation and model.threshold == 0.4


def net_of(stage: Stage) -> DualTaskNet:
    return DualTaskNet(width=8, heads=stage.method.heads)


@pytest.mark.parametrize(
    ("spacing", "familiar"),
    [(SPACING, True), ((5.0, 1.6, 1.6), True), ((2.5, 0.5, 0.8), False), ((9.0, 1.6, 1.6), False)],
)
def test_voxels_unlike_those_of_the_training_are_told(scan, spacing, familiar):
    fine = replace(model("pancreas_fine", 40, 200), spacing_range=((2.5, 0.8, 0.8), (5.5, 1.6, 1.6)))
    note = segment_stage(fine, scan, spacing, scan > 0).note
    assert (note == "") == familiar
    assert familiar or ("unreliable" in note and "(2.5-5.5 x 0.8-1.6 x 0.8-1.6 mm)" in note)
