"""A folder of predictions is scored in the same way as by the evaluation scripts, and what it holds is not guessed."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from data.cases.case import Case
from data.cases.store import read_store
from data.common.files import REPOSITORY
from data.prepare import command as prepare
from data.scans.volume import write_lps, write_mask
from engine.evaluate import folder as score
from engine.metrics import case_metrics
from engine.report.tables import read_case_table
from engine.study import command as study
from pancreas_dual_task import report
from tests.conftest import affine_of, save, tiny_scan


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """One centre of four oblique scans; the cases 0 and 2 have a tumour."""
    root = tmp_path_factory.mktemp("scans")
    for index in range(4):
        for kind, array, air in zip(("images", "labels"), tiny_scan(index), (-1000, 0), strict=True):
            (root / kind).mkdir(exist_ok=True)
            array = np.pad(array, ((0, 0), (12, 0), (0, 0)), constant_values=air)
            affine = affine_of((1, 0, 2), (-1, 1, 1), (3.0, 5.0, 0.0), (3.0, 4.0, 5.0))
            save(root / kind / f"case_{index}.nii.gz", array.T, affine)
    for name, way in {"store": ["--crop", "none"], "part": ["--spacing", "6", "5", "5"]}.items():
        options = ["--centre", "east", "--workers", "1", "--store", str(root / name), *way]
        assert prepare.main(["folder", str(root), *options]) == 0
    return root / "store"


def cases_of(store: Path) -> list[Case]:
    return read_store(store)["east"]


def shifted(case: Case) -> np.ndarray:
    """Labels 0/1/2 that differ a little from the reference."""
    return np.roll(np.asarray(case.label()), 1, axis=2)


def predict(folder: Path, store: Path, codes=shifted, name=lambda case: f"{case.name}.nii.gz") -> Path:
    for case in cases_of(store):
        write_mask(folder / name(case), codes(case), case.grid)
    return folder


def run(store: Path, predictions: Path, out: Path, *options: str) -> int:
    options = options if {"--label", "--stage"} & set(options) else (*options, "--label", "tumour")
    arguments = ["--predictions", str(predictions), "--store", str(store), "--centre", "east", "--out", str(out)]
    return score.main([*arguments, *options])


def rows_of(out: Path) -> dict[str, dict]:
    return {row["case"]: row for row in read_case_table(out / "cases.csv")}


@pytest.mark.parametrize("label", ["tumour", "pancreas"])
def test_labels_get_the_metrics_of_their_masks(store, tmp_path, label):
    out = tmp_path / "out"
    assert run(store, predict(tmp_path / "p", store), out, "--label", label) == 0
    rows = rows_of(out)
    for case in cases_of(store):
        masks = [m == 2 if label == "tumour" else m > 0 for m in (shifted(case), np.asarray(case.label()))]
        for metric, value in case_metrics(*masks, case.spacing).items():
            assert rows[case.key].get(metric, np.nan) == pytest.approx(value, nan_ok=True), metric
    made = {path.name for path in out.iterdir()}
    assert {"summary.txt", "summary.json", "distributions.png", "best.png", "worst.png", "settings.yaml"} <= made
    assert ("\nlesions " in (out / "summary.txt").read_text()) == (label == "tumour")
    assert json.loads((out / "summary.json").read_text())["counts"]["cases"] == 4


def test_what_is_found_in_scans_without_a_tumour_is_reported_and_shown(store, tmp_path):
    out = tmp_path / "out"
    assert run(store, predict(tmp_path / "p", store, lambda case: 2 * (np.asarray(case.label()) > 0)), out) == 0
    volumes = [row["prediction_ml"] for case, row in rows_of(out).items() if case in ("east/case_1", "east/case_3")]
    found = json.loads((out / "summary.json").read_text())["tumour_free"]
    assert (found["cases"], found["found_nothing"], found["specificity"]) == (2, 0, 0.0)
    assert found["false_positive_ml_mean"] == pytest.approx(np.mean(volumes)) and min(volumes) > 1
    assert found["centres"]["east"]["cases"] == 2 and (out / "false_positive.png").exists()
    assert "\nwithout tumour   nothing found in 0 of 2, specificity 0.000" in (out / "summary.txt").read_text()


def test_masks_and_labels_under_all_supported_names_get_the_same_scores(store, tmp_path):
    def tumour(case):
        return (shifted(case) == 2).astype(np.uint8)

    folders = {
        "labels": (predict(tmp_path / "labels", store), []),
        "export": (predict(tmp_path / "export", store, name=lambda c: f"{c.file_name}.nrrd"), []),
        "mask": (predict(tmp_path / "mask", store, tumour), ["--values", "mask"]),
        "255": (predict(tmp_path / "255", store, lambda c: tumour(c) * np.uint8(255)), []),
        "named": (
            predict(tmp_path / "named", store, name=lambda c: f"{c.name}_pancreas_tumour.mha"),
            ["--pattern", "{case}_pancreas_tumour.mha", "--stage", "tumor_fine"],
        ),
    }
    tables = {}
    for name, (folder, options) in folders.items():
        assert run(store, folder, tmp_path / "out" / name, *options) == 0, name
        tables[name] = (tmp_path / "out" / name / "cases.csv").read_text()
    assert len(set(tables.values())) == 1
    assert yaml.safe_load((tmp_path / "out" / "255" / "settings.yaml").read_text())["values"] == "mask"


def test_masks_of_255_and_of_1_are_the_same_for_the_pancreas(store, tmp_path):
    for number in (1, 255):
        folder = predict(tmp_path / str(number), store, lambda c, n=number: (shifted(c) > 0) * np.uint8(n))
        assert run(store, folder, tmp_path / "out" / str(number), "--label", "pancreas") == 0
    tables = [(tmp_path / "out" / number / "cases.csv").read_text() for number in ("1", "255")]
    assert tables[0] == tables[1]


def test_the_meaning_of_zeros_and_ones_has_to_be_said_for_the_tumour(store, tmp_path, capsys):
    folder = predict(tmp_path / "p", store, lambda c: (shifted(c) == 2).astype(np.uint8))
    assert run(store, folder, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert (
        "the files hold only 0 and 1, which can mean the tumour or the pancreas" in message
        and "--values mask" in message
    )
    assert not (tmp_path / "out").exists()
    assert run(store, folder, tmp_path / "labels", "--values", "labels") == 0
    assert rows_of(tmp_path / "labels")["east/case_0"]["dice"] == 0
    assert run(store, folder, tmp_path / "mask", "--values", "mask") == 0
    assert rows_of(tmp_path / "mask")["east/case_0"]["dice"] > 0.5


def test_predictions_that_are_missing_damaged_or_on_another_grid_are_failed_cases(store, tmp_path, capsys):
    folder = predict(tmp_path / "p", store)
    (folder / "case_0.nii.gz").unlink()
    content = (folder / "case_1.nii.gz").read_bytes()
    (folder / "case_1.nii.gz").write_bytes(content[: len(content) // 2])
    moved = sitk.ReadImage(str(folder / "case_3.nii.gz"))
    moved.SetOrigin([o + 1.5 for o in moved.GetOrigin()])
    sitk.WriteImage(moved, str(folder / "case_3.nii.gz"))
    (folder / "dataset.json").write_text("{}")
    (folder / "stranger.nii.gz").write_bytes(b"")
    assert run(store, folder, tmp_path / "out") == 2
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    expected = [
        "no prediction of east/case_0 (case_0.nii.gz or east__case_0.nii.gz)",
        "case_1.nii.gz: truncated",
        "not on its scan's grid",
    ]
    assert len(errors) == 3 and all(text in line for text, line in zip(expected, errors, strict=True))
    assert (
        "left out, because they are not predictions of east: stranger.nii.gz" in printed.out
        and "dataset.json" not in printed.out
    )
    rows = rows_of(tmp_path / "out")
    assert [bool(row.get("error")) for row in rows.values()] == [True, True, False, True]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["counts"]["failed"] == 3


def test_a_prediction_in_another_orientation_gets_the_same_scores(store, tmp_path):
    folder = predict(tmp_path / "p", store)
    assert run(store, folder, tmp_path / "a") == 0
    for path in folder.iterdir():
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAI"), str(path))
    assert run(store, folder, tmp_path / "b") == 0
    assert (tmp_path / "a" / "cases.csv").read_text() == (tmp_path / "b" / "cases.csv").read_text()


def test_predictions_of_a_prepared_part_may_lie_on_either_grid_and_are_scored_outside_it_too(store, tmp_path):
    part = store.parent / "part"
    scanned, own = predict(tmp_path / "scanned", part), tmp_path / "own"
    for case in cases_of(part):
        write_mask(own / f"{case.name}.nii.gz", shifted(case), case.grid.prepared_grid())
    assert run(part, scanned, tmp_path / "a") == 0 and run(part, own, tmp_path / "b") == 0
    assert (tmp_path / "a" / "cases.csv").read_text() == (tmp_path / "b" / "cases.csv").read_text()
    for case in cases_of(part):
        grid = case.grid
        whole = grid.to_lps(grid.to_file(shifted(case)))
        cropped = next(axis for axis in range(3) if grid.part.start[axis] or grid.part.stop[axis] < whole.shape[axis])
        outside = [slice(2, 4)] * 3
        outside[cropped] = 0 if grid.part.start[cropped] else -1
        whole[tuple(outside)] = 2
        write_mask(scanned / f"{case.name}.nii.gz", whole, replace(grid, part=None))
    assert run(part, scanned, tmp_path / "c") == 0
    before, after = (rows_of(tmp_path / out)["east/case_0"] for out in "ac")
    assert after["false_positive_components"] == before["false_positive_components"] + 1
    assert after["hd95_mm"] > before["hd95_mm"] + 20
    assert after["reference_ml"] == pytest.approx(before["reference_ml"], rel=0.5)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--centre", "north"], "--centre north: no such centre is prepared. Choose one of east"),
        (["--pattern", "mask.nii.gz"], "--pattern mask.nii.gz: this is the name of one file for all cases"),
        (["--pattern", "x_{case}.nii.gz"], "no prediction of east, such as x_case_0.nii.gz"),
        (["--predictions", "/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_a_bad_option_gives_one_line_and_writes_nothing(store, tmp_path, capsys, options, complaint):
    assert run(store, predict(tmp_path / "p", store), tmp_path / "out", *options) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and complaint in message and message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_values_than_labels_and_two_files_for_one_case_are_refused(store, tmp_path, capsys):
    folder = predict(tmp_path / "p", store)
    case = cases_of(store)[1]
    write_mask(folder / "case_1.nii.gz", shifted(case) * np.uint8(4), case.grid)
    shutil.copy(folder / "case_2.nii.gz", folder / "east__case_2.nii.gz")
    assert run(store, folder, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "case_1.nii.gz: has the values 0, 4. Give labels 0/1/2" in message
    assert "east__case_2.nii.gz is a prediction of the same case" in message


def test_only_a_folder_of_this_command_is_overwritten(store, tmp_path, capsys):
    folder = predict(tmp_path / "p", store)
    assert run(store, folder, tmp_path / "out") == 0
    assert run(store, folder, tmp_path / "out", "--label", "pancreas") == 0
    assert yaml.safe_load((tmp_path / "out" / "settings.yaml").read_text())["label"] == "pancreas"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.yaml").write_text("epoch: 3\n")
    assert run(store, folder, tmp_path / "run") == 2
    assert "the folder is not empty and was not made by this command" in capsys.readouterr().err


def test_the_study_compares_two_scored_folders(store, tmp_path, capsys):
    perfect = predict(tmp_path / "perfect", store, lambda c: np.asarray(c.label()))
    assert run(store, perfect, tmp_path / "a") == 0
    assert run(store, predict(tmp_path / "p", store), tmp_path / "b") == 0
    capsys.readouterr()
    assert study.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    text = capsys.readouterr().out
    assert "4 cases in both" in text and any(line.startswith("dice") and " 1.000" in line for line in text.splitlines())


def test_the_module_can_be_run_as_a_command(store, tmp_path):
    folder = predict(tmp_path / "p", store)
    options = ["--predictions", folder, "--store", store, "--centre", "east", "--label", "pancreas"]
    command = [sys.executable, "-m", "engine.evaluate", *map(str, options), "--out", str(tmp_path / "out")]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert "pancreas, east, p" in result.stdout and (tmp_path / "out" / "cases.csv").exists()


def test_a_finer_grid_is_refused_rather_than_resampled(store, tmp_path):
    folder = predict(tmp_path / "p", store)
    fine = np.zeros((20, 44, 52), np.uint8)
    write_lps(folder / "case_2.nii.gz", fine, (1.0, 1.0, 1.0))
    assert run(store, folder, tmp_path / "out") == 2
    assert "not on its scan's grid: prediction 52x44x20" in rows_of(tmp_path / "out")["east/case_2"]["error"]


def test_the_report_of_scored_masks_is_written_again(store, tmp_path, capsys):
    one, two = (predict(tmp_path / name, store) for name in ("one", "two"))
    (one / "case_1.nii.gz").unlink()
    out = tmp_path / "out"
    options = ["--predictions", str(one), str(two), "--store", str(store), "--centre", "east", "--out", str(out)]
    assert score.main([*options, "--label", "tumour"]) == 2
    for folder in (out / "one", out / "two"):
        (folder / "report.html").unlink()
    assert report.main([str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [f"report: {out / n / 'report.html'}" for n in ("one", "two")]
    assert "east/case_1" in (out / "one" / "report.html").read_text()
    (out / "two" / "settings.yaml").write_text(f"store: {store}\n")
    (out / "one" / "report.html").unlink()
    assert report.main([str(out)]) == 2  # the damaged one does not stop the others
    told = capsys.readouterr()
    assert "does not say of which masks this is the evaluation" in told.err
    assert told.out.strip() == f"report: {out / 'one' / 'report.html'}" and (out / "one" / "report.html").exists()
