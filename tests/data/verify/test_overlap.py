"""Verifying one data set as several centres, and the scans and patients that these share."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.common.files import REPOSITORY
from data.prepare import command as prepare
from data.verify import command as verify
from tests.conftest import abdomens


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Path:
    """Scans of two scanners: ``again`` copies ``a``, ``later`` shows the patient of ``b``, ``c`` has no scanner."""
    root = abdomens(tmp_path_factory.mktemp("set"), {"a": 1, "b": 2, "c": 3, "later": 4, "z": 5})
    for kind in ("images", "labels"):
        shutil.copy(root / kind / "a.nii.gz", root / kind / "again.nii.gz")
    scanners = {"a": "GE", "b": "GE", "c": "", "again": "Siemens AG", "later": "Siemens AG", "z": "Siemens AG"}
    with (root / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "label", "patient", "scanner"))
        for name, scanner in scanners.items():
            patient = "b" if name == "later" else name
            rows.writerow((f"images/{name}.nii.gz", f"labels/{name}.nii.gz", patient, scanner))
    return root


def run_module(*words: object) -> tuple[int, str, str]:
    """Run ``python -m`` with these words and return exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8"
    )
    return done.returncode, done.stdout, done.stderr


def test_each_centre_of_a_column_has_its_own_report(listed, tmp_path):
    store, found, sheets = tmp_path / "store", tmp_path / "found.json", tmp_path / "sheets"
    words = ["folder", listed, "--centre", "mine", "--centre-by", "scanner", "--store", store, "--workers", 1]
    code, out, err = run_module("data.verify", *words, "--json", found, "--sheet", sheets)
    assert code == 2 and "Traceback" not in err  # c belongs to no centre
    ge, siemens = (
        part.splitlines() for part in out.partition("\ncentre mine_GE\n")[2].split("\ncentre mine_Siemens-AG\n")
    )
    assert "2 of 3 cases are fit to train on, 0 of them with warnings" in ge
    assert any("c.nii.gz" in row and "no value in column scanner" in row for row in ge if row.startswith("fatal"))
    assert "3 of 3 cases are fit to train on, 2 of them with warnings" in siemens
    assert any("again = mine_GE/a" in row and "identical voxels, as in" in row for row in siemens)
    assert any("later = mine_GE/b" in row and "patient also in centre mine_GE" in row for row in siemens)
    records = {record["centre"]: record["counts"] for record in json.loads(found.read_text())}
    assert records == {
        "mine_GE": {"fatal": 1, "warning": 0, "fixed": 0},
        "mine_Siemens-AG": {"fatal": 0, "warning": 2, "fixed": 0},
    }
    assert sorted(path.name for path in sheets.iterdir()) == ["mine_GE_01.png", "mine_Siemens-AG_01.png"]
    assert not store.exists()


def test_stored_centres_duplicate_the_whole_set_but_not_themselves(listed, tmp_path, capsys):
    words = ["folder", str(listed), "--centre", "mine", "--store", str(tmp_path / "store"), "--workers", "1"]
    assert prepare.main([*words, "--centre-by", "scanner"]) == 2  # without c
    capsys.readouterr()
    verify.main([*words, "--centre-by", "scanner"])
    again = capsys.readouterr().out
    assert "again = mine_GE/a" in again and again.count("as in centre") == 1
    assert verify.main(words) == 0
    whole = capsys.readouterr().out
    assert "mine_GE/b" in whole and "mine_Siemens-AG/z" in whole and "5 of them with warnings" in whole


def test_prepare_and_verify_refuse_a_column_with_the_same_message(listed, tmp_path, capsys):
    words = ["folder", str(listed), "--centre", "mine", "--store", str(tmp_path / "store"), "--centre-by", "vendor"]
    assert prepare.main(words) == 2
    told = capsys.readouterr().err
    assert verify.main(words) == 2
    assert capsys.readouterr().err == told and "no such column" in told and told.count("\n") == 1
