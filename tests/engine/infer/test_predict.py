"""A new scan is prepared like the training cases of the models, and its mask is written on its own voxels."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from data.cases.preparation import Preparation
from engine.infer import predict
from engine.infer.cascade import CascadeResult
from engine.stages import STAGES
from tests.conftest import affine_of, save, tiny_scan
from tests.dicom_files import write_slices

PREPARED = (4.0, 3.0, 3.0)  # (z, y, x) mm


@pytest.fixture
def seen(monkeypatch) -> dict:
    """What the models are given. In their place a threshold segments: tissue is pancreas, bone is tumour."""
    seen = {}

    def segment(models, image, spacing):
        seen.update(shape=image.shape, spacing=spacing)
        return CascadeResult((image > -300).astype(np.uint8) + (image > 300), ())

    preparation = Preparation(crop="body", spacing=PREPARED)
    model = SimpleNamespace(
        preparation=preparation, device=torch.device("cpu"), stage=SimpleNamespace(title="x"), run="", threshold=0.5
    )
    monkeypatch.setattr(predict, "load_models", lambda options: {"pancreas_coarse": model})
    monkeypatch.setattr(predict, "segment_scan", segment)
    return seen


@pytest.mark.parametrize(
    "affine",
    [affine_of(zooms=(2.0, 2.0, 5.0)), affine_of((2, 0, 1), (-1, 1, -1), (4.0, -6.0, 9.0), (5.0, 2.0, 2.0))],
    ids=["plain", "turned and oblique"],
)
def test_the_models_see_their_own_spacing_and_the_mask_lies_on_the_scan(seen, tmp_path, affine):
    thick = int(np.argmax(np.linalg.norm(affine[:3, :3], axis=0)))  # the axis of the array along the patient
    patient = np.full((80, 70, 24), -1000, np.int16)
    patient[20:60, 15:55, :] = 40
    patient[30:42, 25:37, 8:16] = 900
    scan = np.moveaxis(patient, 2, thick)
    path = save(tmp_path / "scan.nii.gz", scan, affine)
    assert predict.main([str(path), "-o", str(tmp_path / "out")]) == 0
    assert seen["spacing"] == pytest.approx(PREPARED, rel=0.02)
    assert np.prod(seen["shape"]) < 0.7 * scan.size * (2 * 2 * 5) / np.prod(PREPARED)  # the air was cropped
    mask = nib.load(tmp_path / "out" / "scan_pancreas_tumour.nii.gz")
    assert mask.shape == scan.shape and np.allclose(mask.affine, affine, atol=1e-4)
    expected = (scan > -300).astype(int) + (scan > 300)
    assert all((np.asarray(mask.dataobj) == code)[expected == code].mean() > 0.9 for code in (0, 1, 2))


def test_a_label_map_instead_of_a_scan_and_a_whole_body_as_pancreas_get_a_note(seen, tmp_path, capsys):
    label = np.zeros((60, 60, 40), np.int16)
    label[20:40, 20:40, 10:30] = 2
    path = save(tmp_path / "label.nii.gz", label, affine_of(zooms=(2.0, 2.0, 5.0)))
    assert predict.main([str(path), "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "values 0 to 2 are 8-bit grey values, not HU: give the scan itself" in printed
    assert "ml are too much for a pancreas, the model may not have been trained enough" in printed


def test_a_ct_with_a_gland_of_usual_size_gets_no_note():
    assert predict.find_doubts(tiny_scan(0)[0], 90.0) == []


def test_for_a_folder_of_scan_files_the_error_asks_for_the_files(seen, tmp_path, capsys):
    folder, empty = tmp_path / "scans", tmp_path / "empty"
    folder.mkdir()
    empty.mkdir()
    save(folder / "a.nii.gz", np.zeros((9, 9, 9), np.int16), affine_of())
    assert predict.main([str(folder), str(empty), "-o", str(tmp_path / "out")]) == 2
    first, second = capsys.readouterr().err.strip().splitlines()[-2:]
    advice = "The folder holds scans as files; give these"
    assert first.endswith(f"{advice}: {folder}/*.nii.gz") and advice not in second


def test_if_models_are_missing_the_error_names_the_splits_that_have_all_of_them(tmp_path, capsys):
    for stage in STAGES:
        for centre in ("north", "west", "half")[: 2 if stage == "tumor_fine" else 3]:
            run = tmp_path / "runs" / stage / centre / "2026_01_01_00_00_00"
            run.mkdir(parents=True)
            (run / "best.pt").touch()
    options = ["scan.nii.gz", "-o", str(tmp_path / "out"), "--gpu", "cpu", "--data", "south"]
    assert predict.main([*options, "--path", str(tmp_path / "runs")]) == 2
    message = capsys.readouterr().err
    assert message.count("error: ") == len(STAGES) + 1  # one line per stage, then the choice
    assert message.endswith(
        f"{tmp_path / 'runs'}: 4 of the 4 stages have no usable model for --data south. "
        "Train them with the commands above, or use the models of another split: --data north or --data west.\n"
    )
    assert predict.main([*options, "--path", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.endswith("Train them with the commands above.\n")


def test_two_scans_of_one_name_would_write_one_mask(tmp_path, capsys):
    scans = [str(tmp_path / folder / "scan.nii.gz") for folder in "ab"]
    assert predict.main([*scans, "-o", str(tmp_path / "out")]) == 2
    assert "error: scan: several scans have this name and would write the same mask. Rename" in capsys.readouterr().err


def test_the_series_of_a_dicom_folder_is_chosen_and_what_was_passed_over_is_noted(seen, tmp_path, capsys):
    scan = np.full((12, 40, 40), -1000, np.int16)
    scan[:, 10:30, 10:30] = 40
    for number in (1, 2):
        write_slices(
            tmp_path / "scan", scan[:, :, ::number], series=f"1.{number}", prefix=str(number), SeriesNumber=number
        )
    argv = [str(tmp_path / "scan"), "-o", str(tmp_path / "out")]
    assert predict.main(argv) == 2
    assert "holds 2 CT series" in capsys.readouterr().err
    assert predict.main([*argv, "--series", "2"]) == 0
    assert "passed over: 1 CT series" in capsys.readouterr().out
    assert nib.load(tmp_path / "out" / "scan_pancreas_tumour.nii.gz").shape == (20, 40, 12)
