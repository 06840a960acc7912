"""An ensemble decides by the mean of the probabilities, and says how far its members agree."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.cases.preparation import Preparation
from data.common.errors import InputError
from engine.infer.box import FLIPS, box_probability
from engine.infer.cascade import segment_scan, segment_stage
from engine.infer.ensemble import disagreement
from engine.infer.members import Share, choose_shares, combine, find_members
from engine.infer.models import StageModel
from engine.stages import STAGES
from models.dual_task_net import DualTaskOutput

CPU = torch.device("cpu")
SPACING = (2.0, 2.0, 2.0)


class Level(nn.Module):
    """The probability is ``low`` to ``high`` as the windowed image goes from 0 to 1."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x):
        return DualTaskOutput(torch.logit(self.low + (self.high - self.low) * x), None, None, None)


def model(name: str, low: float, high: float, threshold: float, run: str = "run") -> StageModel:
    stage = STAGES[name]
    stage = replace(stage, sampling=replace(stage.sampling, target_mm=SPACING, rounds=1))
    return StageModel(stage, Level(low, high), "segmentation", threshold, CPU, Path(run), 1, "", Preparation())


@pytest.fixture
def scan() -> np.ndarray:
    """HU that become 0.25 with a block of 0.75."""
    image = np.full((24, 40, 40), -15, np.int16)
    image[8:16, 12:28, 12:28] = 155
    return image


def test_the_mean_of_the_probabilities_is_compared_with_the_mean_of_the_thresholds(scan):
    """Alone, the first finds the block and the second nothing; the mean in the block is 0.6, the threshold 0.65."""
    parts = [model("tumor_coarse", 0.0, 1.0, 0.5), model("tumor_coarse", 0.3, 0.5, 0.8)]
    roi = scan > 100
    alone = [segment_stage(part, scan, SPACING, roi, keep=True) for part in parts]
    assert [result.mask.any() for result in alone] == [True, False]
    together = combine(parts)
    assert together.threshold == pytest.approx(0.65)
    result = segment_stage(together, scan, SPACING, roi, keep=True)
    box, values, opinions = result.probability
    both = np.stack([a.probability.values for a in alone])
    np.testing.assert_allclose(values, both.mean(0), atol=1e-6)
    np.testing.assert_allclose(opinions.spread, both.std(0), atol=1e-6)
    assert opinions.disagreement == 1.0  # one member finds something, and one nothing
    assert not result.mask.any()
    lower = replace(together, threshold=0.55)
    assert np.array_equal(segment_stage(lower, scan, SPACING, roi).mask[box.slices], values > 0.55)


def test_members_that_are_the_same_give_what_one_gives(scan):
    models = {name: model(name, 0.0, 1.0, 0.5) for name in STAGES}
    alone = segment_scan(models, scan, SPACING, keep=("tumor_fine",))
    assert alone.label.any() and alone.candidates.score == pytest.approx(0.75, abs=1e-3)
    together = {name: combine([one, one, one]) for name, one in models.items()}
    result = segment_scan(together, scan, SPACING, keep=("tumor_fine",))
    assert np.array_equal(result.label, alone.label) and [*result.probabilities] == ["tumor_fine"]
    opinions = result.probabilities["tumor_fine"].opinions
    assert opinions.disagreement == 0 and opinions.spread.max() < 1e-6
    assert alone.probabilities["tumor_fine"].opinions is None


def test_a_probability_that_is_kept_is_that_of_the_box(scan):
    one = model("tumor_fine", 0.0, 1.0, 0.5)
    result = segment_stage(one, scan, SPACING, scan > 100, keep=True)
    box, values, _ = result.probability
    expected = box_probability(one.net, scan[box.slices], SPACING, stage=one.stage, device=CPU, flips=FLIPS)
    assert np.array_equal(values, expected) and np.array_equal(result.mask[box.slices], values > 0.5)
    assert segment_stage(one, scan, SPACING, scan > 100).probability is None
    nothing = segment_stage(one, scan, SPACING, np.zeros(scan.shape, bool), keep=True)
    assert nothing.probability.values.size == 0 and nothing.probability.find_candidates(SPACING, scan > 0).score == 0


def test_disagreement_is_one_minus_the_mean_dice_of_two():
    masks = [np.zeros((1, 1, 8), bool) for _ in range(3)]
    assert disagreement(masks) == 0
    for mask, columns in zip(masks, ((0, 4), (2, 6), (0, 4)), strict=True):
        mask[..., slice(*columns)] = True
    assert disagreement(masks) == pytest.approx(1 - (0.5 + 1 + 0.5) / 3)


def test_what_sees_other_boxes_is_refused():
    first = model("tumor_fine", 0, 1, 0.5)
    finer = replace(first, stage=replace(first.stage, sampling=replace(first.stage.sampling, target_mm=(1, 1, 1))))
    for other in (finer, replace(first, preparation=Preparation(spacing=(3.0, 2.0, 2.0)))):
        with pytest.raises(InputError) as caught:
            combine([first, replace(other, run=Path("other"))])
        assert caught.value.path == Path("other")


def test_an_ensemble_knows_the_voxels_and_the_operating_points_of_all_its_members():
    first = replace(
        model("tumor_fine", 0, 1, 0.5),
        spacing_range=[[1.0, 0.7, 0.7], [3.0, 0.9, 0.9]],
        score_threshold=0.4,
        sha256="1",
    )
    second = replace(first, spacing_range=[[2.0, 0.6, 0.6], [5.0, 0.8, 0.8]], score_threshold=0.8, sha256="2")
    both = combine([first, second])
    assert both.spacing_range == [[1.0, 0.6, 0.6], [5.0, 0.9, 0.9]]
    assert both.score_threshold == pytest.approx(0.6) and [member.sha256 for member in both.members] == ["1", "2"]
    unknown = combine([first, replace(second, spacing_range=None, score_threshold=None)])
    assert unknown.spacing_range is None and unknown.score_threshold is None


def test_an_ensemble_confirms_what_it_finds_if_all_members_have_learned_to():
    asked, not_asked = (replace(model("tumor_fine", 0, 1, 0.5), confirms=confirms) for confirms in (True, False))
    for parts, expected in (((asked, asked), True), ((asked, not_asked), False), ((not_asked, asked), False)):
        assert combine(parts).confirms == expected


def test_an_ensemble_is_synthetic_only_if_all_members_are():
    real, synthetic = (replace(model("tumor_fine", 0, 1, 0.5), only_synthetic=only) for only in (False, True))
    assert combine([synthetic, synthetic]).only_synthetic and not combine([synthetic, real]).only_synthetic


def finished(root: Path, split: str, *times: str) -> None:
    for time in times:
        run = root / "tumor_fine" / split / f"2026_01_{time}_00_00_00"
        run.mkdir(parents=True)
        (run / "best.pt").touch()


def test_members_are_the_newest_finished_runs(tmp_path):
    finished(tmp_path, "north", "01", "03", "05")
    finished(tmp_path, "west", "02")
    (tmp_path / "tumor_fine" / "north" / "2026_01_09_00_00_00").mkdir()  # not finished
    stage = STAGES["tumor_fine"]

    def days(*shares: Share, until: str | None = None) -> list[tuple[str, str]]:
        return [(split, time[8:10]) for split, time in find_members(tmp_path, stage, shares, until=until)]

    assert days(Share("north", 2), Share("west")) == [("north", "03"), ("north", "05"), ("west", "02")]
    assert days(Share("north", 2), until="2026_01_03_00_00_00") == [("north", "01"), ("north", "03")]
    with pytest.raises(InputError, match=r"3 finished runs .* asks for 4\. Ask for fewer"):
        days(Share("north", 4))
    with pytest.raises(InputError, match="no trained tumor fine model"):
        days(Share("south"))


def test_shares_are_read_and_all_stands_for_every_complete_split():
    assert [Share.parse(text) for text in ("north", "none=3")] == [Share("north", 1), Share("none", 3)]
    assert choose_shares([Share("all", 2)], ["north", "west"]) == [Share("north", 2), Share("west", 2)]
    for shares, complete, problem in (
        ([Share("north")], [], "a single network"),
        ([Share("all")], [], "no split has finished models"),
        ([Share("all"), Share("west")], ["north", "west"], "names the split west twice"),
    ):
        with pytest.raises(InputError, match=problem):
            choose_shares(shares, complete)


@pytest.mark.parametrize("text", ["", "north=", "north=0", "north=-1", "=2", "a=b=2"])
def test_what_is_no_share_is_refused(text, capsys):
    from engine.infer import predict

    with pytest.raises(SystemExit):
        predict.parse(["scan.nii.gz", "-o", "out", "--ensemble", text])
    assert "SPLIT=N" in capsys.readouterr().err
