"""For a split, exactly the cases are scored that the export gave nnU-Net to be tested or validated on."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.cases.case import write_case
from data.common.files import REPOSITORY
from data.export import command as export
from data.scans.grid import Grid
from data.splits import command as split_kinds
from engine.evaluate import folder as score
from engine.report.tables import read_case_table

SPACING = (3.0, 2.0, 2.0)
TUMOURS = {"north": True, "south": True, "organs": False}
UNKNOWN = {("tumour", "folds_2")}  # tested there: scans that may have a tumour which nobody drew


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Three centres of five cases of the same names, with a cross-validation; in one no tumour is labelled."""
    root = tmp_path_factory.mktemp("store")
    for number, (centre, tumours) in enumerate(TUMOURS.items()):
        for index in range(5):
            label = np.zeros((6, 12, 12), np.uint8)
            label[1:5, 2 + number : 8, 2:10] = 1
            label[2:4, 4:7, 4:7] = 2 if tumours else 1
            image = np.full(label.shape, 10 * number + index, np.int16)
            about = {"patient": str(index), "spacing": SPACING, "grid": Grid.plain(label.shape, SPACING)}
            write_case(root, centre, f"case_{index}", image, label, **about, source={})
    split_kinds.main(["--store", str(root), "--folds", "5"])
    return root


@pytest.fixture(scope="module")
def exported(store, tmp_path_factory) -> dict[str, Path]:
    """The data set that nnU-Net would be trained on, by split."""
    raw = tmp_path_factory.mktemp("raw")
    names = ("north", "folds_1", "folds_2", "folds_3", "folds_4", "folds_5")
    for number, name in enumerate(names, start=901):
        assert export.main([str(raw), "--store", str(store), "--data", name, "--id", str(number)]) == 0
    return {name: raw / f"Dataset{number}_Pancreas" for number, name in enumerate(names, start=901)}


def predict(folder: Path, dataset: Path, part: str) -> list[str]:
    """Write what nnU-Net would write for a part, with the references as predictions; returns the names of the cases."""
    (fold,) = json.loads((dataset / "splits_final.json").read_text())
    tested = [path.name.removesuffix(".nii.gz") for path in sorted((dataset / "labelsTs").iterdir())]
    names = fold["val"] if part == "validation" else tested
    folder.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(dataset / ("labelsTr" if part == "validation" else "labelsTs") / f"{name}.nii.gz", folder)
    (folder / "summary.json").write_text("{}")
    return names


def run(store: Path, predictions: Path, out: Path, *options: str) -> int:
    return score.main(["--predictions", str(predictions), "--store", str(store), "--out", str(out), *options])


def scored(out: Path) -> set[str]:
    """The names that the export gave to the scored cases; all of them are perfect."""
    rows = read_case_table(out / "cases.csv")
    assert all(row["dice"] == 1 for row in rows)
    return {row["case"].replace("/", "__") for row in rows}


@pytest.mark.parametrize("label", ["tumour", "pancreas"])
@pytest.mark.parametrize("split", ["north", "folds_2"])
def test_the_validation_part_is_fold_0_of_the_export(store, exported, tmp_path, capsys, split, label):
    names = predict(tmp_path / "p", exported[split], "validation")
    assert run(store, tmp_path / "p", tmp_path / "out", "--data", split, "--part", "validation", "--label", label) == 0
    assert scored(tmp_path / "out") == set(names) and "not of" not in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "out" / "settings.yaml").read_text())["of"] == f"{split} validation"


@pytest.mark.parametrize("label", ["tumour", "pancreas"])
@pytest.mark.parametrize("split", ["north", "folds_2"])
def test_the_test_part_holds_the_cases_of_the_evaluation_scripts(store, exported, tmp_path, split, label):
    names = predict(tmp_path / "p", exported[split], "test")
    assert run(store, tmp_path / "p", tmp_path / "out", "--data", split, "--label", label) == 0
    known = [name for name in names if label == "pancreas" or not name.startswith("organs")]
    assert scored(tmp_path / "out") == set(known)
    assert (len(names) > len(known)) == ((label, split) in UNKNOWN)


def test_all_folds_together_score_every_case_once(store, exported, tmp_path):
    for fold in range(1, 6):
        predict(tmp_path / "p", exported[f"folds_{fold}"], "test")
    words = ["--predictions", tmp_path / "p", "--store", store, "--data", "folds", "--label", "pancreas"]
    command = [sys.executable, "-m", "engine.evaluate", *map(str, words), "--out", str(tmp_path / "out")]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert scored(tmp_path / "out") == {f"{centre}__case_{i}" for centre in TUMOURS for i in range(5)}


def test_a_missing_prediction_of_a_split_is_a_failed_case(store, exported, tmp_path, capsys):
    names = predict(tmp_path / "p", exported["folds_2"], "validation")
    (tmp_path / "p" / f"{names[0]}.nii.gz").unlink()
    options = ["--data", "folds_2", "--part", "validation", "--label", "pancreas"]
    assert run(store, tmp_path / "p", tmp_path / "out", *options) == 2
    assert f"no prediction of {names[0].replace('__', '/')}" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", [[], ["--pattern", "{case}.nii.gz"]])
def test_a_file_that_can_belong_to_two_centres_is_refused(store, exported, tmp_path, capsys, pattern):
    name = predict(tmp_path / "p", exported["north"], "test")[0]
    shutil.move(tmp_path / "p" / f"{name}.nii.gz", tmp_path / "p" / "case_0.nii.gz")
    assert run(store, tmp_path / "p", tmp_path / "out", "--data", "folds", "--label", "tumour", *pattern) == 2
    message = capsys.readouterr().err
    assert (
        "case_0.nii.gz: can be the prediction of " in message
        and "/case_0 and of " in message
        and message.count("\n") == 1
    )
    assert run(store, tmp_path / "p", tmp_path / "mine", "--data", "north", "--label", "tumour") == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--data", "none"], "--data none: has no test case of a centre where a tumour is labelled"),
        (["--data", "organs"], "--data organs: has no test case of a centre where a tumour is labelled"),
        (["--data", "east"], "--data east: no centre or split has this name. Choose one of"),
        (
            ["--centre", "north", "--part", "validation"],
            "--part validation: a centre has no parts. Give a split with --data",
        ),
    ],
)
def test_options_that_name_no_case_give_one_line(store, exported, tmp_path, capsys, options, complaint):
    predict(tmp_path / "p", exported["north"], "test")
    assert run(store, tmp_path / "p", tmp_path / "out", "--label", "tumour", *options) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and complaint in message and message.count("\n") == 1
    assert not (tmp_path / "out").exists()
