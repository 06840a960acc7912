"""Several calls write into one folder: no row is lost, no mask of another scan is overwritten, names are repeatable."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from data.common.errors import InputError
from data.common.files import REPOSITORY
from engine.infer.volumes import COLUMNS, UNFINISHED, PredictionFolder


def row(name: str, scan: str, pancreas_ml: float = 80.0) -> dict:
    return {"case": name, "scan": scan, "pancreas_ml": pancreas_ml}


def names_of(folder: PredictionFolder, *scans: str) -> list[str]:
    return list(folder.assign_names([Path(scan) for scan in scans]).values())


@pytest.fixture
def folder(tmp_path) -> PredictionFolder:
    return PredictionFolder(tmp_path / "out")


def test_rows_of_other_scans_stay_and_a_scan_replaces_its_own(folder):
    for name, scan, volume in (("a", "/in/a.nii", 80), ("b", "/in/b.nii", 90), ("a", "/in/a.nii", 70)):
        folder.put(row(name, scan, volume))
    assert [(r["case"], r["pancreas_ml"]) for r in folder.read_rows()] == [("a", "70"), ("b", "90")]
    assert folder.table.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_a_name_belongs_to_the_first_scan_that_has_it(folder):
    folder.put(row("ct", "/in/p1/ct.nii"))
    for write in (folder.put, folder.reserve):
        with pytest.raises(InputError) as caught:
            write(row("ct", "/in/p2/ct.nii"))
        assert caught.value.path == folder.mask_path("ct") and "/in/p1/ct.nii" in caught.value.problem
    assert [r["scan"] for r in folder.read_rows()] == ["/in/p1/ct.nii"]


def test_a_scan_at_work_is_marked_even_if_it_has_an_earlier_result(folder):
    """Its mask may be replaced before its row is: the volumes of the earlier one must not stand beside it."""
    for _ in range(2):
        folder.reserve(row("a", "/in/a.nii", ""))
        assert folder.read_rows()[0]["error"] == UNFINISHED
        folder.put(row("a", "/in/a.nii"))
        assert folder.read_rows()[0]["error"] == "" and folder.read_rows()[0]["pancreas_ml"] == "80.0"


def test_paths_that_are_not_utf8_or_hold_separators_survive(folder):
    scans = [b"/in/M\xfcller.nii".decode(errors="surrogateescape"), '/in/a, "b"\n.nii', "/in/患者.nii"]
    for number, scan in enumerate(scans):
        folder.put(row(str(number), scan))
    assert [r["scan"] for r in folder.read_rows()] == scans


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"name,volume\nx,1\n",
        b"\x89PNG\r\n\x1a\n\x00\x00",
        ",".join(COLUMNS).encode() + b"\na,/in/a,1\n",
        ",".join(COLUMNS).encode() + b"\na,/in/a,1,1,1,,,\na,/in/b,1,1,1,,,\n",
        ",".join(COLUMNS).encode() + b'\na,"/in/a,1,1,1,,,\n',
        ";".join(COLUMNS).encode() + b"\na;/in/a;1;1;1;;;\n",
    ],
    ids=["empty", "another table", "a picture", "short row", "two rows of one name", "open quote", "saved by Excel"],
)
def test_a_table_that_is_damaged_or_not_ours_is_refused_and_stays_as_it_is(folder, content):
    folder.folder.mkdir()
    folder.table.write_bytes(content)
    for use in (folder.read_rows, lambda: folder.put(row("z", "/in/z.nii")), lambda: names_of(folder, "/in/z.nii")):
        with pytest.raises(InputError) as caught:
            use()
        assert caught.value.path == folder.table and "\n" not in str(caught.value)
    assert folder.table.read_bytes() == content


def test_files_of_one_name_are_named_by_their_folders(folder):
    assert names_of(folder, "/in/a.nii.gz", "/in/b.nrrd") == ["a", "b"]
    assert names_of(folder, "/in/p1/ct.nii.gz", "/in/p2/ct.nii.gz", "/in/x.nii") == ["p1_ct", "p2_ct", "x"]
    assert names_of(folder, "/a/x/ct.nii", "/b/x/ct.nii", "/b/y/ct.nii") == ["a_x_ct", "b_x_ct", "y_ct"]
    assert names_of(folder, "/in/p1/DICOM", "/in/p2/DICOM") == ["p1_DICOM", "p2_DICOM"]
    assert names_of(folder, "/in/p2/ct.nii.gz", "/in/p1/ct.nii.gz") == ["p2_ct", "p1_ct"]  # in any order
    with pytest.raises(InputError, match="several scans would have this name"):
        names_of(folder, "/in/ct.nii.gz", "/in/ct.mha")


def test_a_scan_keeps_the_name_that_it_has_in_the_table(folder):
    folder.put(row("ct", "/in/p1/ct.nii"))
    assert names_of(folder, "/in/p1/ct.nii") == ["ct"]
    assert names_of(folder, "/in/p1/ct.nii", "/in/p2/ct.nii") == ["ct", "p2_ct"]
    with pytest.raises(InputError, match="the mask of another scan of the same name"):
        names_of(folder, "/in/p2/ct.nii")


def test_names_do_not_depend_on_which_of_the_scans_are_in_the_table(folder):
    scans = ["/in/p1/ct.nii", "/in/p2/ct.nii", "/in/p2/mr.nii"]
    names = names_of(folder, *scans)
    for name, scan in zip(names, scans, strict=True):
        folder.put(row(name, scan))
        assert names_of(folder, *scans) == names == ["p1_ct", "p2_ct", "mr"]


def test_a_mask_that_another_process_writes_meanwhile_is_not_taken_for_a_foreign_one(folder, monkeypatch):
    folder.put(row("b", "/in/b.nii"))
    read_rows, calls = folder.read_rows, []

    def rows():
        calls.append(read_rows())
        if len(calls) == 1:
            folder.table.unlink()
            folder.put(row("a", "/in/a.nii"))
            folder.mask_path("a").touch()
        return calls[-1]

    monkeypatch.setattr(folder, "read_rows", rows)
    assert names_of(folder, "/in/a.nii") == ["a"]


def test_a_mask_without_a_row_may_be_that_of_another_scan(folder):
    folder.folder.mkdir()
    folder.mask_path("a").touch()
    with pytest.raises(InputError, match="has no row in volumes"):
        names_of(folder, "/in/a.nii")


def test_one_scan_given_twice_is_named(folder, tmp_path):
    scan = tmp_path / "a.nii"
    scan.touch()
    (tmp_path / "link.nii").symlink_to(scan)
    with pytest.raises(InputError, match="this scan is given twice"):
        names_of(folder, str(scan), str(tmp_path / "x" / ".." / "a.nii"))
    with pytest.raises(InputError, match="this scan is given twice, also as"):
        names_of(folder, str(scan), str(tmp_path / "link.nii"))


def test_a_link_is_named_by_itself_and_not_by_the_file_it_points_to(folder, tmp_path):
    (tmp_path / "patient_7.nii").symlink_to(tmp_path / "4f2a9c")
    assert names_of(folder, str(tmp_path / "patient_7.nii")) == ["patient_7"]


def test_processes_that_write_at_the_same_time_lose_no_row(folder):
    code = (
        "import sys; from pathlib import Path; from engine.infer.volumes import PredictionFolder\n"
        "folder = PredictionFolder(Path(sys.argv[1]))\n"
        "for i in range(8): folder.put({'case': sys.argv[2] + str(i), 'scan': f'/in/{sys.argv[2]}/{i}'})"
    )
    commands = [[sys.executable, "-c", code, str(folder.folder), letter] for letter in "ab"]
    assert [process.wait() for process in [subprocess.Popen(c, cwd=REPOSITORY) for c in commands]] == [0, 0]
    with folder.table.open() as file:
        assert {r["case"] for r in csv.DictReader(file)} == {f"{letter}{i}" for letter in "ab" for i in range(8)}
