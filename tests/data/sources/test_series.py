"""Which series of a DICOM folder is read: for all cases by ``--series``, for one case by a table."""

import json

import numpy as np
import pytest

from data.cases.case import read_case
from data.prepare.command import main as prepare
from data.scans.volume import write_lps
from data.verify.command import main as verify
from tests.conftest import tiny_scan
from tests.dicom_files import DOSE_REPORT, write_object, write_slices

SPACING = (2.5, 0.8, 0.8)
PHASES = {"arterial": 0, "venous": 2}


@pytest.fixture
def centre(tmp_path):
    """A centre of three cases, each with two phases in one folder."""
    root = tmp_path / "in"
    for case in "abc":
        for number, (phase, seed) in enumerate(PHASES.items(), start=1):
            image, label = tiny_scan(seed, (12, 30, 32))
            uid, description = f"1.2.{number}", f"abdomen {phase}"
            write_slices(
                root / "images" / case,
                image,
                series=uid,
                prefix=phase,
                SeriesNumber=number,
                SeriesDescription=description,
            )
        write_object(root / "images" / case / "SR.dcm", DOSE_REPORT, "SR")
        write_lps(root / "labels" / f"{case}.nii.gz", label, SPACING, (-10, -20, 0))
    return root


def run(command, root, store, *more):
    return command(["folder", str(root), "--centre", "here", "--store", str(store), "--workers", "1", *more])


def image_of(store, case):
    return read_case(store / "here" / case).image()


def test_a_choice_holds_for_all_cases_and_is_part_of_what_was_prepared(centre, tmp_path, capsys):
    store = tmp_path / "store"
    assert run(verify, centre, store) == 2
    assert "2 CT series" in " ".join(capsys.readouterr().out.split())
    assert run(verify, centre, store, "--series", "venous", "--json", str(tmp_path / "f.json")) == 0
    found = json.loads((tmp_path / "f.json").read_text())["findings"]
    assert any("passed over: 1 CT series, 1 dose report (SR)" in finding["problem"] for finding in found)
    capsys.readouterr()
    for phase, seed in (*PHASES.items(), ("venous", 2)):
        assert run(prepare, centre, store, "--crop", "none", "--series", phase) == 0
        assert np.array_equal(image_of(store, "b"), tiny_scan(seed, (12, 30, 32))[0])
    assert "3 already there" in capsys.readouterr().out


def test_the_table_chooses_for_one_case(centre, tmp_path):
    rows = ["image,label,series", "images/a,labels/a.nii.gz,arterial", "images/b,labels/b.nii.gz,"]
    (centre / "cases.csv").write_text("\n".join(rows))
    assert run(prepare, centre, tmp_path / "store", "--crop", "none", "--series", "2") == 0
    for case, phase in (("a", "arterial"), ("b", "venous")):
        assert np.array_equal(image_of(tmp_path / "store", case), tiny_scan(PHASES[phase], (12, 30, 32))[0])


def test_a_series_is_no_matter_for_scans_that_are_files(write_centre, tmp_path, capsys):
    root = write_centre(cases=2)
    assert run(prepare, root, tmp_path / "store", "--series", "venous") == 0
    assert run(prepare, root, tmp_path / "store") == 0
    assert "2 already there" in capsys.readouterr().out


def test_preparing_a_scan_without_its_offset_prints_a_note(write_centre, tmp_path, capsys):
    root = write_centre(cases=2)
    image = tiny_scan(0)[0]
    write_lps(root / "images" / "case_0.nii.gz", image + 1024, (5.0, 4.0, 3.0), (-40.0, -30.0, 100.0))
    assert run(prepare, root, tmp_path / "store") == 0
    note = next(line for line in capsys.readouterr().out.splitlines() if "lack the offset of HU" in line)
    assert note.startswith("note: image values") and note.endswith(": case_0")
