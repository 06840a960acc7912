"""Epoch and threshold are chosen by the masks that are made in use."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.cases.case import Case, read_case, write_case
from data.cases.preparation import Preparation
from data.samples import reference_box
from data.scans.grid import Grid
from engine.infer.box import FLIPS, segment_box
from engine.infer.cascade import segment_stage
from engine.infer.models import StageModel
from engine.stages import STAGES
from engine.train.validate import EPOCH_THRESHOLDS, THRESHOLDS, choose_threshold, dice, mean_dice, validation_dice
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
        mask = segment_box(
            Brightness(), case.image()[box.slices], case.spacing, threshold, stage=STAGE, device=CPU, flips=FLIPS
        )
        expected.append(2 * (mask & reference).sum() / (mask.sum() + reference.sum()))
    found = mean_dice(Brightness(), STAGE, [case], CPU, flips=FLIPS)
    np.testing.assert_allclose(found, expected)
    assert found.max() > 0.9  # the tilt is averaged out by the flips, the vessel removed as a small component
    assert validation_dice(Brightness(), STAGE, [case], CPU, flips=FLIPS) == max(
        dice for t, dice in zip(THRESHOLDS, expected, strict=True) if t in EPOCH_THRESHOLDS
    )


def test_a_stage_that_looks_several_times_is_judged_by_its_last_look(tmp_path):
    """Only the second round sees the end of a bright structure of which the reference is a part."""
    label = np.zeros((24, 40, 96), np.uint8)
    label[8:16, 12:28, 20:36] = 2
    image = np.where(label > 0, 150, 0)
    image[8:16, 12:28, 36:80] = 150
    facts = {"patient": "p", "spacing": (2.0, 2.0, 2.0), "grid": Grid.plain(label.shape, (2.0, 2.0, 2.0)), "source": {}}
    case = read_case(write_case(tmp_path, "c", "one", image.astype(np.int16), label, **facts))
    scores = []
    for rounds in (1, 4):
        stage = replace(TUMOUR_STAGE, sampling=replace(TUMOUR_STAGE.sampling, rounds=rounds))
        model = StageModel(stage, Brightness(), "segmentation", 0.5, CPU, tmp_path, 1, "", Preparation())
        mask = segment_stage(model, case.image(), case.spacing, case.label() == 2, case.label() > 0).mask
        scores.append(mean_dice(Brightness(), stage, [case], CPU, flips=FLIPS, thresholds=(0.5,))[0])
        assert scores[-1] == dice(mask, case.label() == 2, case.spacing)
    assert scores[1] < scores[0] < 1


def test_what_lies_outside_of_the_pancreas_does_not_count(tmp_path):
    """A bright organ beside the gland, larger than the tumour, would otherwise take its place."""
    case = tumour_case(tmp_path, "one", 0.9, 0.0)
    image = np.array(case.image())
    image[8:22, 31:40, 8:32] = 240
    label, facts = np.array(case.label()), {"spacing": (2.0,) * 3, "grid": case.grid, "source": {}}
    beside = read_case(write_case(tmp_path, "c", "beside", image, label, patient="q", **facts))
    free = read_case(
        write_case(tmp_path, "c", "free", np.where(label == 2, -100, image), label > 0, patient="r", **facts)
    )
    scores = mean_dice(Windowed(), TUMOUR_STAGE, [beside, free], CPU, flips=FLIPS, negatives=0.5, thresholds=(0.5,))
    assert scores[0] > 0.9


def test_of_equally_good_thresholds_the_one_nearest_to_one_half_is_chosen(case):
    chosen = choose_threshold(Brightness(), STAGE, [case, case], CPU, flips=FLIPS)
    means = dict(zip(THRESHOLDS, mean_dice(Brightness(), STAGE, [case], CPU, flips=FLIPS), strict=True))
    as_good = [t for t in THRESHOLDS if means[t] >= max(means.values()) - 0.005]
    assert chosen in as_good and all(abs(chosen - 0.5) <= abs(t - 0.5) for t in as_good)
    assert choose_threshold(Brightness(), STAGE, [], CPU, flips=FLIPS) == 0.5


TUMOUR_STAGE = replace(STAGES["tumor_fine"], sampling=replace(STAGES["tumor_fine"].sampling, target_mm=(2.0, 2.0, 2.0)))


def tumour_case(store: Path, name: str, lesion: float, pseudo_lesion: float) -> Case:
    """A gland in which lesions appear as bright as the given probabilities; the second one is no tumour. 0 is none."""
    label = np.zeros((24, 40, 40), np.uint8)
    label[6:18, 10:30, 8:32] = 1
    image = np.full(label.shape, -100.0)
    for probability, box in ((lesion, np.s_[8:14, 12:20, 10:16]), (pseudo_lesion, np.s_[10:16, 18:26, 24:30])):
        if probability:
            image[box] = -100 + 340 * probability
    if lesion:
        label[8:14, 12:20, 10:16] = 2
    facts = {"patient": name, "spacing": (2.0,) * 3, "grid": Grid.plain(label.shape, (2.0,) * 3), "source": {}}
    return read_case(write_case(store, "c", name, image.astype(np.int16), label, **facts))


class Windowed(nn.Module):
    """A network whose probability is the windowed image itself."""

    def forward(self, x):
        return DualTaskOutput(torch.logit(x.clamp(1e-4, 1 - 1e-4)), None, None, None)


def test_the_threshold_spares_the_cases_without_a_tumour(tmp_path):
    """Lesions are seen with 0.9, and what is no tumour with 0.62: only thresholds above that leave it out."""
    cases = [tumour_case(tmp_path, "with", 0.9, 0.0), tumour_case(tmp_path, "without", 0.0, 0.62)]
    assert choose_threshold(Windowed(), TUMOUR_STAGE, cases, CPU, flips=FLIPS) == 0.5
    chosen = choose_threshold(Windowed(), TUMOUR_STAGE, cases, CPU, flips=FLIPS, negatives=0.25)
    assert 0.6 < chosen < 0.9
    means = dict(
        zip(THRESHOLDS, mean_dice(Windowed(), TUMOUR_STAGE, cases, CPU, flips=FLIPS, negatives=0.25), strict=True)
    )
    found = dict(zip(THRESHOLDS, mean_dice(Windowed(), TUMOUR_STAGE, cases[:1], CPU, flips=FLIPS), strict=True))
    assert means[0.5] == pytest.approx(0.75 * found[0.5])
    assert means[chosen] == pytest.approx(0.75 * found[chosen] + 0.25)
    score = validation_dice(Windowed(), TUMOUR_STAGE, cases, CPU, flips=FLIPS, negatives=0.25)
    assert score == max(means[threshold] for threshold in EPOCH_THRESHOLDS)


def test_many_cases_without_a_tumour_weigh_no_more_than_one(tmp_path):
    cases = [tumour_case(tmp_path, "with", 0.9, 0.0), tumour_case(tmp_path, "without", 0.0, 0.0)]
    few, many = (
        mean_dice(Windowed(), TUMOUR_STAGE, c, CPU, flips=FLIPS, negatives=0.25) for c in (cases, [*cases, cases[1]])
    )
    np.testing.assert_allclose(few, many)
    assert max(few) > 0.9
    # Where no such case is known, the mean is that of the others.
    alone = mean_dice(Windowed(), TUMOUR_STAGE, cases[:1], CPU, flips=FLIPS, negatives=0.25)
    np.testing.assert_allclose(few, 0.75 * alone + 0.25)


def test_less_than_the_smallest_tumour_counts_as_none():
    mask, empty = np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
    mask[0, 0, :3] = True
    assert dice(mask, empty, (1.0, 1.0, 3.9)) == 1 and dice(mask, empty, (1.0, 1.0, 4.0)) == 0
    assert dice(empty, empty, (1.0, 1.0, 1.0)) == 1 and dice(empty, mask, (1.0, 1.0, 1.0)) == 0
