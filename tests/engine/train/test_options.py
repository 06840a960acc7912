"""What a user types becomes a recipe, and what cannot be one is refused before anything starts."""

import math
from dataclasses import replace

import pytest
import torch
import yaml

from data.cases.preparation import Preparation
from data.common.errors import InputError
from engine.checkpoint import FORMAT, load_checkpoint
from engine.recipe import Recipe
from engine.stages import STAGES
from engine.train import command as train_command
from engine.train.options import parse

STAGE = STAGES["tumor_fine"]


def test_without_options_the_recipe_is_that_of_the_table():
    options = parse(STAGE, [])
    assert options.stage == STAGE and options.training.epochs == STAGE.epochs and options.split is None
    assert (options.training.lr, options.training.weight_decay, options.network.width) == (1e-3, 5e-4, 32)


def test_every_part_of_the_recipe_can_be_typed():
    typed = ["--augment", "scale=0.9,1.1", "--augment", "noise=0", "--sampling", "hu_window=-150,250", "--width", "8"]
    typed += [
        "--target-mm",
        "3,2.5,2.5",
        "--optimiser",
        "adamw",
        "--head-input",
        "raw",
        "--groups",
        "0",
        "--weight",
        "sdf=0.5",
        "--views",
        "gin",
        "--min-anchor-cells",
        "3",
    ]
    options = parse(STAGE, [*typed, "--epochs", "7"])
    assert options.augmentation.scale == (0.9, 1.1) and options.augmentation.noise == 0
    assert options.stage.sampling.hu_window == (-150.0, 250.0) and options.stage.sampling.target_mm == (3.0, 2.5, 2.5)
    method = options.stage.method
    assert (method.weights.sdf, method.views, method.min_anchor_cells) == (0.5, "gin", 3)
    assert (options.network.width, options.network.groups) == (8, 0) and options.stage.method.head_input == "raw"
    assert options.training.epochs == 7 and options.training.optimiser == "adamw"


@pytest.mark.parametrize(
    "typed",
    [
        ["--augment", "scale=1"],
        ["--augment", "scale=a,b"],
        ["--augment", "sharpen=1"],
        ["--augment", "blur=0,1"],
        ["--warm-up", "1"],
        ["--ema-decay", "1"],
        ["--augment", "noise"],
        ["--sampling", "rounds=1.5"],
        ["--sampling", "margin_mm=1,2"],
        ["--sampling", "target_mm=3,nan,3"],
        ["--weight", "magic=1"],
        ["--weight", "sdf=-1"],
        ["--epochs", "0"],
        ["--lr", "inf"],
        ["--width", "12"],
        ["--sampling", "target=tumor"],
        ["--sampling", "roi=liver"],
        ["--sampling", "hu_window=240,-100"],
        ["--sampling", "target_mm=3,0,3"],
        ["--sampling", "target_mm=inf,3,3"],
        ["--target-mm", "6"],
        ["--target-mm", "6,0,6"],
        ["--sampling", "patch_mm=96,-1,96"],
        ["--augment", "elastic_mm=20"],
        ["--augment", "low_resolution=0.5,1"],
        ["--augment", "scale=0,0"],
        ["--augment", "probability=7"],
        ["--views", "none"],
        ["--negatives", "1"],
        ["--negatives", "-0.1"],
        ["--negatives", "nan"],
    ],
    ids=" ".join,
)
def test_what_is_no_setting_is_named_as_it_was_typed(typed):
    with pytest.raises(InputError) as caught:
        parse(STAGE, typed)
    assert str(caught.value.path).startswith(typed[0]) and caught.value.problem and caught.value.remedy


@pytest.mark.parametrize("stage", STAGES)
def test_only_the_tumour_stages_have_cases_without_their_target(stage, capsys):
    assert parse(STAGES[stage], []).training.negatives == (0.25 if "tumor" in stage else 0.0)
    with pytest.raises(SystemExit):
        parse(STAGES[stage], ["--help"])
    assert ("--negatives" in capsys.readouterr().out) == ("tumor" in stage)


@pytest.mark.parametrize("stage", STAGES)
def test_help_shows_every_setting(stage, capsys):
    with pytest.raises(SystemExit):
        parse(STAGES[stage], ["--help"])
    shown = "".join(capsys.readouterr().out.split())
    for name in ("rotation_degrees=15.0", "hu_window=-100,240", "margin_mm=12.5,20,20", "contrast=0.1", "steepness"):
        assert name in shown
    assert f"rounds={STAGES[stage].sampling.rounds}" in shown and "[]" not in shown


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_a_recipe_survives_its_record(stage):
    options = parse(stage, ["--width", "8"])
    recipe = Recipe(
        network=options.network,
        method=options.stage.published,
        sampling=replace(options.stage.sampling, patch_mm=(math.inf, 96.0, 96.0)),
        augmentation=options.augmentation,
        training=options.training,
        preparation=Preparation(crop="body", spacing=(3.0, 2.0, 2.0)),
    )
    through_yaml = yaml.safe_load(yaml.safe_dump(recipe.to_record()))
    assert Recipe.from_record(recipe.to_record()) == Recipe.from_record(through_yaml) == recipe


def test_a_checkpoint_that_does_not_fit_into_the_memory_is_not_called_damaged(tmp_path, monkeypatch):
    torch.save({"format": FORMAT, "stage": "tumor_fine"}, tmp_path / "best.pt")

    def no_memory(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", no_memory)
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path / "best.pt", "tumor_fine")
    assert "memory" in caught.value.problem and "damaged" not in str(caught.value) and "again" in caught.value.remedy


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"depth": 4}},
        {"network": {}},
        {"sampling": None},
        {"network": {"width": "8"}},
        {"network": {"width": None}},
    ],
)
def test_a_record_of_other_settings_is_refused_and_never_completed_with_the_defaults_of_the_day(tmp_path, change):
    options = parse(STAGE, [])
    parts = (options.network, STAGE.method, STAGE.sampling, options.augmentation, options.training, Preparation())
    record = Recipe(*parts).to_record() | change
    recipe = {name: value for name, value in record.items() if value is not None}
    torch.save({"format": FORMAT, "stage": "tumor_fine", "recipe": recipe}, tmp_path / "best.pt")
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path / "best.pt", "tumor_fine")
    assert "incomplete" in caught.value.problem and caught.value.command == STAGE.script("train")


def test_bad_settings_end_with_exit_code_2_and_one_line(capsys):
    assert train_command.main("tumor_fine", ["--augment", "scale=1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
