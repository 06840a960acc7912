"""The verify command: each kind of finding and its level, duplicates in the store, and the files it writes."""

import json
import shutil
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest

from data.common.errors import InputError
from data.prepare.command import main as prepare
from data.scans.volume import write_lps
from data.verify.command import format_findings, main
from data.verify.findings import Finding, Inspection, find_outliers, finding_from_error
from tests import miniatures
from tests.conftest import SPACING, abdomens, tiny_scan


@pytest.fixture
def verify(tmp_path, capsys):
    """``verify(root)`` runs the command and returns exit code, rows of its table by level, and summary line."""

    def run(root: Path, *more: str, source: str = "folder", name: str = "here"):
        argv = [source, str(root), "--centre", name, "--store", str(tmp_path / "store"), "--workers", "1", *more]
        code = main(argv)
        rows: dict[str, list[str]] = {"fatal": [], "warning": [], "fixed": []}
        lines = capsys.readouterr().out.splitlines()
        for line in lines:
            if line.split()[0] in rows:
                rows[line.split()[0]].append(line)
        return code, rows, next(line for line in lines if "are fit to train on" in line)

    return run


@pytest.fixture
def stored(tmp_path):
    """``stored(name, root)`` prepares a centre into the store that ``verify`` uses."""

    def run(name: str, root: Path) -> None:
        assert (
            prepare(["folder", str(root), "--centre", name, "--store", str(tmp_path / "store"), "--workers", "1"]) == 0
        )

    return run


def change(root: Path, kind: str, index: int, array: np.ndarray, spacing=SPACING) -> None:
    write_lps(root / kind / f"case_{index}.nii.gz", array, spacing, (-40.0, -30.0, 100.0 + index))


def row_of(rows: dict[str, list[str]], words: str, level: str = "warning") -> str:
    (row,) = (row for row in rows[level] if words in row)
    return row


def test_a_good_centre_has_no_findings_and_nothing_is_written(verify, write_centre, tmp_path):
    code, rows, summary = verify(write_centre())
    assert code == 0 and not any(rows.values()) and summary.startswith("3 of 3 cases are fit")
    assert not (tmp_path / "store").exists()


def test_cases_that_prepare_would_refuse_are_fatal(verify, write_centre):
    root = write_centre(cases=5)
    (root / "images" / "case_1.nii.gz").write_bytes(b"")
    (root / "images" / "case_2.nii.gz").write_bytes(b"")
    (root / "labels" / "case_3.nii.gz").unlink()
    code, rows, summary = verify(root)
    assert code == 2 and len(rows["fatal"]) == 2 and summary.startswith("2 of 5")
    empty = row_of(rows, "empty", "fatal")
    assert empty.split()[1] == "2" and "images/case_1.nii.gz, images/case_2.nii.gz" in empty
    assert "download or copy it again" in empty


def test_a_missing_mask_of_a_case_with_a_folder_of_them_is_named_with_its_case(tmp_path, capsys):
    miniatures.totalsegmentator(tmp_path / "in")
    masks = sorted((tmp_path / "in").glob("*/segmentations/pancreas.nii.gz"))[:2]
    for mask in masks:
        mask.unlink()
    argv = ["totalsegmentator", str(tmp_path / "in"), "--centre", "ts", "--store", str(tmp_path), "--workers", "1"]
    assert main([*argv, "--json", str(tmp_path / "found.json")]) == 2
    found = json.loads((tmp_path / "found.json").read_text())["findings"]
    fatal = [finding for finding in found if finding["level"] == "fatal"]
    assert [finding["case"] for finding in fatal] == [str(mask.relative_to(tmp_path / "in")) for mask in masks]
    assert {finding["problem"] for finding in fatal} == {"no such file"}


def test_the_last_lines_count_the_fit_cases_and_those_with_a_tumour(write_centre, stored, tmp_path, capsys):
    root = write_centre(cases=3)
    stored("other", root)
    for path in (tmp_path / "store" / "other" / "case_0").glob("*.npy"):
        path.unlink()
    words = ["folder", str(root), "--centre", "here", "--store", str(tmp_path / "store"), "--workers", "1"]
    assert main(words) == 0
    out = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("warning") and "other/case_0/image.npy" in line for line in out
    )  # a case of another centre
    assert out[-2:] == ["3 of 3 cases are fit to train on, 0 of them with warnings", "2 of them have a tumour"]
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    assert main(words) == 2
    assert capsys.readouterr().out.splitlines()[-1] == "0 of 3 cases are fit to train on, 0 of them with warnings"


def test_doubtful_labels_are_warnings(verify, write_centre):
    root = write_centre(cases=6)
    labels = [tiny_scan(index)[1] for index in range(6)]
    labels[0][:] = 0
    labels[1][9, 20, 25] = 2
    labels[2] = np.zeros_like(labels[2])
    labels[2][4, 8, 8] = 1
    labels[3][1:9, 16:18, 2:5] = 1
    labels[4][:3, 6:14, 6:20] = 1
    labels[5][4:6, 8:11, 21:23] = 2  # one voxel beside the pancreas
    for index, label in enumerate(labels):
        change(root, "labels", index, label)
    code, rows, summary = verify(root)
    assert code == 2 and summary == "5 of 6 cases are fit to train on, 5 of them with warnings"
    assert "case_1" in row_of(rows, "its tumour lies 35 mm from its pancreas", "fatal")
    assert "case_0" in row_of(rows, "no pancreas") and "case_1, case_5" in row_of(rows, "does not touch")
    assert "case_2" in row_of(rows, "pancreas of 0.06 ml")
    assert "case_1, case_3, case_5" in row_of(rows, "label in 2 parts")
    assert "case_1" in row_of(rows, "left end") and "case_4" in row_of(rows, "lower end")


def test_implausible_labels_are_fatal_unless_they_are_accepted(verify, write_centre, tmp_path):
    root = write_centre(cases=3)
    for index in range(3):
        label = tiny_scan(0)[1]
        change(root, "labels", index, np.choose(label, [0, 2, 1]))
    code, rows, summary = verify(root)
    assert code == 2 and summary == "0 of 3 cases are fit to train on, 0 of them with warnings"
    assert "look exchanged" in row_of(rows, "case_0, case_1, case_2", "fatal")
    assert "look exchanged" in row_of(rows, "centre here", "fatal")
    code, rows, summary = verify(root, "--accept-labels")
    assert code == 0 and summary.startswith("3 of 3 cases are fit") and len(rows["warning"]) == 2
    code, rows, _ = verify(root, "--labels", "1=2,2=1")
    assert code == 0 and not any(rows.values())


def test_a_centre_that_is_implausible_as_a_whole_is_fatal(verify, write_centre, tmp_path, capsys):
    root = write_centre(cases=3)
    for kind in ("images", "labels"):  # glands of 180 ml, each of them possible
        for index in range(3):
            change(root, kind, index, tiny_scan(1)[kind == "labels"], (7.0, 6.6, 6.0))
    code, rows, summary = verify(root)
    assert code == 2 and summary.startswith("3 of 3 cases are fit")
    assert "centre here" in row_of(rows, "the median pancreas of 3 cases has", "fatal")


def test_doubtful_images_are_warnings(verify, write_centre):
    root = write_centre(cases=8)
    images = [tiny_scan(index)[0] for index in range(8)]
    images[0] = np.clip((images[0] + 100) / 1.4, 0, 255)
    images[1] = np.clip(images[1], -150, 250)
    images[2] = images[2] + 1024
    images[3][:, :2], images[3][:, -3:] = -30, 90
    images[3] = np.clip(images[3], -40, 95)
    images[5] = images[5] - 300
    for index, image in enumerate(images):
        change(root, "images", index, image.astype(np.int16))
    for kind in ("images", "labels"):
        change(root, kind, 4, tiny_scan(4)[kind == "labels"], (12.0, 4.0, 3.0))
    code, rows, _ = verify(root)
    assert code == 0 and "case_0" in row_of(rows, "8-bit") and "case_2" in row_of(rows, "lack the offset of HU")
    assert "case_1, case_3, case_5" in row_of(rows, "clipped to a window")
    assert "case_4" in row_of(rows, "implausible spacing")
    assert "case_2, case_5" in row_of(rows, "under the label")
    assert "case_2, case_5" in row_of(rows, "usual here is") and "case_6" not in str(rows)


def test_a_tilted_scan_is_named(verify, write_centre):
    root = write_centre(cases=2)
    turned = np.eye(4)
    turned[1:3, 1:3] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    for kind in ("images", "labels"):
        path = root / kind / "case_0.nii.gz"
        scan = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(scan.dataobj), turned @ scan.affine), path)
    code, rows, _ = verify(root)
    assert code == 0 and "case_0" in row_of(rows, "tilted by 17 degrees")


def test_outliers_of_a_centre_are_named():
    cases = [Inspection(f"c{i}", "p", [], spacing=(5.0, 0.8, 0.8), gland_hu=95.0 + i) for i in range(9)]
    assert find_outliers(cases) == []
    odd = [
        Inspection("thin", "p", [], spacing=(1.0, 0.8, 0.8), gland_hu=100.0),
        Inspection("bare", "p", [], spacing=(5.0, 0.8, 0.8), gland_hu=30.0),
        Inspection("unread", "p", []),
    ]
    found = {finding.case: finding.problem for finding in find_outliers(cases + odd)}
    assert found == {
        "thin": "spacing 0.8 x 0.8 x 1 mm, usual here is 0.8 x 0.8 x 5",
        "bare": "pancreas of 30 HU, usual here is 99",
    }
    assert find_outliers(cases[:3] + odd) == []  # too few cases to call one of them unusual


def test_adaptations_while_reading_are_fixed(verify, write_centre):
    root = write_centre(cases=2)
    for kind in ("images", "labels"):
        path = root / kind / "case_0.nii.gz"
        nib.save(nib.as_closest_canonical(nib.load(path)), path)
    fine = tiny_scan(1)[1].repeat(2, 1).repeat(2, 2)
    write_lps(root / "labels" / "case_1.nii.gz", fine, (5.0, 2.0, 1.5), (-40.75, -31.0, 101.0))
    code, rows, _ = verify(root)
    text = "\n".join(rows["fixed"])
    assert code == 0 and not rows["warning"] and not rows["fatal"]
    assert "image turned from RAS to LPS" in text and "label turned from RAS" in text and "label resampled" in text


def test_scans_that_the_store_already_holds_are_named(verify, stored, tmp_path):
    first = abdomens(tmp_path / "first", {"a": 1, "b": 2, "c": 3})
    stored("first", first)
    second = abdomens(abdomens(tmp_path / "second", {"x": 2}, cut=4), {"y": 4, "z": 5})
    for kind in ("images", "labels"):
        shutil.copy(second / kind / "z.nii.gz", second / kind / "again.nii.gz")
    code, rows, _ = verify(second)
    assert code == 0 and len(rows["warning"]) == 2
    assert "x = first/b" in row_of(rows, "the same scan, as in centre first")
    assert "again = z" in row_of(rows, "twice in this centre") and "identical voxels" in row_of(rows, "twice in")
    assert not any(verify(first, name="first")[1].values())  # a centre is no duplicate of itself


def test_patients_of_another_centre_of_the_same_set_are_named(verify, stored, tmp_path):
    abdomens(tmp_path / "scans", {"a": 1, "b": 2})
    listed = tmp_path / "list.csv"
    head, *lines = ["image,label,patient", *(f"scans/images/{n}.nii.gz,scans/labels/{n}.nii.gz,same" for n in "ab")]
    listed.write_text(f"{head}\n{lines[0]}\n")
    stored("first", listed)
    listed.write_text(f"{head}\n{lines[1]}\n")
    code, rows, _ = verify(listed)
    assert code == 0 and "b = first/a" in row_of(rows, "patient also in centre first")


def test_findings_go_to_json_and_pictures_to_a_folder(verify, write_centre, tmp_path):
    root = write_centre(cases=3)
    (root / "images" / "case_1.nii.gz").write_bytes(b"")
    change(root, "labels", 0, tiny_scan(0)[1] * 0)
    code, _, _ = verify(root, "--json", str(tmp_path / "out" / "found.json"), "--sheet", str(tmp_path / "sheets"))
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    assert code == 2 and (found["cases"], found["fit"], found["with_tumour"]) == (3, 2, 1)
    assert found["counts"] == {"fatal": 1, "warning": 1, "fixed": 0}
    places = {(finding["level"], finding["case"]) for finding in found["findings"]}
    assert places == {("fatal", "images/case_1.nii.gz"), ("warning", "case_0")}
    assert cv2.imread(str(tmp_path / "sheets" / "here_01.png")) is not None


def test_findings_that_differ_only_in_numbers_share_a_row():
    findings = [Finding("warning", f"pancreas of {n / 10} ml", f"case_{n}", "look") for n in range(6)]
    findings += [Finding("fatal", "empty", "z", "copy"), Finding("fixed", "turned", "a", "nothing")]
    rows = format_findings(findings).splitlines()
    assert [row.split()[:2] for row in rows[1:]] == [["fatal", "1"], ["warning", "6"], ["fixed", "1"]]
    assert "case_0, case_1, case_2, case_3 and 2 more" in rows[2] and "(or similar)" in rows[2]
    long = format_findings([Finding("fatal", "lies elsewhere " * 20, "a", "give the right label " * 5)])
    assert max(map(len, long.splitlines())) < 170 and long.count("elsewhere") == 20


def test_an_error_becomes_a_finding_about_its_file(tmp_path):
    error = InputError(tmp_path / "labels" / "a.nii.gz", "the file is empty", "copy it again")
    found = finding_from_error(error, "fatal", root=tmp_path)
    assert found == Finding("fatal", "the file is empty", "labels/a.nii.gz", "copy it again")
    elsewhere = finding_from_error(error, "warning", root=tmp_path / "other")
    assert (elsewhere.level, elsewhere.case) == ("warning", "labels/a.nii.gz")
    pasted = InputError(tmp_path / "a", "missing", "unpack it", command="tar -xf a.tar")
    assert finding_from_error(pasted, "fatal", root=tmp_path).remedy == "unpack it: tar -xf a.tar"


def test_three_real_scans_are_fit(verify, shared, tmp_path):
    """A slab with half of the gland, a scan whose field of view cuts it, and a model's output in several parts."""
    folder = shared / "real_ct"
    scans = {
        "amos_0013_slab": ("label.nii.gz", "10=1,*=0", "lower and upper end"),
        "totalsegmentator_s0009": ("pancreas.nii.gz", "1=1", "front end"),
        "totalsegmentator_example": ("pancreas_model_output.nii.gz", "1=1", "label in 4 parts"),
    }
    for name, (label, codes, doubt) in scans.items():
        for kind, file in (("images", "ct.nii.gz"), ("labels", label)):
            (tmp_path / name / kind).mkdir(parents=True)
            (tmp_path / name / kind / "case.nii.gz").write_bytes((folder / name / file).read_bytes())
        code, rows, _ = verify(tmp_path / name, "--labels", codes)
        assert code == 0 and len(rows["fixed"]) == 2 and len(rows["warning"]) == 1
        assert row_of(rows, doubt)
