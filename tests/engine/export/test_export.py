"""A model file holds all that its runs held, and is refused once it is anything else."""

import hashlib
import json
import re
import zipfile
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from data.cases.preparation import Preparation
from data.common.errors import InputError
from data.common.records import CHECKSUM, checksum
from engine.checkpoint import save_checkpoint
from engine.export import card as model_card
from engine.export import command as export
from engine.infer import predict
from engine.infer.models import StageModel, load_model
from engine.infer.scan import hash_models
from engine.model_file import read_model_file
from engine.stages import STAGES
from tests.conftest import affine_of, assert_clear, save, tiny_scan
from tests.engine.export.made_runs import CENTRES, DICE, make_checkpoint, make_runs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make_runs(root, target_mm=(5.0, 4.0, 4.0))
    return root


@pytest.fixture(scope="module")
def model(runs) -> Path:
    path = runs.parent / "exported" / "model.zip"
    assert export.main([str(runs), "-o", str(path), "--data", "east"]) == 0
    return path


def chosen_models(*options: str) -> dict[str, StageModel]:
    return predict.load_models(predict.parse(["scan.nii.gz", "-o", "out", "--gpu", "cpu", *map(str, options)]).models)


def test_a_model_file_holds_weights_recipe_thresholds_centres_hashes_and_metrics(runs, model):
    with zipfile.ZipFile(model) as archive:
        record = json.loads(archive.read("model.json"))
        for stage in STAGES:
            (best,) = runs.glob(f"{stage}/east/*/best.pt")
            content = archive.read(f"{stage}.pt")
            assert content == best.read_bytes()
            assert record["files"][f"{stage}.pt"] == hashlib.sha256(content).hexdigest()
            described = record["stages"][stage]
            assert described["centres"] == CENTRES and described["split_hash"] == "0123456789abcdef"
            assert described["thresholds"]["segmentation"] == 0.35 and described["validation_dice"] == 0.765
            assert described["evaluations"]["evaluation_predicted"]["metrics"]["dice"]["mean"] == 0.8123
            assert described["recipe"]["sampling"]["target_mm"] == [5.0, 4.0, 4.0]
    assert "run" in record["stages"]["tumor_fine"] and str(runs) not in json.dumps(record)


def test_the_card_gives_no_interval_over_few_cases():
    summary = {"counts": {"cases": 5}, "metrics": {"dice": DICE | {"n": 4}}}  # as an earlier version wrote it
    assert model_card._figures(summary)[:2] == ["5", "0.812 (n = 4)"]


def test_the_card_tells_data_training_results_use_limits_and_licence(model):
    with zipfile.ZipFile(model) as archive:
        card = archive.read("MODEL_CARD.md").decode()
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings == [
        "# Model card: model.zip",
        *("## " + title for title in ("Training data", "Training", "Results", "Intended use", "Limits", "Licence")),
    ]
    assert "south 7, west 12" in card and "east 4" in card and "0.812 (0.700 to 0.900, n = 12)" in card
    assert "not a medical device" in card and "MIT License" in card and "coarser than about 7.5 x 1.4 x 1.4 mm" in card
    assert "not recorded" not in card and "No operating point" not in card
    ends = [re.findall(r"[^|]+", line)[-2:] for line in card.splitlines() if "| random weights |" in line]
    assert [tuple(map(str.strip, end)) for end in ends] == [
        ("", "no"),
        ("", "no"),
        ("0.613", "no"),
        ("0.613", "yes"),
    ]


@pytest.mark.parametrize("synthetic", [["east", "south", "west"], ["south"], []])
def test_that_the_centres_are_synthetic_is_told_by_the_card_the_file_and_the_models(tmp_path, synthetic):
    for run in make_runs(tmp_path / "runs").values():
        record = {"centres": CENTRES, "synthetic_centres": synthetic}
        (run / "settings.yaml").write_text(yaml.safe_dump(record))
    assert export.main([str(tmp_path / "runs"), "-o", str(tmp_path / "m.zip"), "--data", "east"]) == 0
    with zipfile.ZipFile(tmp_path / "m.zip") as archive:
        card = archive.read("MODEL_CARD.md").decode()
        record = json.loads(archive.read("model.json"))
    assert record["stages"]["tumor_fine"]["synthetic_centres"] == synthetic
    assert (f"The scans of {', '.join(synthetic)} are synthetic" in card) == bool(synthetic)
    only = len(synthetic) == 3  # both training centres are
    assert ("- It was trained on synthetic scans only. Do not rely on it for real scans.\n" in card) == only
    for options in (("--model", tmp_path / "m.zip"), ("--path", tmp_path / "runs", "--data", "east")):
        assert all(model.only_synthetic == only for model in chosen_models(*options).values())


def test_the_same_runs_give_the_same_bytes_also_if_they_are_named_one_by_one(runs, model, tmp_path):
    named = sorted(map(str, runs.glob("*/east/*")), reverse=True)
    assert export.main([*named, "-o", str(tmp_path / "model.zip")]) == 0
    assert (tmp_path / "model.zip").read_bytes() == model.read_bytes()


def test_a_model_file_gives_the_models_of_its_runs(runs, model):
    ours = chosen_models("--model", model, "--average")
    theirs = chosen_models("--path", runs, "--data", "east", "--average")
    assert list(ours) == list(theirs) == list(STAGES) and hash_models(ours) == hash_models(theirs)
    for stage, own in ours.items():
        other = theirs[stage]
        assert (own.stage, own.readout, own.threshold, own.spacing_range) == (
            other.stage,
            other.readout,
            other.threshold,
            other.spacing_range,
        )
        assert all(torch.equal(value, other.net.state_dict()[name]) for name, value in own.net.state_dict().items())


def test_a_scan_is_segmented_with_a_model_file_as_with_its_runs(tmp_path):
    runs, model = tmp_path / "made", tmp_path / "model.zip"
    make_runs(runs, threshold=0.02, target_mm=(5.0, 4.0, 4.0))  # about the probability of random weights
    assert export.main([str(runs), "-o", str(model), "--data", "east"]) == 0
    scan = save(tmp_path / "scan.nii.gz", tiny_scan(0)[0].T.copy(), affine_of(zooms=(4.0, 4.0, 5.0)))
    masks = []
    for name, options in (("file", ["--model", str(model)]), ("runs", ["--path", str(runs), "--data", "east"])):
        assert predict.main([str(scan), "-o", str(tmp_path / name), "--gpu", "cpu", "--fast", *options]) == 0
        masks.append(np.asarray(nib.load(tmp_path / name / "scan_pancreas_tumour.nii.gz").dataobj))
    assert np.array_equal(*masks) and masks[0].any()


@pytest.mark.parametrize("option", ["--path=runs", "--data=east", "--time=2026_01_02_03_04_05", "--ensemble=all"])
def test_a_model_file_leaves_no_choice_of_runs(model, option):
    with pytest.raises(InputError, match="Leave out --path, --data, --time and --ensemble, or --model"):
        chosen_models("--model", model, option)


def rewritten(model: Path, to: Path, members: dict[str, bytes | None], method: int = zipfile.ZIP_STORED) -> Path:
    """Write a copy with other members and their hashes in the record; None leaves a member out."""
    with zipfile.ZipFile(model) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents = {name: content for name, content in {**contents, **members}.items() if content is not None}
    record = json.loads(contents.pop("model.json"))
    record["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    record[CHECKSUM] = checksum(record)
    with zipfile.ZipFile(to, "w", method) as archive:
        for name, content in {**contents, "model.json": json.dumps(record).encode()}.items():
            archive.writestr(name, content)
    return to


class Code:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("damage", ["cut", "a byte of the weights", "a byte of the record", "empty", "text"])
def test_a_damaged_file_is_refused(model, tmp_path, damage):
    content = bytearray(model.read_bytes())
    path = tmp_path / "model.zip"
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "a byte of the weights":
        content[len(content) // 3] ^= 1
    elif damage == "a byte of the record":
        content[content.index(b'"threshold')] ^= 1
    elif damage == "empty":
        content = bytearray()
    else:
        content = bytearray(b"no archive at all")
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_model_file(path)
    assert_clear(caught.value, path)


def test_an_edited_or_foreign_file_is_refused_and_its_code_never_runs(model, tmp_path, capsys):
    code = BytesIO()
    torch.save({"format": 4, "stage": "tumor_fine", "net": Code()}, code)
    other = BytesIO()
    save_checkpoint(tmp_path / "other.pt", make_checkpoint("tumor_coarse"))
    other.write((tmp_path / "other.pt").read_bytes())
    path = tmp_path / "model.zip"
    refused = {
        "holds more than tensors": lambda: rewritten(model, path, {"tumor_fine.pt": code.getvalue()}),
        "belongs to the stage tumor_coarse, not tumor_fine": lambda: rewritten(
            model, path, {"tumor_fine.pt": other.getvalue()}
        ),
        "holds no tumor_fine.pt": lambda: rewritten(model, path, {"tumor_fine.pt": None}),
        "is compressed": lambda: rewritten(model, path, {}, zipfile.ZIP_DEFLATED),
    }
    for problem, write in refused.items():
        write()
        with pytest.raises(InputError, match=problem) as caught:
            read_model_file(path)
        assert_clear(caught.value, path)
    with zipfile.ZipFile(rewritten(model, path, {}), "a") as archive:
        archive.writestr("more.txt", "added later")
    with pytest.raises(InputError, match="its members are not those"):
        read_model_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.json", json.dumps({"kind": "something else"}))
    with pytest.raises(InputError, match="not a model of this project"):
        read_model_file(path)
    with pytest.raises(InputError, match="no such file"):
        read_model_file(tmp_path / "missing.zip")
    assert "executed" not in capsys.readouterr().out


def test_a_stage_without_a_run_or_with_two_or_of_other_cases_is_refused(runs, tmp_path, capsys):
    named = sorted(map(str, runs.glob("*/east/*")))
    out = ["-o", str(tmp_path / "model.zip")]
    assert export.main([*named[:3], *out]) == 2
    assert "no run of tumor fine" in capsys.readouterr().err
    assert export.main([*named, named[0], *out]) == 2
    assert "a run of pancreas coarse, as is" in capsys.readouterr().err
    assert export.main([str(runs), *out, "--data", "north"]) == 2
    said = capsys.readouterr().err
    assert "no trained pancreas coarse model. Export the models of another split (--data east), or train one: " in said
    assert said.count("\n") == 1 and "--data north" in said.rpartition(": ")[2]
    (tmp_path / "empty").mkdir()
    assert export.main([str(tmp_path / "empty"), *out, "--data", "north"]) == 2
    assert "no trained pancreas coarse model. Train one: " in capsys.readouterr().err
    checkpoint = make_checkpoint("tumor_fine")
    object.__setattr__(checkpoint.recipe, "preparation", Preparation(crop="body"))
    save_checkpoint(tmp_path / "other" / "best.pt", checkpoint)
    assert export.main([*named[:3], str(tmp_path / "other"), *out]) == 2
    assert "trained on cases prepared with" in capsys.readouterr().err
    assert export.main([*named, "-o", str(tmp_path / "model.tar")]) == 2
    assert not (tmp_path / "model.zip").exists()


def test_stages_of_different_splits_and_runs_without_a_record_are_told_in_the_card(tmp_path, capsys):
    folders = make_runs(tmp_path / "runs")
    save_checkpoint(folders["tumor_fine"] / "best.pt", make_checkpoint("tumor_fine", split="none"))
    (folders["tumor_fine"] / "settings.yaml").unlink()
    assert export.main([*map(str, folders.values()), "-o", str(tmp_path / "model.zip")]) == 0
    assert "trained on different splits" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        card = archive.read("MODEL_CARD.md").decode()
    assert "different splits" in card and "not recorded" in card
    assert load_model(tmp_path / "runs", "tumor_fine", "east", CPU).threshold == 0.35
