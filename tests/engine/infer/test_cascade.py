"""The stages follow each other: where each looks, when it looks again, and what it says about a doubtful result."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.augment import Augmentation
from data.cases.preparation import Preparation
from engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from engine.infer import cascade
from engine.infer.cascade import segment_scan, segment_stage, select_roi
from engine.infer.components import keep_components
from engine.infer.models import StageModel, load_model
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import STAGES, Stage
from models.dual_task_net import DualTaskNet, DualTaskOutput

SPACING = (2.0, 2.0, 2.0)


class BetweenHU(nn.Module):
    """Segments what is at least as bright as ``low`` and darker than ``high``, and records the shapes of its boxes."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.seen: list[tuple[int, ...]] = []
        self.low, self.high = (low + 100) / 340, (high + 100) / 340

    def forward(self, x):
        self.seen.append(tuple(x.shape[2:]))
        return DualTaskOutput(torch.where((x >= self.low) & (x < self.high), 9.0, -9.0), None, None, None)


def model(name: str, low: float, high: float) -> StageModel:
    stage = STAGES[name]
    stage = replace(stage, sampling=replace(stage.sampling, target_mm=SPACING))
    net = BetweenHU(low, high)
    return StageModel(stage, net, "segmentation", 0.5, torch.device("cpu"), Path("run"), 1, "", Preparation())


@pytest.fixture
def scan() -> np.ndarray:
    """A pancreas of 100 HU with a tumour of 50 HU, and a bright bowel loop far away from it."""
    image = np.zeros((60, 100, 100), np.int16)
    image[20:40, 40:60, 30:70] = 100
    image[26:32, 46:54, 40:52] = 50
    image[0:6, 90:96, 90:96] = 100
    return image


def test_a_tumour_lies_in_the_pancreas(scan):
    """The stomach beside the gland looks like a tumour and is larger."""
    scan[20:40, 25:38, 30:60] = 50
    assert np.array_equal(
        segment_scan(all_models(), scan, SPACING).label == 2, (scan == 50) & (np.indices(scan.shape)[1] >= 40)
    )


def all_models() -> dict[str, StageModel]:
    return {name: model(name, *((40, 200) if "pancreas" in name else (40, 60))) for name in STAGES}


def test_the_cascade_finds_both_and_looks_only_around_the_earlier_mask(scan):
    models = all_models()
    result = segment_scan(models, scan, SPACING)
    assert result.notes == () and result.doubts == ()
    assert np.array_equal(result.label > 0, (scan >= 40) & (np.indices(scan.shape)[0] >= 20))
    assert np.array_equal(result.label == 2, scan == 50)
    assert models["pancreas_fine"].net.seen[0] < models["pancreas_coarse"].net.seen[0]
    assert models["tumor_fine"].net.seen[-1] < models["tumor_coarse"].net.seen[0]


def test_no_pancreas_gives_an_empty_mask_and_says_so():
    result = segment_scan(all_models(), np.zeros((20, 40, 40), np.int16), SPACING)
    assert not result.label.any() and result.doubts == ("no pancreas found: the mask is empty",)


def test_without_a_coarse_tumour_the_fine_stage_searches_the_whole_pancreas(scan):
    models = all_models() | {"tumor_coarse": model("tumor_coarse", 900, 999)}
    result = segment_scan(models, scan, SPACING)
    assert np.array_equal(result.label == 2, scan == 50)
    assert any("tumor fine looked around the mask of pancreas fine" in note for note in result.notes)


def test_a_coarse_mask_below_the_smallest_volume_is_no_tumour():
    coarse, pancreas = np.zeros((9, 9, 9), bool), np.ones((9, 9, 9), bool)
    coarse[4, 4, 4] = True
    masks = {"tumor_coarse": coarse, "pancreas_fine": pancreas}
    assert select_roi(STAGES["tumor_fine"], masks, (1, 1, 1))[0] is pancreas
    assert select_roi(STAGES["tumor_fine"], masks, (3, 3, 3)) == (coarse, "")
    assert select_roi(STAGES["pancreas_coarse"], {}, (1, 1, 1)) == (None, "")


class Rounds:
    """Replaces the network: ``find(image, number)`` gives the mask of the round ``number``; the boxes are recorded."""

    def __init__(self, monkeypatch, find: Callable[[np.ndarray, int], np.ndarray]) -> None:
        self.boxes: list[np.ndarray] = []
        self.find = find
        monkeypatch.setattr(cascade, "segment_box", self._segment)

    def _segment(self, net, image, spacing, threshold, *, out, **options) -> None:
        self.boxes.append(image)
        out[...] = keep_components(self.find(image, len(self.boxes)) > threshold)


VOXELS = np.arange(60 * 100 * 100, dtype=np.int32).reshape(60, 100, 100)  # an image in which every voxel is unique


def cube(centre: tuple[int, int, int], half: int) -> np.ndarray:
    """The numbers of the voxels in a cube around a voxel of the scan."""
    return VOXELS[tuple(slice(max(0, c - half), c + half + 1) for c in centre)]


def segment_fine(roi: np.ndarray) -> np.ndarray:
    """The mask of tumour fine, which looks up to four times."""
    fine = model("tumor_fine", 0, 1)
    assert fine.stage.sampling.rounds == 4
    return segment_stage(fine, VOXELS, SPACING, np.isin(VOXELS, roi)).mask


def test_a_stage_looks_again_until_two_rounds_agree(monkeypatch):
    found = [cube((30, 50, 50), 4), cube((30, 44, 50), 4), cube((30, 44, 50), 4), cube((30, 60, 50), 4)]
    rounds = Rounds(monkeypatch, lambda image, number: np.isin(image, found[number - 1]))
    mask = segment_fine(cube((30, 50, 40), 4))
    assert len(rounds.boxes) == 3
    assert np.array_equal(mask, np.isin(VOXELS, found[2]))


def test_rounds_agree_from_the_converged_dice_on(monkeypatch):
    """The second mask is a little larger than the first, so that the box moves but the Dice is high."""
    first, second = cube((30, 50, 50), 7), VOXELS[22:38, 43:58, 43:58]  # 15 and 16 slices: Dice 0.97
    rounds = Rounds(monkeypatch, lambda image, number: np.isin(image, (first, second, first)[number - 1]))
    mask = segment_fine(cube((30, 50, 50), 2))
    assert len(rounds.boxes) == 2 and np.array_equal(mask, np.isin(VOXELS, second))


def test_a_stage_never_looks_more_often_than_its_sampling_says(monkeypatch):
    """Every round finds a target somewhere else, so that no two of them agree."""
    rounds = Rounds(monkeypatch, lambda image, number: np.isin(image, cube((30, 50, 30 + 6 * number), 3)))
    mask = segment_fine(cube((30, 50, 30), 3))
    assert len(rounds.boxes) == 4
    assert np.array_equal(mask, np.isin(VOXELS, cube((30, 50, 54), 3)))


def test_a_stage_looks_once_if_its_sampling_has_one_round(monkeypatch):
    rounds = Rounds(monkeypatch, lambda image, number: np.isin(image, cube((30, 50, 60), 3)))
    segment_stage(model("tumor_coarse", 0, 1), VOXELS, SPACING, np.isin(VOXELS, cube((30, 50, 50), 3)))
    assert len(rounds.boxes) == 1


@pytest.mark.parametrize(("voxels", "replaces"), [(0, False), (12, False), (13, True)])
def test_a_round_that_loses_the_target_does_not_replace_the_mask(monkeypatch, voxels, replaces):
    """12 voxels of 8 mm3 are less than 0.1 ml."""
    found = [cube((30, 45, 50), 4), cube((30, 45, 50), 1).ravel()[:voxels]]
    rounds = Rounds(monkeypatch, lambda image, number: np.isin(image, found[min(number, 2) - 1]))
    mask = segment_fine(cube((30, 50, 50), 4))
    assert len(rounds.boxes) == (3 if replaces else 2)
    assert np.array_equal(mask, np.isin(VOXELS, found[replaces]))


def test_a_stage_does_not_look_into_the_same_box_again(monkeypatch):
    found = cube((30, 50, 50), 4)
    rounds = Rounds(monkeypatch, lambda image, number: np.isin(image, found))
    mask = segment_fine(found)
    assert len(rounds.boxes) == 1
    assert np.array_equal(mask, np.isin(VOXELS, found))


def test_a_first_round_that_finds_nothing_is_not_repeated(monkeypatch):
    rounds = Rounds(monkeypatch, lambda image, number: np.zeros(image.shape, bool))
    assert not segment_fine(cube((30, 50, 50), 4)).any() and len(rounds.boxes) == 1


def test_a_stage_after_an_empty_mask_is_empty_and_says_so(scan):
    result = segment_stage(model("pancreas_fine", 40, 200), scan, SPACING, np.zeros(scan.shape, bool))
    assert not result.mask.any() and "the stage before it found nothing" in result.note


def test_a_model_is_used_with_the_recipe_of_its_checkpoint_not_with_the_table_of_stages(tmp_path):
    stage = STAGES["pancreas_fine"]
    run = tmp_path / stage.name / "west" / "2026_01_01_00_00_00"
    recipe = Recipe(
        network=NetworkSettings(width=8),
        method=replace(stage.method, ramp=0.25),
        sampling=replace(stage.sampling, hu_window=(-50.0, 200.0), margin_mm=(1.0, 2.0, 3.0), target_mm=(3, 2, 2)),
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
    [(SPACING, True), ((5.0, 1.6, 1.6), True), ((2.5, 0.5, 0.8), True), ((9.0, 1.6, 1.6), False)],
)
def test_voxels_unlike_those_of_the_training_are_a_doubt(scan, spacing, familiar):
    fine = replace(model("pancreas_fine", 40, 200), spacing_range=((2.5, 0.8, 0.8), (5.5, 1.6, 1.6)))
    result = segment_stage(fine, scan, spacing, scan > 0)
    assert result.note == "" and (result.doubt == "") == familiar
    assert familiar or "coarser along z than those of the training (2.5-5.5 x 0.8-1.6 x 0.8-1.6 mm)" in result.doubt


def test_unfamiliar_voxels_are_said_once_a_scan_and_not_once_a_stage(scan):
    seen = ((2.5, 0.8, 0.8), (5.5, 1.6, 1.6))
    models = {name: replace(stage, spacing_range=seen) for name, stage in all_models().items()}
    (doubt,) = segment_scan(models, scan, (9.0, 1.6, 1.6)).doubts
    trained = "2.5-5.5 x 0.8-1.6 x 0.8-1.6 mm"
    assert doubt == f"the voxels of 9 x 1.6 x 1.6 mm are coarser along z than those of the training ({trained})"
    models["tumor_fine"] = replace(models["tumor_fine"], spacing_range=((5.0, 1.0, 1.0), (9.0, 2.0, 2.0)))
    (doubt,) = segment_scan(models, scan, (9.0, 1.6, 1.6)).doubts
    assert doubt.endswith(" mm) in pancreas coarse, pancreas fine, tumor coarse")
