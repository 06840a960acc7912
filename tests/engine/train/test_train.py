"""The training loop on boxes that it can learn in seconds."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from data.augment import Augmentation
from data.cases.case import Case, read_case, write_case
from data.cases.preparation import Preparation
from data.cases.store import read_store
from data.common.errors import InputError
from data.common.files import REPOSITORY, exclusive_lock
from data.scans.grid import Grid
from data.splits.frozen import frozen_splits, write_splits
from data.splits.split import Split
from engine.checkpoint import FORMAT, Checkpoint, create_run, find_run, load_checkpoint, save_checkpoint
from engine.device import Execution
from engine.infer.box import FLIPS
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import STAGES, VARIANTS, Stage, with_variant
from engine.train import command as train_command
from engine.train.loader import read_batches
from engine.train.loop import train
from engine.train.run_log import write_settings
from engine.train.step import prepare_step, train_step
from engine.train.training import prepare_training
from engine.train.validate import choose_threshold
from tests.conftest import edit_manifest
from tests.engine.train.interruption import train_until_the_third_epoch

CPU = torch.device("cpu")
SETTINGS = TrainSettings(epochs=4, workers=0, batch_size=1, lr=2e-3, warm_up=0.0, validate_every=2)


def make_cases(store: Path, count: int = 3, lesion: bool = True) -> list[Case]:
    """A bright organ with a dark lesion in it, or without one, in noise."""
    cases = []
    for index in range(count):
        rng = np.random.default_rng(index)
        label = np.zeros((16, 40, 40), np.uint8)
        z, y, x = rng.integers((3, 8, 8), (5, 14, 14))
        label[z : z + 9, y : y + 16, x : x + 18] = 1
        label[z + 2 : z + 6, y + 4 : y + 11, x + 5 : x + 12] = 1 + lesion
        image = (rng.normal(0, 15, label.shape) + 150 * (label > 0) - 100 * (label == 2)).astype(np.int16)
        folder = write_case(
            store,
            "c",
            f"case{index}" if lesion else f"healthy{index}",
            image,
            label,
            patient=str(index),
            spacing=(2.5, 2.0, 2.0),
            grid=Grid.plain(image.shape, (2.5, 2.0, 2.0)),
            source={},
        )
        cases.append(read_case(folder))
    return cases


def training_of(
    tmp_path: Path,
    stage: str,
    settings: TrainSettings,
    folder: str = "run",
    checkpoint=None,
    weights=(),
    variant="full",
    healthy: int = 0,
    device: torch.device = CPU,
    execution: Execution | None = None,
):
    cases = make_cases(tmp_path / "store")
    split = Split("none", tuple(c.key for c in cases[:2]), (cases[2].key,), ())
    (tmp_path / folder).mkdir(exist_ok=True)
    stage = with_variant(STAGES[stage], variant)
    sampling = replace(stage.sampling, target_mm=(2.5, 2.0, 2.0))  # the voxels of the cases
    stage = replace(stage, method=stage.method.changed(weights), sampling=sampling)
    return prepare_training(
        stage=stage,
        split=split,
        recipe=recipe_of(stage, settings),
        train_cases=cases[:2],
        negatives=make_cases(tmp_path / "store", healthy, lesion=False),
        validation_cases=cases[2:],
        execution=execution or Execution(device),
        folder=tmp_path / folder,
        checkpoint=checkpoint,
    )


def generators(samples) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(place) for place in range(len(samples))]


def recipe_of(stage: Stage, settings: TrainSettings, width: int = 8) -> Recipe:
    return Recipe(NetworkSettings(width), stage.method, stage.sampling, Augmentation(), settings, Preparation())


def read_losses(folder: Path) -> list[dict[str, float]]:
    with (folder / "losses.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_stage_runs_and_records_every_term(tmp_path, stage, batch_size):
    settings = TrainSettings(epochs=2, workers=0, validate_every=1, batch_size=batch_size)
    train(training_of(tmp_path, stage, settings))
    rows = read_losses(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(STAGES[stage].method.weights.active) <= set(rows[0]) and all(
        np.isfinite(list(row.values())).all() for row in rows
    )
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"last.pt", "best.pt", "curves.png", "losses.csv"}


def test_a_tiny_training_learns(tmp_path):
    training = training_of(tmp_path, "pancreas_fine", TrainSettings(epochs=30, workers=0, lr=3e-3))
    train(training)
    losses = [row["loss"] for row in read_losses(training.folder)]
    assert training.best_dice > 0.8 and np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    assert load_checkpoint(training.folder / "last.pt", "pancreas_fine").best_dice == training.best_dice
    best = load_checkpoint(training.folder / "best.pt", "pancreas_fine")
    training.net.load_state_dict(best.net)
    assert best.thresholds["segmentation"] == choose_threshold(
        training.net, training.stage, training.validation, CPU, flips=FLIPS
    )


@pytest.mark.parametrize(("workers", "healthy"), [(0, 0), (1, 0), (0, 3)])
def test_resuming_equals_never_having_stopped(tmp_path, monkeypatch, workers, healthy):
    settings = replace(SETTINGS, workers=workers, ema_decay=0.9, optimiser="adamw", warm_up=0.5)
    kind = {"healthy": healthy, "variant": "redesigned"}
    whole = training_of(tmp_path, "tumor_fine", settings, "whole", **kind)
    train(whole)
    stopped = training_of(tmp_path, "tumor_fine", settings, "stopped", **kind)

    train_until_the_third_epoch(stopped, monkeypatch)
    checkpoint = load_checkpoint(stopped.folder / "last.pt", "tumor_fine")
    assert checkpoint.epoch == 2 and not (stopped.folder / "best.pt").exists()
    resumed = training_of(tmp_path, "tumor_fine", settings, "stopped", checkpoint, **kind)
    train(resumed)
    for ours, theirs in ((whole.net, resumed.net), (whole.average, resumed.average)):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    timeless = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in read_losses(t.folder)] for t in (whole, resumed)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("stage", ["tumor_coarse", "tumor_fine"])
def test_cases_without_a_tumour_take_part(tmp_path, stage, batch_size):
    """Batches of one, and of three that mix both kinds."""
    settings = TrainSettings(epochs=1, workers=0, negatives=0.5, batch_size=batch_size)
    training = training_of(tmp_path, stage, settings, healthy=3)
    assert len(training.loader) == (4 if batch_size == 1 else 2) and len(training.boxes) == 5
    filled = []
    for samples in read_batches(training.loader):
        terms = train_step(training, prepare_step(training, samples, generators(samples)), 2)
        filled += [bool(sample.mask.any()) for sample in samples]
        assert set(training.stage.method.weights.active) <= set(terms)
        assert all(torch.isfinite(term) for term in terms.values())
    assert {False, True} == {*filled} and len(filled) == batch_size * len(training.loader)


def test_without_their_share_cases_without_a_tumour_are_not_read(tmp_path):
    training = training_of(tmp_path, "tumor_fine", replace(SETTINGS, negatives=0.0), healthy=3)
    alone = training_of(tmp_path, "tumor_fine", SETTINGS, "other")
    assert len(training.boxes) == len(training.loader) == 2 and training.data_hash == alone.data_hash


def test_cases_prepared_anew_while_it_trains_neither_stop_it_nor_pass_for_those_it_began_with(tmp_path):
    training = training_of(tmp_path, "pancreas_fine", replace(SETTINGS, epochs=1))
    began_with = training.data_hash
    edit_manifest(tmp_path / "store" / "c" / "case0", source={"new": 1})
    (tmp_path / "store" / "c" / "case1" / "case.json").unlink()
    train(training)
    last = load_checkpoint(training.folder / "last.pt", "pancreas_fine")
    assert last.data_hash == began_with
    with pytest.raises(InputError, match="prepared again since"):
        training_of(tmp_path, "pancreas_fine", SETTINGS, checkpoint=replace(last, data_hash="of other cases"))


def test_resume_says_what_a_finished_run_was_trained_with_and_removes_what_a_kill_left(study_store, tmp_path, capsys):
    """Tested without its training: as a run that stands at its last epoch."""
    options = ["--store", str(study_store), "--path", str(tmp_path), "--data", "west", "--gpu", "cpu", "--resume"]
    stage = STAGES["pancreas_fine"]
    run = tmp_path / stage.name / "west" / "2026_01_01_00_00_00"
    split = frozen_splits(study_store, read_store(study_store))["west"]
    recipe = recipe_of(stage, TrainSettings(epochs=stage.epochs, negatives=0.0), width=32)
    facts = {"split": "west", "split_hash": split.hash, "data_hash": "", "spacing_range": None, "net": {}}
    finished = Checkpoint(stage=stage.name, recipe=recipe, epoch=stage.epochs, **facts)
    save_checkpoint(run / "last.pt", finished)
    (run / ".4711.unfinished.last.pt").write_bytes(b"half a checkpoint")
    assert train_command.main(stage.name, options) == 0
    assert capsys.readouterr().out.endswith(f"{run}: already finished, {stage.epochs} epochs\n")
    assert {path.name for path in run.iterdir()} == {"last.pt", ".lock"}
    assert train_command.main(stage.name, [*options, "--variant", "baseline", "--lr", "1"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert "already finished" in said and "started with: method.weights.contrast 0.1, training.lr 0.001; " in said
    assert said.endswith("leave out --resume to start a run with the settings given now")


def test_a_dry_run_says_where_it_would_go_on(study_store, tmp_path, capsys):
    options = ["--store", str(study_store), "--path", str(tmp_path), "--data", "west", "--gpu", "cpu", "--resume"]
    options += ["--dry-run"]
    assert train_command.main("pancreas_fine", options) == 0
    assert "would start from the beginning" in capsys.readouterr().out
    stage, run = STAGES["pancreas_fine"], tmp_path / "pancreas_fine" / "west" / "2026_01_01_00_00_00"
    facts = {"split": "west", "split_hash": "", "data_hash": "", "spacing_range": None, "net": {}}
    recipe = recipe_of(stage, TrainSettings(epochs=150))
    for epoch, said in ((20, f"would go on in {run} after epoch 20 of 150"), (150, f"{run} is already finished")):
        save_checkpoint(run / "last.pt", Checkpoint(stage=stage.name, recipe=recipe, epoch=epoch, **facts))
        assert train_command.main("pancreas_fine", options) == 0
        assert said in capsys.readouterr().out
    assert [path.name for path in run.iterdir()] == ["last.pt"]


def test_an_unfinished_run_is_told_from_none(tmp_path):
    stage = STAGES["pancreas_fine"]
    with pytest.raises(InputError, match="no trained pancreas fine model"):
        find_run(tmp_path, stage, "west")
    run = create_run(tmp_path, stage, "west")
    with pytest.raises(InputError) as caught:
        find_run(tmp_path, stage, "west")
    assert caught.value.path == run and "not finished" in caught.value.problem
    assert caught.value.command == f"{stage.script('train')} --data west --path {tmp_path} --resume"


def test_without_validation_cases_training_warns_before_it_starts(study_store, tmp_path, capsys):
    store = tmp_path / "store"
    shutil.copytree(study_store, store)
    splits = frozen_splits(store, read_store(store))
    lists = {"mine": {"train": splits["west"].train, "validation": [], "test": splits["west"].test}}
    write_splits(store / "splits_mine.json", {"mine": Split("mine", **{k: tuple(v) for k, v in lists["mine"].items()})})
    argv = ["--store", str(store), "--path", str(tmp_path), "--data", "mine", "--gpu", "cpu", "--dry-run"]
    assert train_command.main("pancreas_fine", argv) == 0
    assert "warning: no validation case" in capsys.readouterr().out


def test_two_trainings_never_share_a_run_folder(study_store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_command, "LOCK_PATIENCE_S", 0.3)
    run = tmp_path / "pancreas_fine" / "west" / "2026_01_01_00_00_00"
    options = ["--store", str(study_store), "--path", str(tmp_path), "--data", "west", "--gpu", "cpu", "--resume"]
    with exclusive_lock(run, "wait"):
        assert train_command.main("pancreas_fine", options) == 2
    said = capsys.readouterr().err
    assert f"{run}: cannot be locked, because process {os.getpid()} on" in said and "leave out --resume" in said
    assert [path.name for path in run.iterdir()] == [".lock"]


def test_a_loss_that_is_not_finite_names_the_case_and_the_term(tmp_path):
    training = training_of(tmp_path, "pancreas_fine", SETTINGS)
    with torch.no_grad():
        training.net.seg.weight.fill_(torch.nan)
    with pytest.raises(InputError, match=r"c/case\d: the loss is not finite \(loss nan, dice nan.*lower --lr"):
        train(training)
    assert not (training.folder / "last.pt").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_case_that_cannot_be_read_is_named_in_one_line(tmp_path, workers):
    training = training_of(tmp_path, "pancreas_fine", replace(SETTINGS, workers=workers))
    image = tmp_path / "store" / "c" / "case1" / "image.npy"
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(InputError) as caught:
        train(training)
    assert str(image) in str(caught.value) and "\n" not in str(caught.value)


def test_a_worker_that_dies_ends_the_training_with_the_cases_it_waited_for(tmp_path, monkeypatch):
    training = training_of(tmp_path, "pancreas_fine", replace(SETTINGS, workers=1))
    monkeypatch.setattr(type(training.boxes), "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(InputError) as caught:
        train(training)
    assert str(caught.value.path).startswith("c/case") and "--workers 0" in caught.value.remedy


def test_a_worker_that_is_silent_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.train.loader.SILENCE_S", 1)
    training = training_of(tmp_path, "pancreas_fine", replace(SETTINGS, workers=1))
    monkeypatch.setattr(type(training.boxes), "__getitem__", lambda *_: time.sleep(30))
    with pytest.raises(InputError, match="sent nothing for 1 s"):
        train(training)


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_that_cannot_be_allocated_while_reading_names_the_case(tmp_path, monkeypatch, workers):
    training = training_of(tmp_path, "pancreas_fine", replace(SETTINGS, workers=workers))

    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(type(training.boxes), "__getitem__", no_memory)
    with pytest.raises(InputError, match=r"c/case\d: reading its box needs more memory"):
        train(training)


def test_samples_travel_without_shared_memory(tmp_path):
    """Tensors would need /dev/shm, of which a container has 64 MB by default."""
    training = training_of(tmp_path, "pancreas_fine", SETTINGS)
    assert all(isinstance(array, np.ndarray) for array in training.boxes[1, 0][1:3])


def test_learning_rate_decays_to_zero_with_power_0_9(tmp_path):
    train(training_of(tmp_path, "pancreas_fine", SETTINGS))
    rates = [row["lr"] for row in read_losses(tmp_path / "run")]
    # The rate of an epoch's last step: steps 1, 3, 5, 7 of 8.
    assert rates == pytest.approx([2e-3 * (1 - step / 8) ** 0.9 for step in (1, 3, 5, 7)])


def test_a_model_of_two_tasks_gets_a_threshold_for_each_readout(tmp_path):
    training = training_of(tmp_path, "tumor_coarse", replace(SETTINGS, epochs=1, validate_every=1))
    train(training)
    assert [*load_checkpoint(training.folder / "best.pt", "tumor_coarse").thresholds] == ["segmentation", "average"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", ["pancreas_fine", "tumor_fine"])
def test_every_variant_trains(tmp_path, stage, variant):
    training = training_of(tmp_path, stage, replace(SETTINGS, epochs=1), variant=variant)
    samples = next(read_batches(training.loader))
    terms = train_step(training, prepare_step(training, samples, generators(samples)), 2)
    assert {"dice", "bce"} <= set(terms) and all(torch.isfinite(term) for term in terms.values())
    assert set(training.stage.method.weights.active) <= set(terms)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "truncated or damaged"),
        (b"PK\x03\x04 not a zip", "truncated or damaged"),
        ("cut", "truncated or damaged"),
        (
            {"format": 2},
            "format 2, where format 4 is read. Train this stage again: python train_pancreas",
        ),
        ({"format": FORMAT, "stage": "tumor_fine"}, "belongs to the stage tumor_fine"),
        ({"format": FORMAT, "stage": Path}, "holds more than tensors"),
    ],
    ids=["empty", "noise", "truncated", "format", "stage", "code"],
)
def test_checkpoints_that_cannot_be_trusted_are_refused(tmp_path, content, complaint):
    path = tmp_path / "best.pt"
    if content == "cut":
        torch.save({"format": FORMAT, "stage": "pancreas_fine", "net": torch.rand(10_000)}, path)
        content = path.read_bytes()[:20_000]
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(InputError, match=complaint):
        load_checkpoint(path, "pancreas_fine")


def test_training_needs_only_torch_numpy_scipy_and_skimage_beside_yaml_and_tqdm():
    """A rented GPU box need not have the packages of the other rooms."""
    blocked = ["SimpleITK", "medpy", "matplotlib", "seaborn", "cv2", "tensorboard", "nibabel", "monai", "pandas"]
    program = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import engine.train.command, data.samples"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)


def test_settings_are_recorded(tmp_path):
    write_settings(tmp_path, {"lr": 1e-4, "weights": {"dice": 1.0}})
    record = yaml.safe_load((tmp_path / "settings.yaml").read_text())
    assert record["lr"] == 1e-4 and record["versions"]["torch"] == torch.__version__


def test_no_command_loads_torch_before_the_wait_policy_is_set():
    program = """
import importlib.abc, os, sys
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        assert name != "torch" or os.environ.get("OMP_WAIT_POLICY") == "PASSIVE"
sys.meta_path.insert(0, Watch())
import predict, runpy
for name in ('train_tumor/train_sh_tumor_fine', 'evaluate_tumor/evaluate_sh_tumor_fine', 'engine/study/__main__'):
    runpy.run_path(name + '.py', run_name='imported')
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY, env=environment)
