"""What a training costs: steps are measured as they are made, and nothing of the measurement is left."""

import multiprocessing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.common.errors import InputError
from data.splits.split import Split
from engine.device import Execution
from engine.recipe import TrainSettings
from engine.stages import STAGES
from engine.train import command as train_command
from engine.train import cost as train_cost
from engine.train.cost import Cost, MeasuredEnough, Meter, StepClock, Work, format_duration, measure_cost, measuring
from tests.engine.train.test_train import CPU, make_cases, recipe_of


@pytest.fixture
def work(tmp_path) -> Work:
    cases = make_cases(tmp_path / "store")
    stage = STAGES["tumor_coarse"]
    stage = replace(stage, sampling=replace(stage.sampling, target_mm=(2.5, 2.0, 2.0)))
    recipe = recipe_of(stage, TrainSettings(epochs=4, workers=0))
    split = Split("none", tuple(case.key for case in cases[:2]), (cases[2].key,), ())
    return Work(stage, split, recipe, cases[:2], make_cases(tmp_path / "store", 1, lesion=False), cases[2:])


def test_the_cost_of_a_step_and_of_a_case_is_measured_and_nothing_is_left(work, tmp_path, monkeypatch):
    monkeypatch.setattr(train_cost, "ENOUGH_S", 0.0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    cost = measure_cost(work, Execution(CPU), tmp_path)
    assert 0 < cost.step_s < 60 and 0 < cost.case_s < 60
    assert (
        measure_cost(replace(work, validation_cases=work.negatives), Execution(CPU), tmp_path).case_s == 0
    )  # none can be scored
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_it_is_measured_in_another_process_that_reports_its_errors(work, tmp_path, monkeypatch):
    """The draws and the threads of this process stay as they were, and no temporary folder stays."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    (Path(work.train_cases[0].folder) / "image.npy").write_bytes(b"damaged")
    with measuring(CPU, 1) as meter:
        assert meter.machine.endswith(", 1 threads")
        with pytest.raises(InputError) as error:
            meter.measure(work)
    assert "image.npy" in str(error.value) and torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads and [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize(("code", "error"), [(-9, InputError), (1, RuntimeError)])
def test_a_process_that_was_killed_is_told_from_one_that_failed(code, error):
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(error):
        Meter(SimpleNamespace(join=lambda: None, exitcode=code), ours)


@pytest.mark.parametrize(("seconds", "counted", "step_s"), [([9, 5, 5], 2, 5.0), ([9, 1, 1, 1, 1, 1, 1, 1, 1], 8, 1.0)])
def test_the_clock_leaves_out_the_first_step_and_stops_when_it_has_enough(monkeypatch, seconds, counted, step_s):
    now = [0.0]
    monkeypatch.setattr(train_cost.time, "monotonic", lambda: now[0])
    clock = StepClock(CPU)
    with pytest.raises(MeasuredEnough):
        for duration in seconds:
            now[0] += duration
            clock()
    assert (clock.done, clock.step_s) == (counted, step_s)


def test_the_time_of_a_training_counts_every_validation():
    cost, settings = Cost(step_s=2.0, case_s=3.0), TrainSettings(epochs=12, validate_every=5)
    assert cost.seconds(100, 4, settings) == 100 * 2 + (3 + 1) * 4 * 3  # after 5, 10 and 12 epochs, and the thresholds


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "0.012 s"), (2.69, "2.7 s"), (89, "89 s"), (5000, "83 min"), (9000, "2.5 h")]
)
def test_durations_are_short(seconds, text):
    assert format_duration(seconds) == text


def test_a_dry_run_of_a_training_says_how_long_every_split_takes(study_store, tmp_path, measured_costs, capsys):
    options = ["--store", str(study_store), "--path", str(tmp_path), "--gpu", "cpu", "--dry-run", "--epochs", "900"]
    assert train_command.main("tumor_coarse", options) == 0
    (asked,) = measured_costs  # the splits do not differ in their steps
    assert asked.recipe.training.epochs == 900 and len(asked.train_cases) == 4
    wanted = "measured on a machine: 2.0 s a step, so about east 66 min, north 66 min, west 66 min; in total 3.3 h"
    assert wanted in capsys.readouterr().out


def test_a_run_records_its_machine(tmp_path, study_store, monkeypatch):
    written = {}
    monkeypatch.setattr(train_command, "write_settings", lambda folder, settings: written.update(settings))
    monkeypatch.setattr(train_command, "prepare_training", lambda **_: (_ for _ in ()).throw(InputError("a", "b", "c")))
    options = ["--store", str(study_store), "--path", str(tmp_path), "--gpu", "cpu", "--data", "west"]
    assert train_command.main("tumor_coarse", options) == 2
    assert written["machine"] == train_cost.describe_machine(CPU) and "threads" in written["machine"]
