"""How the weights move: the rate of learning and the average of the weights."""

import pytest
import torch

from engine.checkpoint import load_checkpoint
from engine.recipe import TrainSettings
from engine.train.loop import train
from tests.engine.train.test_train import read_losses, training_of


def test_the_rate_rises_and_falls_and_the_average_follows_the_weights(tmp_path):
    settings = TrainSettings(epochs=4, workers=0, validate_every=1, batch_size=1, lr=1e-3, warm_up=0.5, ema_decay=0.5)
    training = training_of(tmp_path, "pancreas_fine", settings)  # 4 epochs of 2 steps
    course = [training.net.state_dict()["seg.weight"].clone()]
    step = training.optimiser.step
    training.optimiser.step = lambda: (step(), course.append(training.net.state_dict()["seg.weight"].clone()))
    train(training)
    rows = read_losses(training.folder)
    assert [row["lr"] for row in rows] == pytest.approx(
        [1e-3 * rise * (1 - done / 8) ** 0.9 for rise, done in ((0.5, 1), (1, 3), (1, 5), (1, 7))]
    )
    assert all({"validation_dice", "validation_dice_average"} <= row.keys() for row in rows)
    assert training.best_dice == max(row[f"validation_dice{kind}"] for row in rows for kind in ("", "_average"))
    expected = course[0]
    for count, weight in enumerate(course[1:]):
        expected = expected.lerp(weight, 1 - min(0.5, (1 + count) / (10 + count)))
    assert torch.allclose(training.average.seg.weight, expected, atol=1e-7)


def test_the_better_of_weights_and_average_is_kept(tmp_path, monkeypatch):
    settings = TrainSettings(epochs=1, workers=0, validate_every=1, ema_decay=0.9)
    for name, better in (("weights", False), ("average", True)):
        training = training_of(tmp_path, "pancreas_fine", settings, name)
        scores = iter((0.5, 0.6 if better else 0.4))
        monkeypatch.setattr("engine.train.loop.validation_dice", lambda *_, scores=scores, **named: next(scores))
        train(training)
        last, best = (load_checkpoint(training.folder / f"{n}.pt", "pancreas_fine") for n in ("last", "best"))
        kept = last.average if better else last.net
        assert torch.equal(best.net["seg.weight"], kept["seg.weight"])
