"""The Python library gives what the command writes."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.common.files import REPOSITORY
from engine.infer import maps, predict
from pancreas_dual_task import Cascade, InputError, load_cascade
from tests.tiny_cascade import OBLIQUE, write_runs, write_scan


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Return a folder with checkpoints and a scan."""
    root = tmp_path_factory.mktemp("world")
    write_runs(root / "checkpoints")
    write_scan(root / "scan.nii.gz")
    return root


@pytest.fixture(scope="module")
def cascade(world) -> Cascade:
    return load_cascade(world / "checkpoints", device="cpu")


def test_mask_and_volumes_are_those_of_predict(world, cascade):
    words = [str(world / "scan.nii.gz"), "-o", str(world / "out"), "--path", str(world / "checkpoints"), "--gpu", "cpu"]
    assert predict.main(words) == 0
    written = sitk.ReadImage(str(world / "out" / "scan_pancreas_tumour.nii.gz"))
    with (world / "out" / "volumes.csv").open() as file:
        (row,) = csv.DictReader(file)
    result = cascade.segment(world / "scan.nii.gz")
    assert set(np.unique(result.mask)) == {0, 1, 2} and result.mask.dtype == np.uint8
    assert np.array_equal(result.mask, sitk.GetArrayFromImage(written))
    assert result.spacing == pytest.approx(written.GetSpacing()[::-1])
    assert (round(result.pancreas_ml, 2), round(result.tumour_ml, 2)) == (
        float(row["pancreas_ml"]),
        float(row["tumour_ml"]),
    )
    assert "; ".join((*result.doubts, *result.notes)) == row["note"] and bool(result.doubts) == bool(row["unreliable"])
    result.save(world / "again.mha")
    again = sitk.ReadImage(str(world / "again.mha"))
    assert np.array_equal(sitk.GetArrayFromImage(again), result.mask)
    assert np.allclose(again.GetDirection(), written.GetDirection(), atol=1e-5)


def test_an_image_in_memory_is_segmented_as_its_file(world, cascade):
    image = sitk.ReadImage(str(world / "scan.nii.gz"))
    from_memory, from_file = cascade.segment(image), cascade.segment(str(world / "scan.nii.gz"))
    assert np.array_equal(from_memory.mask, from_file.mask) and from_memory.mask.shape == OBLIQUE.size[::-1]
    floats = cascade.segment(sitk.Cast(image, sitk.sitkFloat64))
    assert np.array_equal(floats.mask, from_file.mask)


@pytest.mark.parametrize(
    ("image", "problem"),
    [(sitk.Image(9, 9, sitk.sitkInt16), "2 dimensions"), (sitk.Image([9, 9, 9], sitk.sitkFloat32) + np.nan, "NaN")],
)
def test_an_image_that_is_no_scan_is_refused(cascade, image, problem):
    with pytest.raises(InputError, match=problem):
        cascade.segment(image)


def test_a_detection_is_a_segmentation_with_the_likelihoods_of_its_candidates(world, cascade):
    detection, segmentation = cascade.detect(world / "scan.nii.gz"), cascade.segment(world / "scan.nii.gz")
    assert np.array_equal(detection.mask, segmentation.mask)
    assert detection.likelihoods.max() == pytest.approx(detection.likelihood) and 0.4 < detection.likelihood < 1
    assert (detection.likelihoods[detection.mask == 2] > 0).mean() > 0.9
    detection.save_likelihoods(world / "map.mha")
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(world / "map.mha"))), detection.likelihoods)


def test_the_only_split_is_used_and_several_have_to_be_named(world, tmp_path):
    runs = write_runs(tmp_path, split="west")
    assert load_cascade(runs, device="cpu").models["tumor_fine"].run.parent.name == "west"
    write_runs(runs, split="east")
    with pytest.raises(InputError, match=r"several splits \(east, west\)"):
        load_cascade(runs, device="cpu")
    assert load_cascade(runs, split="east", device="cpu").models["tumor_fine"].run.parent.name == "east"
    with pytest.raises(InputError, match="no such file or folder"):
        load_cascade(tmp_path / "missing")
    (tmp_path / "model.zip").touch()
    for choice in ({"split": "east"}, {"until": "2026_01_01_00_00_00"}, {"ensemble": {"east": 1, "west": 1}}):
        with pytest.raises(InputError, match="Leave out split, until and ensemble"):
            load_cascade(tmp_path / "model.zip", **choice)


def test_an_ensemble_decides_together_and_that_it_disagrees_is_a_doubt(world, cascade, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    for split in ("east", "west"):
        write_runs(runs, split=split)
    together = load_cascade(runs, ensemble={"east": 1, "west": 1}, device="cpu")
    assert [member.run.parent.name for member in together.models["tumor_fine"].members] == ["east", "west"]
    result, alone = together.segment(world / "scan.nii.gz"), cascade.segment(world / "scan.nii.gz")
    assert np.array_equal(result.mask, alone.mask) and result.doubts == alone.doubts  # twice the same weights
    monkeypatch.setattr(maps, "DISAGREEMENT_LIMIT", -0.1)
    assert any("disagree on the tumour" in doubt for doubt in together.segment(world / "scan.nii.gz").doubts)
    with pytest.raises(InputError, match="Leave out split"):
        load_cascade(runs, split="east", ensemble={"east": 1, "west": 1})


def test_the_example_of_the_documentation_runs(world, monkeypatch, capsys):
    (example,) = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / "docs" / "package.md").read_text(), re.M | re.S)
    monkeypatch.chdir(world)
    exec(compile(example, "docs/package.md", "exec"), {})
    assert re.search(r"pancreas \d+\.\d ml, tumour \d+\.\d ml", capsys.readouterr().out)
    assert (world / "mask.nii.gz").is_file()
