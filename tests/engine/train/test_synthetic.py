"""Training on synthetic patients: with a renderer of blobs in noise, which takes a millisecond a patient."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.augment import Augmentation
from data.cases.case import Case
from data.cases.preparation import Preparation
from data.cases.store import digest
from data.common.errors import InputError
from data.samples import reference_box
from data.scans.boxes import bounding_box, enlarge
from data.splits.split import Split, synthetic_split
from data.synthesis import case as synthetic_case
from data.synthesis.case import MOST_TRIES, synthetic_cases
from data.synthesis.organ_maps import check_maps, list_maps
from data.synthesis.settings import Synthesis
from engine.checkpoint import find_run, load_checkpoint
from engine.device import Execution
from engine.evaluate import stage as evaluate_command
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import STAGES
from engine.train import command as train_command
from engine.train import synthetic
from engine.train.loader import read_batches
from engine.train.loop import train
from engine.train.options import parse
from engine.train.plan import Plan, count_steps, describe
from engine.train.training import Training, prepare_training
from pancreas_dual_task import report as report_command
from tests.data.synthesis.test_organ_maps import made_up_labels, write_map
from tests.engine.train.interruption import train_until_the_third_epoch
from tests.engine.train.test_train import CPU, make_cases, read_losses

TARGET_MM = (4.0, 4.0, 4.0)
SMALL = ["--target-mm", "4,4,4", "--width", "8", "--workers", "0", "--gpu", "cpu", "--batch-size", "1"]


def render_blob(seed, settings, spacing, roi_mm=None) -> tuple[np.ndarray, np.ndarray]:
    """A bright organ, with a dark lesion in it as often as the settings say, in noise."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    label = np.zeros((24, 28, 30), np.uint8)
    z, y, x = rng.integers((4, 4, 4), (11, 14, 14))
    label[z : z + 9, y : y + 10, x : x + 12] = 1
    if rng.random() < settings.tumours:
        label[z + 2 : z + 6, y + 3 : y + 7, x + 3 : x + 8] = 2
    image = rng.normal(20, 15, label.shape) + 120 * (label > 0) - 90 * (label == 2)
    if roi_mm is not None:
        margin = [mm / s for mm, s in zip(roi_mm, spacing, strict=True)]
        part = enlarge(bounding_box(label), margin, margin, label.shape).slices
        image, label = image[part], label[part]
    return np.rint(image).astype(np.int16), label


@pytest.fixture(autouse=True)
def blobs(monkeypatch) -> None:
    """Render blobs in place of patients, and validate on three of them."""
    monkeypatch.setattr(synthetic_case, "render_patient", render_blob)
    monkeypatch.setattr(synthetic, "VALIDATION_PATIENTS", 3)


def recipe_of(stage_name: str, augmentation: Augmentation | None = None, **settings) -> Recipe:
    stage = STAGES[stage_name]
    defaults = {"epochs": 4, "workers": 0, "batch_size": 1, "boxes_per_epoch": 6, "negatives": 0.0, "validate_every": 2}
    return Recipe(
        NetworkSettings(8),
        stage.method,
        replace(stage.sampling, target_mm=TARGET_MM),
        augmentation or Augmentation(),
        TrainSettings(**defaults | settings),
        Preparation(),
    )


def training_of(
    recipe: Recipe, stage_name: str, folder: Path, cases: list[Case] | None = None, checkpoint=None
) -> Training:
    folder.mkdir(exist_ok=True)
    split = Split("c", tuple(case.key for case in cases), (), ()) if cases else synthetic_split({})
    plan = Plan(split, cases or [], [], []).with_synthetic(recipe)
    return prepare_training(
        stage=replace(STAGES[stage_name], sampling=recipe.sampling),
        split=split,
        recipe=recipe,
        train_cases=plan.train_cases,
        validation_cases=plan.validation_cases,
        synthetic=plan.synthetic,
        execution=Execution(CPU),
        folder=folder,
        checkpoint=checkpoint,
    )


def keys_of_epoch(training: Training, epoch: int) -> list[str]:
    training.sampler.epoch = epoch
    return [sample.key for samples in read_batches(training.loader) for sample in samples]


def test_every_box_of_every_epoch_is_another_patient_and_none_is_validated_on(tmp_path):
    training = training_of(recipe_of("pancreas_fine", synthetic=1.0), "pancreas_fine", tmp_path / "run")
    training.sampler.epoch = 1
    first = {sample.key: sample.image for samples in read_batches(training.loader) for sample in samples}
    second = keys_of_epoch(training, 2)
    assert len(first) == len(second) == 6 and not {*first} & {*second}
    images = [image.tobytes() for image in first.values()]
    drawn = [case.image() for case in training.validation]
    assert len({*images}) == 6 and len({image.tobytes() for image in drawn}) == 3
    validated = [tuple(case.source["seed"]) for case in training.validation]
    assert all(epoch == 0 for _, epoch, *_ in validated)  # the epochs of a training begin with 1
    again = training_of(recipe_of("pancreas_fine", synthetic=1.0), "pancreas_fine", tmp_path / "other")
    assert keys_of_epoch(again, 2) == second and again.data_hash == training.data_hash
    assert all((a.image() == b.image()).all() for a, b in zip(training.validation, again.validation, strict=True))


def test_the_validation_patients_are_those_of_every_other_seed(tmp_path):
    seeds = [training_of(recipe_of("pancreas_fine", synthetic=1.0, seed=s), "pancreas_fine", tmp_path) for s in (0, 7)]
    ours, theirs = ([case.image() for case in training.validation] for training in seeds)
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    boxes = [training.boxes[1, 0].image for training in seeds]
    assert boxes[0].shape != boxes[1].shape or (boxes[0] != boxes[1]).any()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stage", ["pancreas_coarse", "tumor_fine"])
def test_resuming_equals_never_having_stopped(tmp_path, monkeypatch, stage, workers):
    recipe = recipe_of(stage, synthetic=1.0, workers=workers, negatives=0.25 if "tumor" in stage else 0.0)
    whole = training_of(recipe, stage, tmp_path / "whole")
    train(whole)
    stopped = training_of(recipe, stage, tmp_path / "stopped")

    train_until_the_third_epoch(stopped, monkeypatch)
    checkpoint = load_checkpoint(stopped.folder / "last.pt", stage)
    assert checkpoint.epoch == 2
    resumed = training_of(checkpoint.recipe, stage, tmp_path / "stopped", checkpoint=checkpoint)
    train(resumed)
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, resumed.net.state_dict()[name]), name
    losses = [[row | {"seconds": 0} for row in read_losses(tmp_path / name)] for name in ("whole", "stopped")]
    assert losses[0] == losses[1]


def test_other_settings_of_the_patients_are_other_data(tmp_path):
    recipe = recipe_of("pancreas_fine", synthetic=1.0)
    train(training_of(replace(recipe, training=replace(recipe.training, epochs=1)), "pancreas_fine", tmp_path / "run"))
    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt", "pancreas_fine")
    assert checkpoint.recipe.synthesis == Synthesis() and checkpoint.split == "synthetic"
    other = replace(recipe, synthesis=Synthesis(shape=0.5))
    with pytest.raises(InputError, match="prepared again"):
        training_of(other, "pancreas_fine", tmp_path / "run", checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("share", "negatives", "with_target", "without", "expected"),
    [
        (0.3, 0.0, 14, 0, (6, 0)),
        (0.01, 0.0, 10, 0, (1, 0)),  # at least one
        (0.0, 0.25, 14, 4, (0, 0)),
        (0.5, 0.25, 12, 4, (12, 4)),  # the cases have their share of negatives, the patients too
        (0.5, 0.25, 12, 0, (6, 6)),  # without cases that are free of tumours the patients make up for them
        (0.2, 0.25, 12, 0, (0, 3)),  # as far as there are patients
        (1.0, 0.25, 0, 0, (15, 5)),
        (1.0, 0.99, 0, 0, (1, 19)),
    ],
)
def test_an_epoch_has_its_share_of_patients_and_of_those_without_a_tumour(
    share, negatives, with_target, without, expected
):
    recipe = recipe_of("tumor_coarse", synthetic=share, negatives=negatives, boxes_per_epoch=20)
    patients = synthetic.training_patients(recipe, with_target, without)
    found = (sum(case.tumour_box is not None for case in patients), sum(case.tumour_box is None for case in patients))
    assert found == expected and len({case.key for case in patients}) == len(patients)
    drawn = [case.draw((5, 1, place)) for place, case in enumerate(patients)]
    assert [bool(case.tumour_box) for case in drawn] == [bool(case.tumour_box) for case in patients]


def test_patients_are_mixed_with_prepared_cases(tmp_path):
    cases = make_cases(tmp_path / "store", 6)
    training = training_of(recipe_of("pancreas_coarse", synthetic=0.4), "pancreas_coarse", tmp_path / "run", cases)
    keys = keys_of_epoch(training, 1)
    assert sorted(key for key in keys if key.startswith("c/")) == [case.key for case in cases]
    assert len(keys) == len(training.loader) == 10 and sum(key.startswith("synthetic/") for key in keys) == 4
    without = training_of(recipe_of("pancreas_coarse"), "pancreas_coarse", tmp_path / "without", cases)
    assert len(without.loader) == 6
    ours, theirs = training.boxes[2, 0], without.boxes[2, 0]  # what is drawn of a case does not depend on the patients
    assert (ours.image == theirs.image).all()


def test_a_patient_that_does_not_show_the_target_is_drawn_again(monkeypatch):
    seeds = []

    def rarely(seed, settings, spacing, roi_mm=None):
        seeds.append(tuple(seed))
        image, label = render_blob(seed, settings, spacing, roi_mm)
        return image, label if len(seeds) > 3 else np.zeros_like(label)

    monkeypatch.setattr(synthetic_case, "render_patient", rarely)
    (patient,) = synthetic_cases(1, Synthesis(), TARGET_MM, tumour=True)
    drawn = patient.draw((1, 2, 3))
    assert seeds == [(1, 2, 3, attempt) for attempt in (1, 2, 3, 4)] and drawn.tumour_box
    monkeypatch.setattr(
        synthetic_case, "render_patient", lambda *_: (np.zeros((2, 2, 2)), np.zeros((2, 2, 2), np.uint8))
    )
    with pytest.raises(InputError, match=f"none of {MOST_TRIES} synthetic patients shows a tumour"):
        patient.draw((1, 2, 3))


def test_a_drawn_patient_is_a_case():
    sampling = replace(STAGES["tumor_coarse"].sampling, target_mm=TARGET_MM)
    (patient,) = synthetic_cases(1, Synthesis(), TARGET_MM, tumour=False)
    with pytest.raises(ValueError, match="has not been drawn"):
        patient.label()
    drawn = patient.draw((1, 2, 3))
    assert drawn.key == "synthetic/1_2_3" and drawn.draw((9, 9)) is drawn and drawn.tumour_box is None
    assert drawn.image().shape == drawn.label().shape == drawn.scan_label().shape == drawn.shape
    assert (drawn.label()[drawn.pancreas_box.slices] > 0).sum() == (drawn.label() > 0).sum()
    assert json.loads(drawn.content())["seed"] == [1, 2, 3, 1] and drawn.scan_spacing == TARGET_MM
    assert all(n <= most for n, most in zip(drawn.shape, patient.shape, strict=True))
    assert reference_box(drawn, sampling).shape


@pytest.mark.parametrize("stage", ["pancreas_fine", "tumor_coarse", "tumor_fine"])
def test_around_a_pancreas_enough_is_rendered_for_jitter_and_margin(stage):
    sampling = STAGES[stage].sampling
    margin = synthetic.rendered_margin(sampling, Augmentation())
    jitter = (sampling.jitter_z_mm[1], sampling.jitter_plane_mm[1], sampling.jitter_plane_mm[1])
    for ours, least in zip(margin, zip(jitter, sampling.margin_mm, strict=True), strict=True):
        assert ours == max(least) + synthetic.AUGMENTED_MM
    still = synthetic.rendered_margin(sampling, replace(Augmentation(), probability=0.0))
    assert still == tuple(max(least) for least in zip(jitter, sampling.margin_mm, strict=True))
    assert synthetic.rendered_margin(STAGES["pancreas_coarse"].sampling, Augmentation()) is None


def test_a_run_is_announced_and_counted():
    pure = recipe_of("tumor_fine", synthetic=1.0, boxes_per_epoch=20, negatives=0.25, batch_size=2)
    plan = Plan(synthetic_split({}), [], [], []).with_synthetic(pure)
    assert count_steps(plan, pure.training) == 4 * 10
    wanted = "synthetic: train on 20 new patients in every epoch (5 of them without a tumour), validate on 3, 4 epochs"
    assert wanted in describe(plan, pure.training)
    assert plan.count_centres(pure.training) == {"train": {"synthetic": 20}, "validation": {"synthetic": 3}, "test": {}}


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_trains_resumes_and_leaves_a_run_that_can_be_evaluated(stage, tmp_path, capsys):
    options = [*SMALL, "--train-on", "synthetic", "--boxes-per-epoch", "4", "--path", str(tmp_path / "runs")]
    assert train_command.main(stage, [*options, "--epochs", "1", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert (
        "train on 4 new patients in every epoch" in said and "s to render" in said and not (tmp_path / "runs").exists()
    )
    assert train_command.main(stage, [*options, "--epochs", "1", "--validate-every", "1"]) == 0
    run = find_run(tmp_path / "runs", STAGES[stage], "synthetic")
    checkpoint = load_checkpoint(run / "best.pt", stage)
    assert checkpoint.best_dice is not None and "segmentation" in checkpoint.thresholds
    assert checkpoint.recipe.training.only_synthetic and checkpoint.spacing_range == [list(TARGET_MM)] * 2
    assert train_command.main(stage, [*options, "--epochs", "3", "--resume"]) == 0
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(InputError) as caught:
        find_run(tmp_path / "none", STAGES[stage], "synthetic")
    assert "--train-on synthetic" in caught.value.command and "--data" not in caught.value.command


def test_a_model_of_synthetic_patients_is_evaluated_on_every_prepared_case(tmp_path):
    make_cases(tmp_path / "store", 2)
    options = [*SMALL, "--train-on", "synthetic", "--boxes-per-epoch", "2", "--path", str(tmp_path / "runs")]
    assert train_command.main("pancreas_coarse", [*options, "--epochs", "1"]) == 0
    places = ["--store", str(tmp_path / "store"), "--path", str(tmp_path / "runs"), "--gpu", "cpu"]
    assert evaluate_command.main("pancreas_coarse", ["--data", "synthetic", *places]) == 0
    run = find_run(tmp_path / "runs", STAGES["pancreas_coarse"], "synthetic")
    assert json.loads((run / "evaluation" / "summary.json").read_text())["counts"]["cases"] == 2
    (run / "evaluation" / "report.html").unlink()
    assert report_command.main([str(run), "--store", str(tmp_path / "store")]) == 0
    assert (run / "evaluation" / "report.html").exists()
    more = make_cases(tmp_path / "store", 3)  # the model has seen none of them
    assert evaluate_command.main("pancreas_coarse", ["--data", "synthetic", *places]) == 0
    assert json.loads((run / "evaluation" / "summary.json").read_text())["counts"]["cases"] == len(more)


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        (["--train-on", "phantoms"], "not a kind of patients"),
        (["--train-on", "synthetic:"], "not a kind of patients"),
        (["--train-on", "synthetic:nowhere"], "no such folder"),
        (["--train-on", "synthetic", "--data", "north"], "no split north"),
        (["--train-on", "synthetic", "--synthetic", "0.5"], "all patients are synthetic"),
        (["--train-on", "synthetic", "--boxes-per-epoch", "0"], "out of range"),
        (["--train-on", "synthetic", "--synthesis", "tumours=2"], "share"),
        (["--train-on", "synthetic", "--synthesis", "magic=2"], "no such setting"),
        (["--data", "synthetic"], "no split of prepared cases"),
        (["--synthetic", "1"], "leaves no box"),
        (["--synthetic", "-0.1"], "out of range"),
        (["--boxes-per-epoch", "50"], "a box of each prepared case"),
        (["--synthesis", "shape=0"], "no synthetic patient is asked for"),
        (["--augment", "flip=0,2,0"], "probability"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_what_contradicts_itself_is_refused(typed, problem):
    with pytest.raises(InputError) as caught:
        parse(STAGES["pancreas_fine"], typed)
    assert problem in caught.value.problem and caught.value.remedy


def test_label_maps_are_named_with_the_kind_of_patients(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    typed = ["--train-on", f"synthetic:{tmp_path.name}:btcv", "--synthesis", "shape=0.5"]
    options = parse(STAGES["pancreas_fine"], typed)
    assert options.synthesis == Synthesis(labels=f"{tmp_path}:btcv", shape=0.5) and options.training.synthetic == 1
    assert options.recipe([]).synthesis == options.synthesis


def test_bad_label_maps_are_refused_at_the_start_and_other_ones_are_other_patients(tmp_path):
    write_map(tmp_path / "first.npz")
    recipe = replace(recipe_of("pancreas_fine", synthetic=1.0), synthesis=Synthesis(labels=f"{tmp_path}:btcv"))
    plan = Plan(synthetic_split({}), [], [], [])
    before = digest(plan.with_synthetic(recipe).training_cases)
    elsewhere = tmp_path.rename(tmp_path.with_name("elsewhere"))
    moved = replace(recipe, synthesis=Synthesis(labels=f"{elsewhere}:btcv"))
    assert digest(plan.with_synthetic(moved).training_cases) == before
    write_map(elsewhere / "second.npz")
    check_maps.cache_clear()
    list_maps.cache_clear()
    assert digest(plan.with_synthetic(moved).training_cases) != before
    write_map(elsewhere / "third.npz", made_up_labels(without=8))
    check_maps.cache_clear()
    list_maps.cache_clear()
    with pytest.raises(InputError, match="has no pancreas") as caught:
        plan.with_synthetic(moved)
    assert "third.npz" in str(caught.value)
