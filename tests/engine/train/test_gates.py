"""What a training measures of the gradients of its terms, when, and what it says at the end."""

from dataclasses import replace

import pytest
import torch

import engine.train.step
from engine.recipe import TrainSettings
from engine.report.plots import draw_curves
from engine.train.gates import describe_gates, measures, shares_of
from engine.train.loader import read_batches
from engine.train.loop import train
from engine.train.step import prepare_step, train_step
from tests.engine.train.test_train import SETTINGS, generators, read_losses, training_of


def test_measuring_takes_its_share_of_the_time_and_the_last_step_is_measured(tmp_path):
    training = training_of(tmp_path, "tumor_coarse", replace(SETTINGS, epochs=600))
    measured = [done for done in range(training.steps) if measures(training, done)]
    assert training.steps == 1200 and measured == [239, 479, 719, 959, 1199]  # six terms
    plain = training_of(tmp_path, "tumor_coarse", replace(SETTINGS, epochs=600), variant="baseline")
    assert not any(measures(plain, done) for done in range(plain.steps))


def test_the_shares_of_a_run_are_recorded_drawn_and_judged(tmp_path, capsys):
    training = training_of(tmp_path, "tumor_coarse", SETTINGS, weights=["contrast=1e-9", "transform=20"])
    train(training)
    *before, last = read_losses(training.folder)
    assert not any(name.startswith("share_") for row in before for name in row)
    assert {name for name in last if name.startswith("share_")} == {
        f"share_{term}" for term in ("bce", "contrast", "sdf", "transform", "consistency")
    }
    assert last["share_contrast"] < 1e-6 and last["share_transform"] > 0.05 and -1 <= last["cosine_transform"] <= 1
    assert "norm_dice" not in last and "cosine_dice" not in last
    said = capsys.readouterr().out
    expected = "split none: the loss term contrast counts as absent (as if left out): its gradient was 0.00%"
    assert expected in said
    assert "transform counts as absent" not in said and "bce counts" not in said
    assert (training.folder / "curves.png").stat().st_size > 1000


def test_measuring_changes_nothing_of_what_is_computed(tmp_path, monkeypatch):
    found = []
    for always in (True, False):
        monkeypatch.setattr(engine.train.step, "measures", lambda *_, always=always: always)
        training = training_of(tmp_path, "tumor_fine", replace(SETTINGS, batch_size=2))
        training.net.train()
        torch.manual_seed(1)
        for _ in range(3):
            samples = next(read_batches(training.loader))
            terms = train_step(training, prepare_step(training, samples, generators(samples)), training.steps - 1)
        found.append((float(terms["loss"]), training.net.state_dict()))
        assert ("norm_slice" in terms) == always
    assert found[0][0] == found[1][0]
    assert all(torch.equal(weight, found[1][1][name]) for name, weight in found[0][1].items())


def test_a_step_that_is_measured_takes_no_record_which_goes_backward_only_once(tmp_path, monkeypatch):
    training = training_of(tmp_path, "tumor_fine", SETTINGS)
    samples = next(read_batches(training.loader))
    step, played = prepare_step(training, samples, generators(samples)), []
    training.forward = lambda images: played.append(len(images)) or training.net(images)
    for measured in (True, False):
        monkeypatch.setattr(engine.train.step, "measures", lambda *_, measured=measured: measured)
        train_step(training, step, training.steps - 1)
        assert bool(played) != measured


def test_without_a_target_there_is_nothing_to_compare_with():
    means = {"loss": 1.0, "norm_dice": 0.0, "cosine_dice": 0.0, "norm_contrast": 2.0, "cosine_contrast": 0.0}
    assert shares_of(means) == {"loss": 1.0, "cosine_contrast": 0.0, "share_contrast": None}
    assert shares_of(means | {"norm_dice": 4.0})["share_contrast"] == 0.5
    assert shares_of({"loss": 1.0}) == {"loss": 1.0}


@pytest.mark.parametrize(("early", "late", "absent"), [(0.5, 0.01, True), (0.01, 0.5, False), (0.5, "", False)])
def test_what_counts_is_measured_when_all_weights_have_risen(early, late, absent):
    history = [{"epoch": 1, "share_sdf": early}, {"epoch": 2}, {"epoch": 3, "share_sdf": late}, {"epoch": 4}]
    assert bool(describe_gates(history)) == absent


def test_curves_show_a_share_of_nothing(tmp_path):
    history = [{"epoch": n, "loss": 1.0, "share_sdf": 0.0 if n == 2 else None} for n in (1, 2, 3)]
    draw_curves(tmp_path / "curves.png", history)
    assert (tmp_path / "curves.png").exists()


def test_gates_of_a_training_with_an_average_are_finite(tmp_path):
    settings = TrainSettings(epochs=1, workers=0, ema_decay=0.9)
    training = training_of(tmp_path, "tumor_fine", settings, healthy=1)
    train(training)
    (row,) = read_losses(training.folder)
    assert row["share_slice"] > 0
