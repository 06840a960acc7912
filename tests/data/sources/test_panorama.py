"""PANORAMA: which studies are cases, what is left out, and downloads that are incomplete or contradict themselves."""

import shutil
import sys

import pytest

from data.cases.store import read_store
from data.common.errors import InputError
from data.prepare import command as prepare
from data.sources.catalogue import SOURCES, load_entry, remarks
from data.verify import command as verify
from tests import miniatures
from tests.data.sources.entry_helpers import faults
from tests.miniature_scan import check, prepared, save, scan

PANORAMA = SOURCES["panorama"]


def test_annotated_pdac_studies_are_the_cases_and_the_others_are_reported(tmp_path, capsys):
    root = tmp_path / "panorama"
    known = miniatures.panorama(root)
    code, cases = prepared("panorama", root, tmp_path / "store")
    out = "".join(capsys.readouterr())
    assert code == 0 and set(cases) == {"100002_00001", "100003_00001", "100003_00002"}, out
    for name, case in cases.items():
        check(case, known[name])
    assert cases["100003_00001"].patient == cases["100003_00002"].patient == "100003"
    lines = remarks("panorama", root)
    assert len(lines) == 3
    for words in ("1 studies of the MSD data set", "1 studies of the NIH data set", "2 studies without PDAC"):
        assert any(line.startswith(f"left out: {words}") for line in lines)


@pytest.mark.parametrize(
    "source, selected",
    [
        ("panorama-manual", {"100002_00001"}),
        ("panorama-all", {"100002_00001", "100003_00001", "100003_00002", "100009_00001"}),
        ("panorama-pancreas", {"100000_00001", "100006_00001"}),
    ],
)
def test_the_other_selections(source, selected, tmp_path):
    miniatures.panorama(tmp_path)
    entries = {entry.name: entry for entry in SOURCES[source].entries(tmp_path)}
    assert set(entries) == selected and not faults(list(entries.values()))
    for entry in entries.values():
        columns = dict(entry.columns)
        assert columns["scanner"] in ("Siemens", "Toshiba") and columns["annotation"] in ("manual", "automatic")
        label = load_entry(entry, SOURCES[source].codes(tmp_path))[1]
        assert label.max() == (1 if source == "panorama-pancreas" else 2)


def test_two_selections_cannot_be_one_centre(tmp_path, capsys):
    root, place = tmp_path / "panorama", ["--store", str(tmp_path / "store"), "--workers", "1", "--centre", "nl"]
    miniatures.panorama(root)
    assert prepare.main(["panorama", str(root), *place]) == 0
    for more in ([], ["--moved"]):
        assert prepare.main(["panorama-pancreas", str(root), *place, *more]) == 2
        error = capsys.readouterr().err
        assert "--centre nl: the store already holds this centre, read as panorama. Choose" in error
        assert error.count("\n") == 1
    assert len(read_store(tmp_path / "store")["nl"]) == 3


def test_a_patient_of_two_selections_is_recognised(tmp_path, capsys):
    root = tmp_path / "panorama"
    miniatures.panorama(root)
    table = root / "panorama_labels" / "clinical_information.csv"
    text = table.read_text(encoding="utf-8-sig")
    table.write_text(text.replace("100000_00001", "100003_00003"))  # non-PDAC, of a patient with PDAC
    for path in [*root.rglob("100000_00001*")]:
        path.rename(path.with_name(path.name.replace("100000_00001", "100003_00003")))
    prepared("panorama", root, tmp_path / "store")
    words = ["panorama-pancreas", str(root), "--centre", "b", "--store", str(tmp_path / "store"), "--workers", "1"]
    verify.main(words)
    assert "patient also in centre panorama" in capsys.readouterr().out.replace("\n", " ")


def test_studies_that_are_incomplete_or_unknown_are_faults(tmp_path):
    miniatures.panorama(tmp_path)
    labels, batch = tmp_path / "panorama_labels", tmp_path / "batch_1"
    (batch / "100002_00001_0000.nii.gz").rename(tmp_path / "away.nii.gz")
    (labels / "automatic_labels" / "100003_00001.nii.gz").unlink()
    save(batch / "109999_00001_0000.nii.gz", scan(3, tumour=False).hu)
    found = {name: (fault.path.name, fault.problem) for name, fault in faults(PANORAMA.entries(tmp_path)).items()}
    assert found.pop("109999_00001")[1].startswith("not in clinical_information")
    assert found == {
        "100002_00001": ("100002_00001_0000.nii.gz", "no such file"),
        "100003_00001": ("100003_00001.nii.gz", "no such file"),
    }


def test_a_pdac_study_whose_label_shows_no_tumour_is_refused(tmp_path):
    miniatures.panorama(tmp_path)
    codes = miniatures.panorama_codes(scan(3, tumour=False))
    save(tmp_path / "panorama_labels" / "automatic_labels" / "100003_00002.nii.gz", codes)
    entry = next(entry for entry in PANORAMA.entries(tmp_path) if entry.name == "100003_00002")
    with pytest.raises(InputError, match="100003_00002 has a tumour, but its label shows none"):
        load_entry(entry, PANORAMA.codes(tmp_path))


def test_a_missing_folder_of_labels_is_named(tmp_path):
    miniatures.panorama(tmp_path)
    shutil.rmtree(tmp_path / "panorama_labels" / "manual_labels")
    with pytest.raises(InputError, match="no such folder") as error:
        PANORAMA.entries(tmp_path)
    assert error.value.path == tmp_path / "manual_labels"


def test_the_table_is_needed(tmp_path, monkeypatch):
    miniatures.panorama(tmp_path)
    path = tmp_path / "panorama_labels" / "clinical_information.csv"
    text = path.read_text(encoding="utf-8-sig")
    path.unlink()
    with pytest.raises(InputError, match="no such file; it tells which studies are of MSD or NIH") as error:
        PANORAMA.entries(tmp_path)
    assert error.value.path == tmp_path / "clinical_information.xlsx"
    path.with_suffix(".xlsx").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(InputError) as error:
        PANORAMA.entries(tmp_path)
    assert error.value.remedy.startswith("save the table as clinical_information.csv")
    assert error.value.command == "pip install openpyxl"
    path.write_text(text.replace("level", "grade"))
    with pytest.raises(InputError, match="no column 'level'"):
        PANORAMA.entries(tmp_path)


def test_the_table_as_xlsx_is_read_like_the_csv(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    miniatures.panorama(tmp_path)
    path = tmp_path / "panorama_labels" / "clinical_information.csv"
    entries = PANORAMA.entries(tmp_path)
    book = openpyxl.Workbook()
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        book.active.append(line.split(","))
    book.save(path.with_suffix(".xlsx"))
    path.unlink()
    assert PANORAMA.entries(tmp_path) == entries
    path.with_suffix(".xlsx").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"not a readable \.xlsx"):
        PANORAMA.entries(tmp_path)


def test_missing_cells_at_the_end_of_a_row_are_empty(tmp_path):
    miniatures.panorama(tmp_path)
    table = tmp_path / "panorama_labels" / "clinical_information.csv"
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    lines[1] = lines[1].rpartition(",")[0]  # of a study without PDAC
    table.write_text("\n".join(lines))
    assert len(PANORAMA.entries(tmp_path)) == 3 and len(remarks("panorama", tmp_path)) == 3
