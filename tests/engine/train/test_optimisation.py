"""How the weights move: the rate of learning and the average of the weights."""

from dataclasses import replace

import pytest
import torch

from engine.checkpoint import load_checkpoint
from engine.recipe import TrainSettings
from engine.train.loop import train
from engine.train.step import step_inputs, train_step
from engine.train.training import restore
from tests.engine.train.test_train import SETTINGS, read_losses, training_of


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


def test_after_a_step_without_python_between_the_layers_filters_are_standardised_again(tmp_path):
    """As on a GPU, where a record of the passes is played and the optimiser is fused."""
    training = training_of(tmp_path, "pancreas_fine", SETTINGS)
    training.optimiser = torch.optim.Adam(training.net.parameters(), lr=1e-2, fused=True)
    stem, net = training.net.stem, training.net.train()

    def play(images):
        kept = stem._kept
        output = net(images)
        stem._kept = kept
        return output

    training.forward = play
    for step in step_inputs(training, 1):
        with torch.no_grad():
            before = stem._filters()
        train_step(training, step, 0)
        with torch.no_grad():
            after = stem._filters()
        assert torch.equal(after, stem.standardised()) and not torch.equal(after, before)


@pytest.mark.parametrize("weights", [(), ("reciprocal=1",)])
def test_a_head_that_no_term_reads_yet_keeps_its_weights(tmp_path, weights):
    """Also where its gradients are 0, as those of a record are."""
    training = training_of(tmp_path, "tumor_fine", replace(SETTINGS, weight_decay=0.1), weights=weights)
    net = training.net.train()

    def with_zeros(images):
        output = net(images)
        return output._replace(seg=output.seg + 0 * sum(weight.sum() for weight in net.parameters()))

    training.forward = with_zeros
    step = next(step_inputs(training, 1))
    for done, moves in ((0, bool(weights)), (training.steps // 2, True)):
        before = {name: weight.clone() for name, weight in net.named_parameters()}
        train_step(training, step, done)
        moved = {name.split(".")[0] for name, weight in net.named_parameters() if not torch.equal(weight, before[name])}
        assert ("sdf" in moved) == moves and {"stem", "seg", "embedding", "slice"} <= moved


@pytest.mark.filterwarnings("ignore:for .* a meta parameter in the current model")
def test_a_run_goes_on_with_the_optimiser_of_its_device(tmp_path):
    """A fused one counts its steps on the device, another one on the CPU."""
    begun = training_of(tmp_path, "pancreas_fine", SETTINGS)
    train(begun)
    checkpoint = load_checkpoint(begun.folder / "last.pt", "pancreas_fine")
    for fused in (True, None):
        training = training_of(tmp_path, "pancreas_fine", SETTINGS, device=torch.device("meta"))
        for group in training.optimiser.param_groups:
            group["fused"] = fused
        restore(training, checkpoint)
        assert [group["fused"] for group in training.optimiser.param_groups] == [fused]
        steps = {state["step"].device.type for state in training.optimiser.state.values()}
        assert steps == {"meta" if fused else "cpu"}
