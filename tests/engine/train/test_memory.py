"""How a training script plans with the memory, and what it records of that."""

import csv
from dataclasses import replace

import pytest
import yaml

from engine.checkpoint import load_checkpoint
from engine.memory import Fit
from engine.train import command as train_command

SMALLER = (72.0, 88.0, 112.0)


@pytest.fixture
def options(study_store, tmp_path):
    """A training of a second, of the stage tumor_coarse."""
    small = ["--target-mm", "8,8,8", "--width", "8", "--epochs", "1", "--workers", "0"]
    return ["--store", str(study_store), "--path", str(tmp_path), "--data", "west", "--gpu", "cpu", *small]


@pytest.fixture
def small_gpu(monkeypatch):
    """Plan as on a GPU whose memory does not suffice for a patch; yields the arguments of each plan."""
    calls = []

    def fit_step(recipe, cases, device, *, keep_patch, plain):
        calls.append((recipe, keep_patch))
        sampling = recipe.sampling if keep_patch else replace(recipe.sampling, patch_mm=SMALLER)
        return Fit(sampling, len(calls) % 2, "    memory: planned")

    monkeypatch.setattr(train_command, "fit_step", fit_step)
    return calls


def losses(folder):
    with (folder / "losses.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def test_the_memory_of_a_step_is_printed_before_it_starts(options, capsys):
    assert train_command.main("tumor_coarse", [*options, "--dry-run"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "memory:" in line)
    assert line.startswith("    memory: 0.") and " GB at the peak of a step (4 images of " in line


def test_a_smaller_patch_is_recorded_and_kept_and_recomputed_features_change_nothing(
    options, small_gpu, tmp_path, capsys
):
    assert train_command.main("tumor_coarse", options) == 0  # recomputes
    assert train_command.main("tumor_coarse", options) == 0  # does not
    first, second = sorted((tmp_path / "tumor_coarse" / "west").iterdir())
    assert losses(first) == losses(second) and len(losses(first)) == 1
    for run in (first, second):
        assert tuple(yaml.safe_load((run / "settings.yaml").read_text())["sampling"]["patch_mm"]) == SMALLER
        assert load_checkpoint(run / "last.pt", "tumor_coarse").recipe.sampling.patch_mm == SMALLER
    capsys.readouterr()
    assert train_command.main("tumor_coarse", [*options, "--resume"]) == 0
    recipe, keep_patch = small_gpu[-1]
    assert recipe.sampling.patch_mm == SMALLER and keep_patch
    assert capsys.readouterr().out.endswith(f"{second}: already finished, 1 epochs\n")


def test_a_patch_that_was_typed_is_kept(options, small_gpu, tmp_path):
    typed = ["--sampling", "patch_mm=64,64,64", "--dry-run"]
    assert train_command.main("tumor_coarse", [*options, *typed]) == 0
    recipe, keep_patch = small_gpu[-1]
    assert recipe.sampling.patch_mm == (64.0, 64.0, 64.0) and keep_patch
