"""What prepare makes of the names of label codes, of DICOM segmentations and of implausible labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.cases.store import read_store
from data.common.errors import InputError
from data.prepare.command import main
from data.scans.volume import write_lps
from tests.conftest import SPACING, tiny_scan
from tests.data.scans.test_segments import slicer
from tests.dicom_seg_files import write_seg

ORIGIN = (-40.0, -30.0, 100.0)


@pytest.fixture
def run(tmp_path, capsys):
    """``run(root, ...)`` prepares into tmp_path/store in this process and returns exit code, stdout and stderr."""

    def prepared(root: Path, *more: str, kind: str = "folder"):
        argv = [kind, str(root), "--centre", "here", "--store", str(tmp_path / "store"), "--workers", "1", *more]
        return main(argv), *capsys.readouterr()

    return prepared


def stored(tmp_path: Path) -> dict:
    return {case.name: case for case in read_store(tmp_path / "store")["here"]}


def segmented(root: Path, names: dict[int, str], index: int = 0) -> Path:
    """A scan and its label in NRRD, whose header gives these names to the codes 1 (tumour) and 2 (pancreas)."""
    image, label = tiny_scan(index)
    write_lps(root / "images" / "a.nrrd", image, SPACING)
    segments = [{"Name": name, "LabelValue": str(code), "Layer": "0"} for code, name in names.items()]
    (root / "labels").mkdir(parents=True, exist_ok=True)
    path = slicer(root / "labels" / "a.nrrd", segments, np.choose(label, [0, 2, 1]).astype(np.uint8))
    written = sitk.ReadImage(str(path))
    written.SetSpacing(SPACING[::-1])
    sitk.WriteImage(written, str(path), useCompression=True)
    return root


def test_the_codes_of_a_segmentation_follow_its_names(run, tmp_path):
    root = segmented(tmp_path / "in", {1: "tumor", 2: "pancreas"})
    code, out, _ = run(root)
    case = stored(tmp_path)["a"]
    assert code == 0 and 'note: label codes by their names in the file: 1 "tumor", 2 "pancreas": a' in out
    assert np.array_equal(case.label(), tiny_scan(0)[1]) and case.source["labels"] == "0=0,1=2,2=1"


def test_a_case_that_was_prepared_before_names_were_read_is_prepared_again(run, tmp_path):
    root = segmented(tmp_path / "in", {1: "tumor", 2: "pancreas"})
    run(root)
    manifest = tmp_path / "store" / "here" / "a" / "case.json"
    content = json.loads(manifest.read_text())
    content["source"]["labels"] = "0=0,1=1,2=2"
    manifest.write_text(json.dumps(content))
    assert "1 prepared" in run(root)[1] and "1 already there" in run(root)[1]


def test_names_that_are_not_known_or_contradict_the_map_fail_the_case(run, tmp_path):
    root = segmented(tmp_path / "in", {1: "Segment_1", 2: "Segment_2"})
    code, _, err = run(root)
    assert code == 2 and '1 "Segment_1", 2 "Segment_2"' in err and '--labels "1=?,2=?"' in err
    assert run(root, "--labels", "1=2,2=1")[0] == 0
    assert np.array_equal(stored(tmp_path)["a"].label(), tiny_scan(0)[1])
    segmented(root, {1: "tumor", 2: "pancreas"})
    code, _, err = run(root, "--labels", "1=1,2=2")
    assert code == 2 and '1 "tumor", 2 "pancreas"' in err and "0=0,1=1,2=2" in err


def test_a_map_that_contradicts_dataset_json_is_refused_before_anything_is_read(run, tmp_path):
    root = tmp_path / "in"
    for kind, array in zip(("imagesTr/a_0000", "labelsTr/a"), tiny_scan(0), strict=True):
        write_lps(root / f"{kind}.nii.gz", array, SPACING)
    labels = {"background": 0, "pancreas": 1, "lesion": 2}
    (root / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    code, out, err = run(root, "--labels", "1=2,2=1", kind="nnunet")
    assert code == 2 and not out and err.count("\n") == 1
    assert '1 "pancreas", 2 "lesion"' in err and "--labels 0=0,1=2,2=1" in err
    assert run(root, "--labels", "1=1,2=1", kind="nnunet")[0] == 0  # the lesion counts as pancreas


def test_dicom_segmentations_are_labels(run, tmp_path):
    image, label = tiny_scan(0)
    for name in ("file", "folder"):
        write_lps(tmp_path / "in" / "images" / f"{name}.nii.gz", image, SPACING, ORIGIN)
    masks = {"tumor": label == 2, "pancreas": label > 0}
    write_seg(tmp_path / "in" / "labels" / "file.dcm", masks, SPACING, ORIGIN)
    write_seg(tmp_path / "in" / "labels" / "folder" / "1.dcm", masks, SPACING, ORIGIN)
    (tmp_path / "in" / "labels" / "old versions").mkdir()
    code, out, _ = run(tmp_path / "in")
    assert code == 0 and "label segments overlap: a tumour hides the pancreas" in out
    for case in stored(tmp_path).values():
        assert np.array_equal(case.label(), label) and case.source["labels"] == "0=0,1=2,2=1"


def exchanged(root: Path) -> Path:
    for index in range(3):
        image, label = tiny_scan(2 * index)
        for kind, array in (("images", image), ("labels", np.choose(label, [0, 2, 1]).astype(np.uint8))):
            write_lps(root / kind / f"case_{index}.nii.gz", array, SPACING, (-40.0, -30.0, 100.0 + index))
    return root


def test_implausible_labels_fail_unless_they_are_accepted_which_is_recorded(run, tmp_path):
    root = exchanged(tmp_path / "in")
    code, out, err = run(root)
    assert code == 2 and "0 prepared, 0 already there, 3 failed" in out and err.count("look exchanged") == 3
    code, out, err = run(root, "--accept-labels")
    assert code == 0 and not err and "accepted although the codes of pancreas and tumour look exchanged" in out
    assert all("look exchanged" in case.source["accepted"] for case in stored(tmp_path).values())
    assert "3 already there" in run(root, "--accept-labels")[1]
    assert "3 failed" in run(root)[1]
    assert "3 prepared" in run(root, "--labels", "1=2,2=1")[1]
    assert not any("accepted" in case.source for case in stored(tmp_path).values())


def test_a_centre_that_is_implausible_as_a_whole_cannot_be_used_until_it_is_settled(run, tmp_path):
    root = tmp_path / "in"
    for index in range(3):  # a gland of 180 ml, each of them possible
        for kind, array in zip(("images", "labels"), tiny_scan(1), strict=True):
            write_lps(root / kind / f"case_{index}.nii.gz", array, (7.0, 6.6, 6.0), (0.0, 0.0, float(index)))
    code, out, err = run(root)
    assert code == 2 and "3 prepared" in out and "failed: centre here: the median pancreas of 3 cases has 186 ml" in err
    with pytest.raises(InputError) as error:
        read_store(tmp_path / "store")
    assert error.value.path == tmp_path / "store" / "here" and "median pancreas" in error.value.problem
    assert run(root)[0] == 2  # also if all cases are there already
    code, out, _ = run(root, "--accept-labels")
    assert code == 0 and "3 already there" in out and "centre here accepted although the median" in out
    assert len(stored(tmp_path)) == 3
