"""Experiment trackers watch a training and never stop it; these are the real packages, without a network."""

import contextlib
import importlib.util
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from data.common.errors import InputError
from data.common.records import read_json
from engine.stages import STAGES
from engine.train import trackers
from engine.train.loop import train
from engine.train.options import parse
from engine.train.run_log import RunLog, write_settings
from tests.engine.train.test_train import SETTINGS, read_losses, training_of

ROWS = [{"epoch": n, "lr": 0.1 / n, "loss": 1.0 / n, "validation_dice": 0.5 if n == 2 else None} for n in (1, 2, 3)]


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """Nothing of the user's configuration, and the folder in which MLflow would keep its file."""
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in trackers.PATIENCE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "2026_01_02_03_04_05").mkdir()
    folder = tmp_path / "2026_01_02_03_04_05"
    write_settings(folder, {"stage": "tumor_fine", "split": "west", "training": {"lr": 0.1, "seed": 1}})
    return folder


@pytest.fixture
def recorded(monkeypatch):
    """A tracker that remembers what it is asked for, and fails where its attribute says so."""
    recorded = SimpleNamespace(calls=[], fails="", remembers=True)

    class Recorder:
        def __init__(self, folder, known, name, settings):
            self.identity, self.remembers = {"run": known.get("run", "r1")}, recorded.remembers
            self.call("open", dict(known), name, settings["training"]["lr"])

        def call(self, what, *values):
            recorded.calls.append((what, *values))
            if recorded.fails == what:
                raise ConnectionError("no route\nto host")

        def log(self, row):
            self.call("log", row["epoch"])

        def close(self, *, failed):
            self.call("close", failed)

    monkeypatch.setitem(trackers.CLASSES, "wandb", Recorder)
    return recorded


def log(folder, rows, epochs_done=0):
    with RunLog(folder, epochs_done, "wandb") as made:
        for row in rows:
            made.add_epoch(row)


def test_a_resumed_run_goes_on_in_the_same_tracked_run(folder, recorded):
    log(folder, ROWS[:2])
    log(folder, ROWS[2:], epochs_done=2)
    title = "tumor_fine west 2026_01_02_03_04_05"
    assert recorded.calls == [
        *(("open", {}, title, 0.1), ("log", 1), ("log", 2), ("close", False)),
        *(("open", {"run": "r1"}, title, 0.1), ("log", 3), ("close", False)),
    ]


def test_a_tracker_that_starts_a_file_with_each_part_gets_all_epochs_again(folder, recorded):
    recorded.remembers = False
    log(folder, ROWS[:2])
    log(folder, ROWS[2:], epochs_done=2)
    assert [call[1] for call in recorded.calls if call[0] == "log"] == [1, 2, 1, 2, 3]


def test_a_run_that_is_tracked_from_its_resumption_on_gets_its_earlier_epochs(folder, recorded):
    with RunLog(folder) as made:
        for row in ROWS[:2]:
            made.add_epoch(row)
    log(folder, ROWS[2:], epochs_done=2)
    assert [call[1] for call in recorded.calls if call[0] == "log"] == [1, 2, 3]


@pytest.mark.parametrize("fails", ["open", "log", "close"])
def test_a_tracker_that_fails_is_named_once_and_the_table_is_complete(folder, recorded, capsys, fails):
    recorded.fails = fails
    log(folder, ROWS)
    printed = capsys.readouterr().out
    assert printed == ("note: wandb failed (ConnectionError: no route), so this run is not tracked from here on\n")
    assert [call[0] for call in recorded.calls].count(fails) == 1
    if fails == "log":  # the tracked run does not stay open
        assert recorded.calls[-1] == ("close", True)
    assert [row["epoch"] for row in read_losses(folder)] == [1, 2, 3]


def test_a_run_that_was_opened_and_cannot_be_recorded_is_closed(folder, recorded, capsys, monkeypatch):
    def full(path):
        raise OSError("the disk is full")

    monkeypatch.setattr(trackers, "replacing", full)
    tracking = trackers.Tracking("wandb", folder, [])
    tracking.log(ROWS[0])
    assert [call[0] for call in recorded.calls] == ["open", "close"] and recorded.calls[-1] == ("close", True)
    assert "the disk is full" in capsys.readouterr().out


@pytest.mark.parametrize("damaged", ["tracker.json", "settings.yaml"])
def test_damaged_records_end_the_tracking_only(folder, recorded, capsys, damaged):
    (folder / damaged).write_text("{")
    log(folder, ROWS)
    assert "note: wandb failed (ValueError" in capsys.readouterr().out and len(read_losses(folder)) == 3


def test_what_ends_a_training_ends_its_tracked_run_as_failed(folder, recorded):
    with contextlib.suppress(KeyboardInterrupt), RunLog(folder, 0, "wandb"):
        raise KeyboardInterrupt
    assert recorded.calls[-1] == ("close", True)


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_tracker_that_is_not_installed_is_refused_before_the_training(monkeypatch, name):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == name else find(wanted))
    with pytest.raises(InputError) as caught:
        parse(STAGES["tumor_fine"], ["--tracker", name])
    assert str(caught.value) == f"--tracker {name}: this package is not installed. Install it: pip install {name}"
    assert parse(STAGES["tumor_fine"], []).tracker == ""


def test_wandb_works_without_a_network_in_the_run_folder(folder, monkeypatch, capfd):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    log(folder, ROWS[:2])
    log(folder, ROWS[2:], epochs_done=2)
    assert capfd.readouterr() == ("", "")
    made = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    identifier = read_json(folder / trackers.RECORD)["wandb"]["run"]
    assert [path.stem for path in made] == [f"run-{identifier}"] * 2
    deadline = time.monotonic() + 20  # the process of wandb writes its file after it was told to finish
    while not all(b"loss" in path.read_bytes() for path in made) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert all(b"validation_dice" in path.read_bytes() for path in made)  # the second has the epochs of the first, too


def test_a_tracked_training_has_the_losses_of_any_other(tmp_path):
    losses = []
    for tracker in ("", "wandb"):
        training = training_of(tmp_path, "pancreas_fine", replace(SETTINGS, epochs=1), folder=f"run{tracker}")
        write_settings(training.folder, {"stage": "pancreas_fine", "split": "none"})
        train(training, tracker=tracker)
        (row,) = read_losses(training.folder)
        losses.append({name: value for name, value in row.items() if name != "seconds"})
    assert losses[0] == losses[1] and (tmp_path / "runwandb" / trackers.RECORD).exists()


def test_the_mode_of_wandb_is_the_users(folder, monkeypatch):
    import wandb

    asked = []
    monkeypatch.setattr(
        wandb, "init", lambda **given: asked.append(given) or SimpleNamespace(id="x", finish=lambda exit_code: 0)
    )
    log(folder, [])
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_DIR", "/elsewhere")
    log(folder, [])
    assert [(given["mode"], given["dir"], given["id"]) for given in asked] == [
        ("offline", str(folder), None),
        ("online", "/elsewhere", "x"),
    ]


@pytest.mark.slow
def test_mlflow_keeps_the_run_in_a_local_file(folder, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    with RunLog(folder, 0, "mlflow") as made:
        for row in ROWS[:2]:
            made.add_epoch(row)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with RunLog(folder, 2, "mlflow") as made:
        made.add_epoch(ROWS[2])
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name(trackers.PROJECT).experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "tumor_fine west 2026_01_02_03_04_05"
    assert run.data.params["training.lr"] == "0.1"
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in losses] == [(row["epoch"], row["loss"]) for row in ROWS]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "validation_dice")] == [2]
    assert not (tmp_path / "elsewhere" / "mlflow.db").exists()
