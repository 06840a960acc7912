"""Masks of nnU-Net and of this project are scored and compared by one command, for which no network is needed."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.cases.case import Case, write_case
from data.cases.store import read_store
from data.common.errors import InputError
from data.export import command as export
from data.scans.grid import Grid
from data.scans.volume import write_mask
from engine.evaluate import folder as score
from engine.evaluate.methods import read_methods
from engine.infer.volumes import COLUMNS
from engine.metrics import case_metrics
from engine.report.tables import read_case_table, write_case_table

SPACING = (3.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Two centres of four cases; every second one has a tumour."""
    root = tmp_path_factory.mktemp("store")
    for number, centre in enumerate(("east", "west")):
        for index in range(4):
            label = np.zeros((6, 14, 14), np.uint8)
            label[1:5, 2 : 9 + number, 2 : 10 + index] = 1
            label[2:4, 4:7, 4 : 7 + index] = 2 - index % 2
            image = np.full(label.shape, 10 * number + index, np.int16)
            about = {"patient": str(index), "spacing": SPACING, "grid": Grid.plain(label.shape, SPACING)}
            write_case(root, centre, f"case_{index}", image, label, **about, source={})
    return root


def cases_of(store: Path) -> list[Case]:
    return read_store(store)["east"]


def shifted(case: Case, columns: int) -> np.ndarray:
    return np.roll(np.asarray(case.label()), columns, axis=2)


@pytest.fixture(scope="module")
def theirs(store, tmp_path_factory) -> Path:
    """What nnU-Net writes for the exported test cases: labels under the names of the export, on its grid."""
    raw, folder = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("nnunet")
    assert export.main([str(raw), "--store", str(store), "--data", "east", "--allow-duplicates"]) == 0
    exported = sorted((raw / "Dataset901_Pancreas" / "labelsTs").iterdir())
    assert len(exported) == 4
    for path, case in zip(exported, cases_of(store), strict=True):
        write_mask(folder / path.name, shifted(case, 1), case.grid.prepared_grid())
    (folder / "dataset.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def ours(store, tmp_path_factory) -> Path:
    """An evaluation of tumour fine as the scripts leave it, without its checkpoint."""
    run = tmp_path_factory.mktemp("run") / "tumor_fine" / "east" / "2026_01_01_00_00_00"
    evaluation = run / "evaluation_predicted"
    (evaluation / "masks").mkdir(parents=True)
    (run / "settings.yaml").write_text("stage: tumor_fine\n")
    for case in cases_of(store):
        tumour = (shifted(case, 0 if case.name == "case_0" else 2) == 2).astype(np.uint8)
        write_mask(evaluation / "predictions" / f"{case.name}.nii.gz", tumour, case.grid)
    return evaluation


@pytest.fixture(scope="module")
def predicted(store, tmp_path_factory) -> Path:
    """A folder as predict.py leaves it, with another scan in it."""
    folder = tmp_path_factory.mktemp("predicted")
    for case in cases_of(store):
        write_mask(folder / f"{case.name}_pancreas_tumour.nii.gz", shifted(case, 1), case.grid)
    write_case_table(folder / "volumes.csv", [dict.fromkeys(COLUMNS, "x")])
    return folder


def run(store: Path, out: Path, *predictions: str, label: str = "tumour") -> int:
    references = ["--data", "east", "--store", str(store), "--label", label, "--out", str(out)]
    return score.main(["--predictions", *predictions, *references])


def test_both_methods_are_in_one_report_with_the_scores_of_their_masks(store, ours, theirs, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(store, out, f"ours={ours}", f"nnunet={theirs}") == 0
    moved = {"ours": lambda case: 0 if case.name == "case_0" else 2, "nnunet": lambda case: 1}
    dice = {}
    for name, columns in moved.items():
        rows = {row["case"]: row for row in read_case_table(out / name / "cases.csv")}
        for case in cases_of(store):
            masks = (m == 2 for m in (shifted(case, columns(case)), np.asarray(case.label())))
            expected = case_metrics(*masks, SPACING)["dice"]
            assert rows[case.key].get("dice", np.nan) == pytest.approx(expected, nan_ok=True)
            dice[name, case.name] = expected
    text = (out / "side_by_side.txt").read_text()
    cells = {line.split()[0]: line.split() for line in text.splitlines() if line}
    means = [np.mean([dice[name, case] for case in ("case_0", "case_2")]) for name in moved]
    assert cells["dice"][1:4] == [f"{means[0]:.3f}", f"{means[1]:.3f}", f"{means[0] - means[1]:+.3f}"]
    assert cells["dice"][-1] == "2" and "4 cases in both" in text and text in capsys.readouterr().out
    table = {row["case"]: row for row in read_plain(out / "side_by_side.csv")}
    assert float(table["east/case_0"]["dice_ours"]) == 1 and float(table["east/case_2"]["dice_nnunet"]) < 1
    assert (out / "side_by_side.png").exists() and (out / "ours" / "best.png").exists()
    assert yaml.safe_load((out / "ours" / "settings.yaml").read_text())["values"] == "mask"
    assert yaml.safe_load((out / "nnunet" / "settings.yaml").read_text())["values"] == "labels"
    # The same command replaces its results; a single folder then leaves none of several behind.
    assert run(store, out, f"ours={ours}", f"nnunet={theirs}") == 0
    assert (out / "side_by_side.txt").read_text() == text
    assert run(store, out, str(theirs)) == 0
    assert not (out / "side_by_side.txt").exists() and (out / "cases.csv").exists()


def read_plain(path: Path) -> list[dict]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_folders_of_predict_py_are_found_under_their_names(store, predicted, theirs, tmp_path):
    assert run(store, tmp_path / "out", f"ours={predicted}", f"nnunet={theirs}", label="pancreas") == 0
    tables = [(tmp_path / "out" / name / "cases.csv").read_text() for name in ("ours", "nnunet")]
    assert tables[0] == tables[1]  # the masks are the same


def test_a_missing_mask_of_one_method_is_named_and_leaves_the_others_comparable(store, ours, theirs, tmp_path, capsys):
    less = shutil.copytree(theirs, tmp_path / "less")
    (less / "east__case_2.nii.gz").unlink()
    assert run(store, tmp_path / "out", f"ours={ours}", f"nnunet={less}") == 2
    printed = capsys.readouterr()
    assert "error: nnunet: east/case_2: " in printed.err and printed.err.count("error: ") == 1
    text = (tmp_path / "out" / "side_by_side.txt").read_text()
    assert "3 cases in both" in text and "not evaluated in nnunet: east/case_2" in text


@pytest.mark.parametrize(
    ("texts", "target", "complaint"),
    [
        (["ours={ours}"], "pancreas", "holds masks of the tumour, not of the pancreas"),
        (["ours={ours}/predictions"], "pancreas", "holds masks of the tumour, not of the pancreas"),
        (["a={ours}", "a={theirs}"], "tumour", "two folders are called a"),
        (["a b={ours}", "c={theirs}"], "tumour", "'a b' cannot be the name of a folder"),
        (["ours={ours}", "nnunet=/nowhere"], "tumour", "no such folder"),
    ],
)
def test_folders_that_cannot_be_compared_are_refused_before_anything_is_written(
    store, ours, theirs, tmp_path, capsys, texts, target, complaint
):
    texts = [text.format(ours=ours, theirs=theirs) for text in texts]
    assert run(store, tmp_path / "out", *texts, label=target) == 2
    message = capsys.readouterr().err
    assert complaint in message and message.count("\n") == 1 and not (tmp_path / "out").exists()


def test_what_a_folder_is_decides_how_it_is_read(ours, theirs, predicted, tmp_path):
    given = {"target": "tumour", "pattern": None, "values": "auto"}
    found = read_methods([str(ours), str(theirs), f"p={predicted}", f"q={ours}/predictions"], **given)
    assert list(found) == ["evaluation_predicted", theirs.name, "p", "q"]
    assert [p.values for p in found.values()] == ["mask", "auto", "labels", "mask"]
    assert found["q"].folder == found["evaluation_predicted"].folder == ours / "predictions"
    assert found["p"].pattern == "{case}_pancreas_tumour.nii.gz"
    (named,) = read_methods([str(predicted)], **{**given, "pattern": "{case}.mha"}).values()
    assert (named.pattern, named.values) == ("{case}.mha", "labels")
    with_sign = tmp_path / "a=b"
    with_sign.mkdir()
    assert list(read_methods([str(with_sign)], **given)) == ["a=b"]  # the folder of this name
    with pytest.raises(InputError):
        read_methods([str(with_sign), str(theirs)], **given)
