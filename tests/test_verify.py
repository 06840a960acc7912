"""The verify command: each kind of finding, its level, and that nothing is written."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.verify import Finding, main, table
from data.volume import write_lps
from tests.conftest import SPACING, tiny_scan


@pytest.fixture
def verify(tmp_path, capsys):
    """``verify(root)`` runs the command; returns exit code and its table's rows by level."""

    def run(root: Path, *more: str):
        argv = ["folder", str(root), "--centre", "here", "--store", str(tmp_path / "store"), "--workers", "1", *more]
        code = main(argv)
        rows: dict[str, list[str]] = {"fatal": [], "warning": [], "fixed": []}
        lines = capsys.readouterr().out.splitlines()
        for line in lines:
            if line.split()[0] in rows:
                rows[line.split()[0]].append(line)
        assert not (tmp_path / "store").exists()
        return code, rows, lines[-1]

    return run


def test_a_good_centre_has_nothing_against_it(verify, write_centre):
    code, rows, summary = verify(write_centre())
    assert code == 0 and not any(rows.values()) and summary.startswith("3 of 3 cases are fit")


def test_what_prepare_would_refuse_is_fatal(verify, write_centre):
    root = write_centre(cases=5)
    (root / "images" / "case_1.nii.gz").write_bytes(b"")
    (root / "images" / "case_2.nii.gz").write_bytes(b"")
    (root / "labels" / "case_3.nii.gz").unlink()
    code, rows, summary = verify(root)
    assert code == 2 and len(rows["fatal"]) == 2 and summary.startswith("2 of 5")
    empty = next(row for row in rows["fatal"] if "empty" in row)
    assert empty.split()[1] == "2" and "images/case_1.nii.gz, images/case_2.nii.gz" in empty
    assert "download or copy it again" in empty


def change(root: Path, kind: str, index: int, array: np.ndarray, spacing=SPACING) -> None:
    write_lps(root / kind / f"case_{index}.nii.gz", array, spacing, (-40.0, -30.0, 100.0 + index))


def test_each_doubt_is_a_warning(verify, write_centre):
    root = write_centre(cases=7)
    image, label = tiny_scan(0)
    change(root, "labels", 0, label * 0)
    stray = tiny_scan(1)[1]
    stray[9, 20, 25] = 2
    change(root, "labels", 1, stray)
    change(root, "images", 2, np.clip(tiny_scan(2)[0], -150, 250))
    for kind, array in (("images", image), ("labels", label)):
        change(root, kind, 3, array, (12.0, 4.0, 3.0))
    speck = np.zeros_like(label)
    speck[4, 8, 8] = 1
    change(root, "labels", 4, speck)
    change(root, "images", 5, np.minimum(tiny_scan(5)[0], 90))
    code, rows, summary = verify(root)
    expected = ["no pancreas", "does not touch", "not HU", "12 mm", "pancreas of 0.06 ml"]
    assert code == 0 and summary == "7 of 7 cases are fit to train on, 6 of them with warnings"
    for index, word in enumerate(expected):
        (row,) = (row for row in rows["warning"] if word in row)
        assert f"case_{index}" in row
    assert len(rows["warning"]) == 5 and "case_2, case_5" in "\n".join(rows["warning"])


def test_what_reading_mends_is_fixed(verify, write_centre):
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


def test_the_table_joins_what_differs_in_numbers_alone():
    findings = [Finding("warning", f"pancreas of {n / 10} ml", f"case_{n}", "look") for n in range(6)]
    lines = table([*findings, Finding("fatal", "empty", "z", "copy"), Finding("fixed", "turned", "a", "nothing")])
    rows = lines.splitlines()
    assert [row.split()[:2] for row in rows[1:]] == [["fatal", "1"], ["warning", "6"], ["fixed", "1"]]
    assert "case_0, case_1, case_2, case_3 and 2 more" in rows[2] and "and the like" in rows[2]
    long = table([Finding("fatal", "lies elsewhere " * 20, "a", "give the right label " * 5)])
    assert max(map(len, long.splitlines())) < 170 and long.count("elsewhere") == 20


def test_the_three_real_scans_are_fit(verify, shared, tmp_path):
    folder = shared / "real_ct"
    scans = {
        "amos_0013_slab": ("label.nii.gz", "10=1,*=0"),
        "totalsegmentator_s0009": ("pancreas.nii.gz", "1=1"),
        "totalsegmentator_example": ("pancreas_model_output.nii.gz", "1=1"),
    }
    for name, (label, codes) in scans.items():
        for kind, file in (("images", "ct.nii.gz"), ("labels", label)):
            (tmp_path / name / kind).mkdir(parents=True)
            (tmp_path / name / kind / "case.nii.gz").write_bytes((folder / name / file).read_bytes())
        code, rows, _ = verify(tmp_path / name, "--labels", codes)
        assert code == 0 and not rows["warning"] and len(rows["fixed"]) == 2
