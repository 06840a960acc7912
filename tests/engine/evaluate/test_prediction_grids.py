"""A prediction is scored on its scan whatever program wrote its header, and whatever part of the scan it covers."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data.cases.case import Case
from data.cases.store import read_store
from data.common.errors import InputError
from data.prepare import command as prepare
from engine.evaluate import folder as score
from engine.evaluate.predictions import LABELS, Predictions
from tests.conftest import affine_of, save, tiny_scan


@pytest.fixture(scope="module", params=["none", "body", "resampled"])
def case(request, tmp_path_factory) -> Case:
    """A prepared case whose scan is turned by some degrees, with an affine rounded to 4 decimals."""
    root = tmp_path_factory.mktemp("scans")
    affine = affine_of((0, 1, 2), (-1, -1, 1), (3.1, -2.2, 1.7), (3.0, 4.0, 5.0))
    affine[:3, :3] = np.round(affine[:3, :3], 4)
    for kind, array, air in zip(("images", "labels"), tiny_scan(0), (-1000, 0), strict=True):
        (root / kind).mkdir()
        save(root / kind / "p.nii.gz", np.pad(array, ((3, 2), (12, 5), (4, 4)), constant_values=air).T, affine)
    way = ["--spacing", "6", "5", "5"] if request.param == "resampled" else ["--crop", request.param]
    options = ["--centre", "east", "--workers", "1", "--store", str(root / "store"), *way]
    assert prepare.main(["folder", str(root), *options]) == 0
    return read_store(root / "store")["east"][0]


def own_label(case: Case) -> nib.Nifti1Image:
    return nib.load(str(case.source["label"]))


def with_sform(label: nib.Nifti1Image, path: Path) -> None:
    image = nib.Nifti1Image(np.asarray(label.dataobj), label.affine)
    image.set_qform(None, 0)
    nib.save(image, path)


def with_qform(label: nib.Nifti1Image, path: Path) -> None:
    image = nib.Nifti1Image(np.asarray(label.dataobj), label.affine)
    image.set_qform(label.affine, 1)
    image.set_sform(None, 0)
    nib.save(image, path)


def canonical(label: nib.Nifti1Image, path: Path) -> None:
    nib.save(nib.as_closest_canonical(label), path)


def by_itk(label: nib.Nifti1Image, path: Path) -> None:
    nib.save(label, path)
    sitk.WriteImage(sitk.ReadImage(str(path)), str(path))


def as_segmentation(label: nib.Nifti1Image, path: Path) -> None:
    by_itk(label, path)
    sitk.WriteImage(sitk.ReadImage(str(path)), str(path).replace(".nii.gz", ".seg.nrrd"))
    path.unlink()


def cropped(label: nib.Nifti1Image, path: Path) -> None:
    array = np.asarray(label.dataobj)
    box = tuple(slice(where.min(), where.max() + 1) for where in np.nonzero(array))
    affine = label.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    nib.save(nib.Nifti1Image(array[box], affine), path)


@pytest.mark.parametrize("write", [with_sform, with_qform, canonical, by_itk, as_segmentation, cropped])
def test_the_label_of_a_scan_scores_a_dice_of_one_from_any_program(
    case, tmp_path, write: Callable[[nib.Nifti1Image, Path], None]
):
    (tmp_path / "p").mkdir()
    write(own_label(case), tmp_path / "p" / "p.nii.gz")
    predictions = Predictions(tmp_path / "p", None, "tumour", LABELS)
    row = score.score_case(predictions, case)
    assert row.get("dice") == 1.0, row
    predicted = predictions.read_mask(case)
    assert predicted.on_scan_grid and predicted.mask.sum() == (np.asarray(own_label(case).dataobj) == 2).sum()


def test_a_prediction_off_the_grid_is_refused_with_offset_and_tolerance(case, tmp_path):
    label = own_label(case)
    predictions = Predictions(tmp_path, None, "tumour", LABELS)
    for shift, words in ((0.3, "off by 0.3 of a voxel"), (2.0, r"shifted by \(2, 0, 0\) whole voxels")):
        affine = label.affine.copy()
        affine[:3, 3] += affine[:3, 0] * shift
        save(tmp_path / "p.nii.gz", np.asarray(label.dataobj), affine)
        with pytest.raises(InputError, match=f"not on its scan's grid.*{words}"):
            predictions.read(case)
    array = np.pad(np.asarray(label.dataobj), ((0, 2), (0, 0), (0, 0)), constant_values=1)
    save(tmp_path / "p.nii.gz", array, label.affine)
    with pytest.raises(InputError, match="labelled voxels outside"):
        predictions.read(case)


def test_a_prediction_is_found_by_any_spelling_of_its_suffix_or_refused_by_name(case, tmp_path):
    predictions = Predictions(tmp_path, None, "tumour", LABELS)
    with pytest.raises(InputError, match=r"no prediction of east/p \(p.nii.gz or east__p.nii.gz\)"):
        predictions.find_file(case)
    (tmp_path / "p.hdr").touch()
    with pytest.raises(InputError, match="half of an Analyze or NIfTI pair"):
        predictions.find_file(case)
    (tmp_path / "p.Nii.Gz").touch()
    assert predictions.find_file(case).name == "p.Nii.Gz"
    (tmp_path / "east__p.mha").touch()
    with pytest.raises(InputError, match="a prediction of the same case"):
        predictions.find_file(case)


def test_a_folder_of_pairs_is_refused_by_name(case, tmp_path, capsys):
    store = case.folder.parents[1]
    (tmp_path / "p").mkdir()
    for name in ("p.hdr", "p.img"):
        (tmp_path / "p" / name).touch()
    options = ["--predictions", tmp_path / "p", "--store", store, "--centre", "east", "--label", "tumour"]
    assert score.main([str(option) for option in (*options, "--out", tmp_path / "out")]) == 2
    assert "half of an Analyze or NIfTI pair" in capsys.readouterr().err
