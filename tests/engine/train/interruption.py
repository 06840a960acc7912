"""A training that ends as by a power cut."""

import pytest

from engine.train.loop import train
from engine.train.step import train_step
from engine.train.training import Training


class PowerCut(Exception):
    """Ends a training between two steps."""


def train_until_the_third_epoch(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for two epochs and a step of the third."""
    steps = iter(range(100))

    def cut(*arguments):
        if next(steps) == 2 * len(training.loader) + 1:
            raise PowerCut
        return train_step(*arguments)

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr("engine.train.loop.train_step", cut)
        train(training)
