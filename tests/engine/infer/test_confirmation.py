"""What tumour fine finds around a finding of tumour coarse has to be found around the pancreas, too."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.cases.case import read_case, write_case
from data.cases.preparation import Preparation
from data.samples import mask_box
from data.scans.grid import Grid
from engine.checkpoint import load_checkpoint
from engine.infer.box import FLIPS
from engine.infer.cascade import segment_stage
from engine.infer.confirmation import segment_confirmed
from engine.infer.models import StageModel, build_model
from engine.recipe import TrainSettings
from engine.stages import STAGES
from engine.train.loop import train
from engine.train.validate import dice, mean_dice
from models.dual_task_net import DualTaskOutput
from tests.engine.train.test_train import training_of

CPU = torch.device("cpu")
SPACING = (2.0, 2.0, 2.0)
STAGE = replace(STAGES["tumor_fine"], sampling=replace(STAGES["tumor_fine"].sampling, target_mm=SPACING))
TUMOUR, SWELLING, GLAND = 50, 150, 100  # HU


class FooledUpClose(nn.Module):
    """Segments what has the HU of a tumour, and in small boxes a swelling of the gland as well."""

    def forward(self, x):
        hu = x * 340 - 100
        found = abs(hu - TUMOUR) < 20
        if x.shape[-1] < 60:
            found = found | (abs(hu - SWELLING) < 20)
        return DualTaskOutput(torch.where(found, 9.0, -9.0), None, None, None)


@pytest.fixture
def scan() -> np.ndarray:
    """A long pancreas with a tumour at one end and a swelling at the other."""
    image = np.zeros((40, 60, 120), np.int16)
    image[10:30, 20:40, 20:100] = GLAND
    image[16:22, 26:34, 24:34] = TUMOUR
    image[14:26, 24:36, 80:96] = SWELLING
    return image


def model_of_the_scan() -> StageModel:
    return StageModel(STAGE, FooledUpClose(), "segmentation", 0.5, CPU, Path("run"), 1, "", Preparation())


def look(image: np.ndarray, roi: np.ndarray, *, confirms: bool) -> np.ndarray:
    return segment_stage(replace(model_of_the_scan(), confirms=confirms), image, SPACING, roi, image >= TUMOUR).mask


def test_what_is_taken_for_a_tumour_up_close_alone_does_not_count(scan):
    scan[scan == TUMOUR] = GLAND
    assert np.array_equal(look(scan, scan == SWELLING, confirms=False), scan == SWELLING)
    assert not look(scan, scan == SWELLING, confirms=True).any()


def test_a_tumour_elsewhere_is_found_where_the_stage_before_took_a_swelling_for_it(scan):
    model = replace(model_of_the_scan(), confirms=True)
    result = segment_stage(model, scan, SPACING, scan == SWELLING, scan >= TUMOUR)
    assert np.array_equal(result.mask, scan == TUMOUR)
    assert result.note == "tumor fine: 18.43 ml left out that were not found around the pancreas, too"


def test_what_is_refuted_in_two_boxes_is_left_out_once(scan):
    first, around = (mask_box(mask, SPACING, STAGE.sampling) for mask in (scan == SWELLING, scan >= TUMOUR))

    def segment(box):
        """Find a voxel of the swelling around the pancreas, and up close all of it."""
        mask = scan == SWELLING
        if box == around:
            mask[:] = False
            mask[20, 30, 88] = True
        return mask

    finding = segment_confirmed(segment, first, around, SPACING, STAGE.sampling)
    assert finding.box == first and not finding.mask.any()  # the second look comes back to it
    assert finding.left_out_ml == pytest.approx(np.count_nonzero(scan == SWELLING) * 0.008)


def test_no_box_is_segmented_twice(scan):
    looked = []

    def segment(box):
        looked.append(box)
        mask = np.zeros(scan.shape, bool)
        mask[box.slices] = (scan == SWELLING)[box.slices] & (len(looked) == 1)
        return mask

    first, around = (mask_box(mask, SPACING, STAGE.sampling) for mask in (scan == SWELLING, scan >= TUMOUR))
    finding = segment_confirmed(segment, first, around, SPACING, STAGE.sampling)
    assert len(set(looked)) == len(looked) and around in looked and not finding.mask.any()


def test_what_is_left_out_is_noted(scan):
    model = StageModel(STAGE, FooledUpClose(), "segmentation", 0.5, CPU, Path("run"), 1, "", Preparation())
    for confirms, note in (
        (False, ""),
        (True, "tumor fine: 18.43 ml left out that were not found around the pancreas, too; nothing found"),
    ):
        scan[scan == TUMOUR] = GLAND
        asked = replace(model, confirms=confirms)
        assert segment_stage(asked, scan, SPACING, scan == SWELLING, scan >= TUMOUR).note == note


def test_a_tumour_is_confirmed_with_the_outline_that_is_seen_up_close(scan):
    scan[22:24, 26:34, 24:34] = SWELLING  # is seen up close alone, but belongs to the tumour
    scan[14:26, 24:36, 80:96] = GLAND
    outline = (scan == TUMOUR) | (scan == SWELLING)
    assert np.array_equal(look(scan, scan == TUMOUR, confirms=True), outline)


def test_what_is_not_confirmed_is_no_candidate_beside_a_tumour_that_is(scan):
    scan[scan == SWELLING] = GLAND
    scan[16:22, 26:34, 42:50] = SWELLING  # so near that one box holds both
    model = replace(model_of_the_scan(), confirms=True)
    roi = (scan == TUMOUR) | (scan == SWELLING)
    result = segment_stage(model, scan, SPACING, roi, scan >= TUMOUR, keep=True)
    assert np.array_equal(result.mask, scan == TUMOUR) and "left out" in result.note
    found = result.probability.find_candidates(SPACING, scan >= TUMOUR)
    assert len(found.found) == 1
    assert np.array_equal(found.numbers > 0, (scan == TUMOUR)[result.probability.box.slices])


def test_a_stage_that_looks_around_the_pancreas_anyway_looks_once(scan):
    for confirms in (False, True):
        assert np.array_equal(look(scan, scan >= TUMOUR, confirms=confirms), scan == TUMOUR)


def test_the_validation_confirms_too(tmp_path, scan):
    """A tumour that is seen up close alone is missed, so that another epoch or threshold is chosen."""
    label = (scan > 0).astype(np.uint8)
    label[scan == SWELLING] = 2
    scan[scan == TUMOUR] = GLAND
    facts = {"patient": "p", "spacing": SPACING, "grid": Grid.plain(scan.shape, SPACING), "source": {}}
    case = read_case(write_case(tmp_path, "c", "one", scan, label, **facts))
    for negatives in (0.0, 0.25):  # of which the first stands for a network that is not asked
        found = dice(look(scan, label == 2, confirms=negatives > 0), label == 2, SPACING)
        assert found == (negatives == 0)
        assert mean_dice(FooledUpClose(), STAGE, [case], CPU, flips=FLIPS, negatives=negatives, thresholds=(0.5,)) == [
            found
        ]


@pytest.mark.parametrize("stage", ["tumor_coarse", "tumor_fine"])
@pytest.mark.parametrize("negatives", [0.0, 0.25])
def test_only_a_network_that_has_seen_boxes_without_a_tumour_is_asked_to_confirm(tmp_path, stage, negatives):
    settings = TrainSettings(epochs=1, workers=0, negatives=negatives)
    training = training_of(tmp_path, stage, settings)
    train(training)
    checkpoint = load_checkpoint(training.folder / "best.pt", stage)
    assert checkpoint.confirms == (stage == "tumor_fine" and negatives > 0)
    for confirms in (False, True):  # as it was trained, whatever this version would train
        changed = replace(checkpoint, confirms=confirms)
        assert build_model(changed, "best.pt", CPU, run=training.folder, sha256="").confirms == confirms
