"""What an evaluation asks of the model and of the cases before it begins."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.cases.preparation import Preparation
from data.cases.store import read_store
from data.common.errors import InputError
from data.splits.frozen import frozen_splits
from engine.evaluate import stage as evaluate
from engine.infer.cascade import StageModel
from engine.stages import STAGES
from tests.study_parts import CENTRES


def test_a_store_prepared_in_another_way_than_the_models_is_refused(study_store, tmp_path):
    centres = read_store(study_store)
    split = frozen_splits(study_store, centres)["west"]
    coarser = Preparation(spacing=(10.0, 8.0, 8.0))
    stage, run, cpu = STAGES["pancreas_coarse"], tmp_path / "run", torch.device("cpu")
    model = StageModel(stage, torch.nn.Identity(), "segmentation", 0.5, cpu, run, 1, split.hash, coarser)
    options = evaluate.parse(stage, ["--path", str(tmp_path)])
    with pytest.raises(InputError) as caught:
        evaluate.open_evaluation(options, model, split, centres["west"])
    assert "--spacing 10 8 8, but west/case0 with --crop none" in caught.value.problem
    assert "--store" in caught.value.remedy and not run.exists()
    evaluate.open_evaluation(options, replace(model, preparation=Preparation()), split, centres["west"])


def test_a_centre_where_no_tumour_is_labelled_is_refused(without_tumours, tmp_path, capsys):
    options = ["--store", str(without_tumours), "--path", str(tmp_path / "runs"), "--gpu", "cpu"]
    assert evaluate.main("tumor_coarse", ["--data", CENTRES[0], *options]) == 2
    message = capsys.readouterr().err
    assert (
        f"split {CENTRES[0]}: no tumour is labelled in the centres of its test cases" in message
        and message.count("\n") == 1
    )
    assert not Path(tmp_path / "runs").exists()
    assert evaluate.main("pancreas_coarse", ["--data", CENTRES[0], *options]) == 2
    assert "no trained pancreas coarse model" in capsys.readouterr().err
