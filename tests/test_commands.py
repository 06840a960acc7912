"""The commands as a user types them, on two small centres: prepare, train, evaluate and predict."""

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
import SimpleITK as sitk
import torch
import yaml

from data.common.files import REPOSITORY
from data.prepare import command as prepare
from data.scans.volume import write_lps
from data.splits import frozen
from data.verify import command as verify
from engine.evaluate import stage as evaluate
from engine.infer import predict
from engine.stages import STAGES
from engine.train import command as train_command
from tests.conftest import edit_manifest

SPACING = (3.0, 2.5, 2.5)
NATIVE = ["--sampling", "target_mm=3,2.5,2.5"]  # the network sees the voxels as they are


def write_case(root: Path, name: str, seed: int, tumour: bool = True) -> None:
    """Write a scan with noise, a bright organ and a dark lesion in it, and its label."""
    rng = np.random.default_rng(seed)
    label = np.zeros((18, 48, 48), np.uint8)
    z, y, x = rng.integers((2, 10, 10), (5, 16, 16))
    label[z : z + 12, y : y + 20, x : x + 22] = 1
    if tumour:
        label[z + 2 : z + 8, y + 4 : y + 14, x + 5 : x + 15] = 2
    image = (rng.normal(0, 12, label.shape) + 180 * (label > 0) - 120 * (label == 2)).astype(np.int16)
    write_lps(root / "images" / f"{name}.nii.gz", image, SPACING)
    write_lps(root / "labels" / f"{name}.nii.gz", label, SPACING)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Return a folder with two prepared centres, four stages trained with "east" held out, and an unseen scan."""
    root = tmp_path_factory.mktemp("world")
    for number, centre in enumerate(("west", "east")):
        for i in range(3):
            write_case(root / centre, f"scan{i}", 10 * number + i, tumour=i < 2)
        assert prepare.main(["folder", str(root / centre), "--centre", centre, "--workers", "1", *store(root)]) == 0
    write_case(root / "unseen", "new", 99)
    for stage in STAGES:
        options = ["--data", "east", "--epochs", "25", "--width", "8", "--lr", "5e-3", "--workers", "0", *NATIVE]
        assert train_command.main(stage, [*options, *places(root), "--gpu", "cpu", "--validate-every", "5"]) == 0
    return root


def store(root: Path) -> list[str]:
    return ["--store", str(root / "store")]


def places(root: Path) -> list[str]:
    return [*store(root), "--path", str(root / "checkpoints")]


def run_command(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; its output is UTF-8 whatever the locale of the tests' process."""
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8")


def run_of(root: Path, stage: str) -> Path:
    return max((root / "checkpoints" / stage / "east").iterdir())


def evaluate_all(root: Path, *options: str) -> None:
    for stage in STAGES:
        roi = options if STAGES[stage].sampling.target == "tumour" else ()
        assert evaluate.main(stage, ["--data", "east", *places(root), *roi]) == 0, stage


def test_a_run_folder_records_everything(world):
    run = run_of(world, "tumor_fine")
    assert {"settings.yaml", "losses.csv", "curves.png", "last.pt", "best.pt"} <= {path.name for path in run.iterdir()}
    assert any(path.name.startswith("events.out.tfevents") for path in run.iterdir())
    record = yaml.safe_load((run / "settings.yaml").read_text())
    assert record["split"] == "east" and record["split_hash"] and record["method"]["weights"]["slice"] == 1


def test_the_four_stages_are_evaluated_in_order(world):
    evaluate_all(world)
    for stage in STAGES:
        roi = "evaluation_predicted" if STAGES[stage].predecessor else "evaluation"
        folder = run_of(world, stage) / roi
        with (folder / "cases.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["case"] for row in rows] == ["east/scan0", "east/scan1", "east/scan2"]
        assert {"dice", "recall", "roi_recall", "nsd_2mm", "hd95_mm", "seconds", "threshold"} <= set(rows[0])
        assert {"summary.txt", "summary.json", "distributions.png"} <= {path.name for path in folder.iterdir()}
        for name in ("scan0", "scan2"):
            prediction = sitk.ReadImage(str(folder / "predictions" / f"{name}.nii.gz"))
            scan = sitk.ReadImage(str(world / "east" / "images" / f"{name}.nii.gz"))
            assert prediction.GetSize() == scan.GetSize() and prediction.GetDirection() == scan.GetDirection()
    with (run_of(world, "pancreas_fine") / "evaluation_predicted" / "cases.csv").open() as file:
        assert (
            np.mean([float(row["dice"]) for row in csv.DictReader(file)]) > 0.6
        )  # the network has learnt, and generalises to the centre that was held out


def test_the_reference_pancreas_needs_no_pancreas_stage(world, tmp_path):
    for stage in ("tumor_coarse", "tumor_fine"):
        shutil.copytree(world / "checkpoints" / stage, tmp_path / stage, ignore=shutil.ignore_patterns("evaluation*"))
        options = ["--data", "east", *store(world), "--path", str(tmp_path), "--roi", "reference"]
        assert evaluate.main(stage, options) == 0


def test_an_evaluation_without_that_of_its_predecessor_says_what_to_run(world, tmp_path, capsys):
    shutil.copytree(world / "checkpoints", tmp_path / "c", ignore=shutil.ignore_patterns("evaluation*"))
    options = ["--data", "east", *store(world), "--path", str(tmp_path / "c")]
    assert evaluate.main("pancreas_fine", options) == 2
    assert "python evaluate_pancreas/evaluate_sh_pancreas_coarse.py --data east" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "c" / "tumor_coarse")
    assert evaluate.main("tumor_coarse", options) == 2
    assert "python train_tumor/train_sh_tumor_coarse.py --data east" in capsys.readouterr().err


def test_an_evaluation_is_reused_unless_the_threshold_differs(world, capsys):
    arguments = ["--data", "east", *places(world)]
    assert evaluate.main("pancreas_coarse", arguments) == 0
    mask = run_of(world, "pancreas_coarse") / "evaluation" / "predictions" / "scan1.nii.gz"
    before = mask.stat().st_mtime_ns
    assert evaluate.main("pancreas_coarse", arguments) == 0 and mask.stat().st_mtime_ns == before
    assert evaluate.main("pancreas_coarse", [*arguments, "--thresh", "0.31"]) == 0
    assert "threshold 0.31" in capsys.readouterr().out
    assert (run_of(world, "pancreas_coarse") / "evaluation_thresh_0.31" / "summary.json").exists()
    assert mask.stat().st_mtime_ns == before  # the next stages still read the first evaluation


def test_a_changed_label_is_evaluated_again_and_later_stages_become_outdated(world, tmp_path, capsys):
    shutil.copytree(world, tmp_path / "w")
    root = tmp_path / "w"
    for stage in ("pancreas_coarse", "pancreas_fine"):
        assert evaluate.main(stage, ["--data", "east", *places(root)]) == 0
    shutil.rmtree(root / "store" / "east" / "scan0")
    shutil.copytree(root / "store" / "west" / "scan0", root / "store" / "east" / "scan0")
    edit_manifest(root / "store" / "east" / "scan0", centre="east")
    assert evaluate.main("pancreas_coarse", ["--data", "east", *places(root)]) == 0
    assert evaluate.main("tumor_coarse", ["--data", "east", *places(root)]) == 2
    message = capsys.readouterr().err
    assert "older than the evaluations" in message
    assert "python evaluate_pancreas/evaluate_sh_pancreas_fine.py" in message


def test_a_scan_on_both_sides_of_a_split_is_refused_unless_allowed(world, tmp_path, capsys):
    store = tmp_path / "store"
    shutil.copytree(world / "store", store)
    shutil.copytree(store / "west" / "scan0", store / "east" / "again")
    edit_manifest(store / "east" / "again", centre="east", name="again")
    (store / "splits.json").unlink()
    command = ["--data", "east", "--dry-run", "--store", str(store), "--path", str(tmp_path), "--gpu", "cpu"]
    assert train_command.main("pancreas_fine", command) == 2
    assert "west/scan0" in (message := capsys.readouterr().err) and "--allow-duplicates" in message
    assert train_command.main("pancreas_fine", [*command, "--allow-duplicates"]) == 0
    assert "warning: " in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_predict_writes_masks_on_the_grid_of_the_scan(world, tmp_path, suffix):
    scan = sitk.ReadImage(str(world / "unseen" / "images" / "new.nii.gz"))
    turned = sitk.DICOMOrient(scan, "RAI")
    turned.SetOrigin((11.0, -7.5, 300.25))
    path = tmp_path / f"new{suffix}"
    sitk.WriteImage(turned, str(path))
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"<!DOCTYPE html>")
    out = tmp_path / "out"
    assert predict.main([str(broken), str(path), "-o", str(out), "--data", "east", *places(world)[2:]]) == 2
    mask = sitk.ReadImage(str(out / "new_pancreas_tumour.nii.gz"))
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, get)() == pytest.approx(getattr(turned, get)())
    found = sitk.GetArrayFromImage(sitk.DICOMOrient(mask, "LPS")) > 0
    wanted = sitk.GetArrayFromImage(sitk.ReadImage(str(world / "unseen" / "labels" / "new.nii.gz"))) > 0
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.6
    with (out / "volumes.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert float(rows["new"]["pancreas_ml"]) > 0 and "a web page" in rows["broken"]["error"]
    assert (out / "new.png").exists() and not (out / "broken.png").exists()


def test_predict_names_every_missing_model(world, tmp_path, capsys):
    scan = str(world / "unseen" / "images" / "new.nii.gz")
    assert predict.main([scan, "-o", str(tmp_path / "out"), *places(world)[2:]]) == 2
    message = capsys.readouterr().err
    for stage in STAGES.values():
        assert f"{stage.script('train')} --data none" in message


def test_a_scan_without_a_pancreas_gives_an_empty_mask_and_a_note(world, tmp_path, capsys, monkeypatch):
    load_models = predict.load_models
    unsure = {"threshold": 0.999999}  # these small models would find something anywhere
    monkeypatch.setattr(
        predict, "load_models", lambda *a: {name: replace(m, **unsure) for name, m in load_models(*a).items()}
    )
    write_lps(tmp_path / "air.nii.gz", np.full((20, 40, 40), -1000, np.int16), SPACING)
    options = ["-o", str(tmp_path), "--data", "east", *places(world)[2:]]
    assert predict.main([str(tmp_path / "air.nii.gz"), *options]) == 0
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "air_pancreas_tumour.nii.gz"))).any()
    assert "no pancreas found" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["train", "evaluate"])
@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_script_is_short_and_has_a_help_text(action, stage):
    script = REPOSITORY / STAGES[stage].script_path(action)
    assert len(script.read_text().splitlines()) <= 40
    result = run_command([sys.executable, script.name, "--help"], script.parent)
    assert result.returncode == 0 and "(default: " in result.stdout and "--data" in result.stdout


def bad_training(root: Path, *options: str) -> list[str]:
    return [*places(root), "--epochs", "1", "--width", "8", "--workers", "0", *options]


@pytest.mark.parametrize(
    ("options", "problem", "remedy"),
    [
        (["--data", "north"], "--data north: no centre or split has this name", "hoose one of east, west, none"),
        (["--width", "12"], "--width 12", "multiple of the 8 groups"),
        (["--lr", "0"], "--lr 0", "positive"),
        (["--lr", "nan"], "--lr nan", "positive"),
        (["--seed", "-1"], "--seed -1", ">= 0"),
        (["--gpu", "99"], "--gpu 99: this machine has", "ive cpu"),
        (["--views", "none", "--weight", "consistency=1"], "two views", "consistency=0"),
    ],
)
def test_bad_training_options_are_refused_in_one_line_before_a_run_is_made(world, capsys, options, problem, remedy):
    before = set((world / "checkpoints" / "pancreas_fine").rglob("*"))
    assert train_command.main("pancreas_fine", bad_training(world, *options)) == 2
    message = capsys.readouterr().err
    assert problem in message and remedy in message and message.count("\n") == 1
    assert set((world / "checkpoints" / "pancreas_fine").rglob("*")) == before


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a place where nobody can create a folder")
def test_a_place_that_cannot_be_written_to_is_refused_in_one_line(world, tmp_path, capsys):
    nowhere, file = Path("/proc/nowhere"), tmp_path / "file"
    file.touch()
    scan, data = str(world / "unseen" / "images" / "new.nii.gz"), ["--data", "east"]
    for place, problem in ((nowhere, "this folder cannot be created or written to"), (file, "it is a file")):
        commands = [
            lambda at: train_command.main("pancreas_fine", [*store(world), *data, "--path", at, "--gpu", "cpu"]),
            lambda at: predict.main([scan, "-o", at, *data, *places(world)[2:]]),
            lambda at: prepare.main(["folder", str(world / "east"), "--centre", "new", "--store", at]),
            lambda at: verify.main(["folder", str(world / "east"), "--centre", "new", "--sheet", at]),
            lambda at: verify.main(["folder", str(world / "east"), "--centre", "new", "--json", f"{at}/table.json"]),
        ]
        for command in commands:
            assert command(str(place)) == 2
            message = capsys.readouterr().err
            assert str(place) in message and problem in message and message.count("\n") == 1


def test_an_only_centre_cannot_be_held_out_and_its_patients_are_divided_instead(tmp_path, world, capsys):
    assert train_command.main("pancreas_fine", ["--store", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "no centre is prepared" in message and "python -m data.prepare" in message
    shutil.copytree(world / "store" / "east", tmp_path / "east")
    frozen._say_once.cache_clear()
    assert train_command.main("pancreas_fine", ["--store", str(tmp_path), "--dry-run", "--data", "east"]) == 2
    assert "--data east: it holds out the only prepared centre" in capsys.readouterr().err
    assert train_command.main("pancreas_fine", ["--store", str(tmp_path), "--dry-run"]) == 0
    assert "east is the only prepared centre, so its patients are divided" in capsys.readouterr().out
    assert train_command.main("pancreas_fine", ["--store", str(tmp_path), "--dry-run", "--data", "none"]) == 0


def test_without_arguments_every_centre_is_held_out_once(world, tmp_path, capsys):
    assert train_command.main("pancreas_fine", [*store(world), "--path", str(tmp_path), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "east held out" in out and "west held out" in out and "none" not in out
    assert not any(tmp_path.iterdir())


def test_a_killed_training_resumes_after_its_last_epoch(world, tmp_path):
    script = REPOSITORY / "train_pancreas" / "train_sh_pancreas_fine.py"
    options = ["--data", "east", "--epochs", "12", "--width", "8", "--workers", "0", "--gpu", "cpu", *NATIVE]
    command = [sys.executable, str(script), *options, *store(world), "--path", str(tmp_path), "--resume"]
    training = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.rglob("last.pt")) and training.poll() is None:
        time.sleep(0.02)
    os.kill(training.pid, signal.SIGKILL)
    training.wait()
    (run,) = (tmp_path / "pancreas_fine" / "east").iterdir()
    reached = torch.load(run / "last.pt", weights_only=True)["epoch"]
    assert reached >= 1
    result = run_command(command, tmp_path)
    assert result.returncode == 0 and f"after epoch {reached}" in result.stdout
    assert [run] == list((tmp_path / "pancreas_fine" / "east").iterdir())
    with (run / "losses.csv").open() as file:
        assert [int(float(row["epoch"])) for row in csv.DictReader(file)] == list(range(1, 13))
    assert "already finished" in run_command(command, tmp_path).stdout


def test_a_damaged_checkpoint_is_named(world, tmp_path, capsys):
    shutil.copytree(world / "checkpoints", tmp_path / "c", ignore=shutil.ignore_patterns("evaluation*"))
    best = max((tmp_path / "c" / "pancreas_coarse" / "east").iterdir()) / "best.pt"
    best.write_bytes(best.read_bytes()[:5000])
    assert evaluate.main("pancreas_coarse", ["--data", "east", *store(world), "--path", str(tmp_path / "c")]) == 2
    message = capsys.readouterr().err
    assert (
        "best.pt: the file is truncated or damaged" in message
        and "rain this stage again" in message
        and "python train_pancreas/" in message
    )
