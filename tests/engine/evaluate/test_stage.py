"""What an evaluation requires of the model and of the cases before it begins."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from data.cases.preparation import Preparation
from data.cases.store import read_store
from data.common.errors import InputError
from data.splits.frozen import frozen_splits
from engine.evaluate import stage as evaluate
from engine.evaluate.earlier import EarlierEvaluation
from engine.evaluate.options import EvaluateOptions
from engine.infer.models import StageModel
from engine.report.tables import write_summary
from engine.stages import STAGES
from tests.study_parts import CENTRES

CPU = torch.device("cpu")


def model_of(stage: str, run: Path, split_hash: str) -> StageModel:
    return StageModel(STAGES[stage], torch.nn.Identity(), "segmentation", 0.5, CPU, run, 1, split_hash, Preparation())


def test_a_store_prepared_in_another_way_than_the_training_cases_is_refused(study_store, tmp_path):
    centres = read_store(study_store)
    split = frozen_splits(study_store, centres)["west"]
    model = model_of("pancreas_coarse", tmp_path / "run", split.hash)
    options = evaluate.parse(STAGES["pancreas_coarse"], ["--path", str(tmp_path)])
    coarser = replace(model, preparation=Preparation(spacing=(10.0, 8.0, 8.0)))
    with pytest.raises(InputError) as error:
        evaluate.open_evaluation(options, coarser, split, centres["west"])
    assert error.value.path == model.run
    assert "--spacing 10 8 8, but west/case0 with --crop none" in error.value.problem
    assert not model.run.exists()
    evaluate.open_evaluation(options, model, split, centres["west"])
    assert (model.run / "evaluation" / "settings.yaml").exists()


def test_a_model_of_a_changed_split_is_refused(study_store, tmp_path):
    centres = read_store(study_store)
    split = frozen_splits(study_store, centres)["west"]
    options = evaluate.parse(STAGES["tumor_fine"], ["--data", "west", "--store", str(study_store)])
    with pytest.raises(InputError) as error:
        evaluate.open_evaluation(options, model_of("tumor_fine", tmp_path, "other"), split, centres["west"])
    assert error.value.path == tmp_path
    assert error.value.command == f"python train_tumor/train_sh_tumor_fine.py --data west --store {study_store}"


@pytest.mark.parametrize("damage", [None, "", "[1, 2", "- 1"])
def test_an_evaluation_with_other_settings_or_a_damaged_record_starts_anew(study_store, tmp_path, damage):
    centres = read_store(study_store)
    split = frozen_splits(study_store, centres)["west"]
    model = model_of("pancreas_coarse", tmp_path / "run", split.hash)
    options = evaluate.parse(STAGES["pancreas_coarse"], [])

    def opened(model: StageModel) -> Path:
        return evaluate.open_evaluation(options, model, split, centres["west"]).folder

    result = opened(model) / "cases.csv"
    result.touch()
    opened(model)
    assert result.exists()
    if damage is not None:
        (result.parent / "settings.yaml").write_text(damage)
        opened(model)
        assert not result.exists()
    else:
        for key, value in (("epoch", 2), ("confirms", True)):
            result.touch()
            opened(replace(model, **{key: value}))
            assert not result.exists()
            assert yaml.safe_load((result.parent / "settings.yaml").read_text())[key] == value


def test_an_evaluation_without_flips_has_a_folder_of_its_own_and_says_so(study_store, tmp_path):
    centres = read_store(study_store)
    split = frozen_splits(study_store, centres)["west"]
    model = model_of("pancreas_coarse", tmp_path / "run", split.hash)
    options = evaluate.parse(STAGES["pancreas_coarse"], [])
    folders = [
        evaluate.open_evaluation(options, replace(model, fast=fast), split, centres["west"]).folder
        for fast in (False, True)
    ]
    assert [folder.name for folder in folders] == ["evaluation", "evaluation_fast"]
    assert ["fast" in yaml.safe_load((folder / "settings.yaml").read_text()) for folder in folders] == [False, True]


@pytest.mark.parametrize(
    ("stage", "arguments", "needed"),
    [
        ("pancreas_coarse", [], {}),
        ("pancreas_fine", [], {"pancreas_coarse": "evaluation"}),
        ("pancreas_fine", ["--roi", "reference"], {}),
        ("tumor_coarse", ["--average"], {"pancreas_fine": "evaluation_predicted"}),
        ("tumor_coarse", ["--roi", "reference"], {}),
        ("tumor_coarse", ["--fast"], {"pancreas_fine": "evaluation_predicted_fast"}),
        ("tumor_fine", ["--roi", "reference", "--average"], {"tumor_coarse": "evaluation_reference_average"}),
        (
            "tumor_fine",
            ["--thresh", "0.3"],
            {"tumor_coarse": "evaluation_predicted", "pancreas_fine": "evaluation_predicted"},
        ),
    ],
)
def test_a_stage_needs_the_evaluations_of_the_stages_around_whose_masks_it_looks(tmp_path, stage, arguments, needed):
    for name in STAGES:
        run = tmp_path / name / "west" / "2026_01_01_00_00_00"
        run.mkdir(parents=True)
        (run / "best.pt").touch()
    options = evaluate.parse(STAGES[stage], [*arguments, "--path", str(tmp_path), "--time", "2026_01_01_00_00_00"])
    found = evaluate_as_told(options)
    assert {name: earlier.folder.name for name, earlier in found.items()} == needed


def evaluate_as_told(options: EvaluateOptions) -> dict[str, EarlierEvaluation]:
    """Do what the errors ask for: leave behind what the commands that they name would leave."""
    while True:
        try:
            return evaluate.find_earlier_evaluations(options, "west")
        except InputError as error:
            assert "--thresh" not in error.command and "--time" not in error.command
            _, script, *arguments = error.command.split()
            earlier = evaluate_as_told(evaluate.parse(STAGES[Path(script).stem.split("_sh_")[1]], arguments))
            settings = {"before": {name: evaluate.read_settings(e.folder) for name, e in earlier.items()}}
            error.path.mkdir()
            (error.path / "settings.yaml").write_text(yaml.safe_dump(settings))
            write_summary(error.path / "summary.json", [])


def test_the_command_repeats_the_options():
    arguments = ["--data", "a b", "--store", "/s", "--path", "/p", "--time", "t", "--thresh", "0.25"]
    options = evaluate.parse(STAGES["tumor_fine"], [*arguments, "--roi", "reference", "--average"])
    assert options.command() == (
        "python evaluate_tumor/evaluate_sh_tumor_fine.py --data 'a b' --store /s --path /p --time t --thresh 0.25 "
        "--roi reference --average"
    )
    assert evaluate.parse(STAGES["pancreas_coarse"], []).command().endswith("evaluate_sh_pancreas_coarse.py")
    assert evaluate.parse(STAGES["pancreas_coarse"], ["--fast"]).command().endswith("_coarse.py --fast")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [(["--thresh", "1"], "--thresh 1.0"), (["--thresh", "nan"], "--thresh nan"), (["--data", "none"], "--data none")],
)
def test_options_that_make_no_sense_are_refused(arguments, option):
    with pytest.raises(InputError) as error:
        evaluate.parse(STAGES["tumor_fine"], arguments)
    assert error.value.path == option


def test_a_centre_where_no_tumour_is_labelled_is_refused(without_tumours, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    options = ["--store", str(without_tumours), "--path", str(tmp_path / "runs"), "--gpu", "cpu"]
    assert evaluate.main("tumor_coarse", ["--data", CENTRES[0], *options]) == 2
    message = capsys.readouterr().err
    assert f"split {CENTRES[0]}: no tumour is labelled in the centres of its test cases" in message
    assert message.count("\n") == 1
    assert not any((tmp_path / "runs").iterdir())
    assert evaluate.main("pancreas_coarse", ["--data", CENTRES[0], *options]) == 2
    assert "no trained pancreas coarse model" in capsys.readouterr().err
