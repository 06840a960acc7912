"""The threshold of the tumour score is in the checkpoint of a finished training, and inference finds it there."""

from dataclasses import replace

import pytest

from engine.checkpoint import load_checkpoint
from engine.infer.models import load_model
from engine.train import operating_point
from engine.train.loop import train
from tests.engine.train.test_train import CPU, SETTINGS, training_of


def test_a_finished_training_keeps_the_operating_point(tmp_path, monkeypatch):
    """The validation cases are one with a tumour, of score 0.8, and one that is said to have none, of score 0.2."""
    used = []

    def score(model, case):
        used.append((model.readout, model.threshold, model.net.training))
        return 0.8 if case.tumour_box else 0.2

    monkeypatch.setattr(operating_point, "score_case", score)
    training = training_of(tmp_path, "tumor_coarse", replace(SETTINGS, epochs=1, validate_every=1))
    case = training.validation[0]
    training.validation = [case, replace(case, tumour_box=None)]
    training.folder = tmp_path / "tumor_coarse" / "west" / "2026_01_01_00_00_00"
    training.folder.mkdir(parents=True)
    train(training)
    thresholds = load_checkpoint(training.folder / "best.pt", "tumor_coarse").thresholds
    assert thresholds["segmentation score"] == thresholds["average score"] == pytest.approx(0.5)
    assert used == [(name, thresholds[name], False) for name in ("segmentation", "average") for _ in range(2)]
    model = load_model(tmp_path, "tumor_coarse", "west", CPU, readout="average")
    assert (model.threshold, model.score_threshold) == (thresholds["average"], pytest.approx(0.5))
