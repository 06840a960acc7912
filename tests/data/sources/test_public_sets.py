"""Public data sets in miniature, from the layout as downloaded into the store: the right voxels at known places."""

import shutil
import sys

import pytest

from data.cases.store import read_store
from data.common.errors import InputError
from data.prepare import command as prepare
from data.sources.base import Entry
from data.sources.catalogue import SOURCES, listing, load_entry, remarks
from data.verify import command as verify
from tests import miniatures
from tests.miniature_scan import check, prepared, save, scan, write


def faults(entries: list[Entry]) -> dict[str, str]:
    return {entry.name: entry.fault for entry in entries if entry.fault}


SIMPLE = {  # source -> what is left out or faulty
    "msd": set(),
    "amos": {"amos_0507"},
    "btcv": set(),
    "word": set(),
    "totalsegmentator": set(),
    "pants": {"PanTS_00000003", "PanTS_00000005"},
}


@pytest.mark.parametrize("source", SIMPLE)
def test_a_set_as_downloaded_comes_out_voxel_for_voxel(source, tmp_path, capsys):
    root = tmp_path / "download" / source
    known = miniatures.BUILDERS[source](root)
    code, cases = prepared(source, root, tmp_path / "store")
    out = "".join(capsys.readouterr())
    assert set(cases) == set(known) - SIMPLE[source], out
    assert code == (2 if source == "pants" else 0)
    for name, case in cases.items():
        check(case, known[name])


def test_panorama_takes_pdac_that_is_drawn_and_says_what_it_leaves_out(tmp_path, capsys):
    root = tmp_path / "panorama"
    known = miniatures.panorama(root)
    code, cases = prepared("panorama", root, tmp_path / "store")
    out = "".join(capsys.readouterr())
    assert code == 0 and set(cases) == {"100002_00001", "100003_00001", "100003_00002"}, out
    for name, case in cases.items():
        check(case, known[name])
    assert cases["100003_00001"].patient == cases["100003_00002"].patient == "100003"
    left = remarks("panorama", root)
    assert len(left) == 3 and all(line.startswith("left out: ") for line in left)
    assert any("1 studies, which are of the MSD" in line for line in left)
    assert any("2 studies, which are non-PDAC" in line and "not free of tumours" in line for line in left)


@pytest.mark.parametrize(
    "source, taken",
    [
        ("panorama-manual", {"100002_00001"}),
        ("panorama-all", {"100002_00001", "100003_00001", "100003_00002", "100009_00001"}),
        ("panorama-pancreas", {"100000_00001", "100006_00001"}),
    ],
)
def test_other_choices_of_panorama(source, taken, tmp_path):
    miniatures.panorama(tmp_path)
    entries = {e.name: e for e in SOURCES[source].entries(tmp_path)}
    assert set(entries) == taken and not faults(list(entries.values()))
    for entry in entries.values():
        columns = dict(entry.columns)
        assert columns["scanner"] in ("Siemens", "Toshiba") and columns["annotation"] in ("manual", "automatic")
        label = load_entry(entry, SOURCES[source].codes(tmp_path))[1]
        assert label.max() == (1 if source == "panorama-pancreas" else 2)


def test_two_choices_of_panorama_are_not_one_centre(tmp_path, capsys):
    root, place = tmp_path / "panorama", ["--store", str(tmp_path / "store"), "--workers", "1", "--centre", "nl"]
    miniatures.panorama(root)
    assert prepare.main(["panorama", str(root), *place]) == 0
    for more in ([], ["--moved"]):
        assert prepare.main(["panorama-pancreas", str(root), *place, *more]) == 2
        said = capsys.readouterr().err
        assert "--centre nl: the store already holds this centre, read as panorama. Choose" in said and said.count("\n") == 1
    assert len(read_store(tmp_path / "store")["nl"]) == 3


def test_a_patient_of_two_choices_of_panorama_is_known_as_one(tmp_path, capsys):
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


def test_panorama_half_downloaded_or_contradicting_itself(tmp_path):
    miniatures.panorama(tmp_path)
    labels = tmp_path / "panorama_labels"
    (tmp_path / "batch_1" / "100002_00001_0000.nii.gz").rename(tmp_path / "away.nii.gz")
    (labels / "automatic_labels" / "100003_00001.nii.gz").unlink()
    made = scan(3, tumour=False)
    save(labels / "automatic_labels" / "100003_00002.nii.gz", miniatures.panorama_codes(made))
    save(tmp_path / "batch_1" / "109999_00001_0000.nii.gz", made.hu)
    entries = SOURCES["panorama"].entries(tmp_path)
    wrong = faults(entries)
    assert set(wrong) == {"100002_00001", "100003_00001", "109999_00001"}
    assert "100002_00001_0000.nii.gz: no such file" in wrong["100002_00001"]
    assert "100003_00001.nii.gz: no such file" in wrong["100003_00001"]
    assert "not in clinical_information" in wrong["109999_00001"]
    with pytest.raises(InputError, match="100003_00002 has a tumour, and its label draws none"):
        load_entry(next(e for e in entries if not e.fault), SOURCES["panorama"].codes(tmp_path))
    shutil.rmtree(labels / "manual_labels")
    with pytest.raises(InputError, match=r"manual_labels: no such folder"):
        SOURCES["panorama"].entries(tmp_path)


def test_panorama_without_its_table_is_refused(tmp_path, monkeypatch):
    miniatures.panorama(tmp_path)
    path = tmp_path / "panorama_labels" / "clinical_information.csv"
    text = path.read_text(encoding="utf-8-sig")
    path.unlink()
    with pytest.raises(InputError, match=r"clinical_information\.xlsx: no such file, .*MSD and NIH"):
        SOURCES["panorama"].entries(tmp_path)
    path.with_suffix(".xlsx").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(InputError, match=r"pip install openpyxl, or save it as clinical_information\.csv"):
        SOURCES["panorama"].entries(tmp_path)
    path.write_text(text.replace("level", "grade"))
    with pytest.raises(InputError, match="no column 'level'"):
        SOURCES["panorama"].entries(tmp_path)


def test_an_xlsx_is_read_as_its_csv(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    miniatures.panorama(tmp_path)
    path = tmp_path / "panorama_labels" / "clinical_information.csv"
    entries = SOURCES["panorama"].entries(tmp_path)
    book = openpyxl.Workbook()
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        book.active.append(line.split(","))
    book.save(path.with_suffix(".xlsx"))
    path.unlink()
    assert SOURCES["panorama"].entries(tmp_path) == entries
    path.with_suffix(".xlsx").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"not a readable \.xlsx"):
        SOURCES["panorama"].entries(tmp_path)


def test_pants_reports_what_is_flagged_but_empty(tmp_path, capsys):
    miniatures.pants(tmp_path / "pants")
    code, _ = prepared("pants", tmp_path / "pants", tmp_path / "store")
    out = "".join(capsys.readouterr())
    assert code == 2 and "PanTS_00000003 has a tumour, and its label draws none; leave it out" in out
    assert "PanTS_00000005/ct.nii.gz: no such file" in out
    entries = {e.name: e for e in SOURCES["pants"].entries(tmp_path / "pants")}
    assert dict(entries["PanTS_00000002"].columns)["site"] == "NIH"
    assert dict(entries["PanTS_00009001"].columns)["part"] == "test"
    (tmp_path / "pants" / "LabelTr" / "PanTS_00000002" / "segmentations" / "pancreatic_lesion.nii.gz").unlink()
    shutil.rmtree(tmp_path / "pants" / "ImageTe")
    entries = SOURCES["pants"].entries(tmp_path / "pants")
    assert "pancreatic_lesion.nii.gz: no such file" in faults(entries)["PanTS_00000002"] and len(entries) == 5
    assert remarks("pants", tmp_path / "pants") == ["left out: LabelTe, as its scans are not here"]
    (tmp_path / "pants" / "LabelTe").rename(tmp_path / "pants" / "ImageTe")
    assert len(SOURCES["pants"].entries(tmp_path / "pants")) == 5
    assert remarks("pants", tmp_path / "pants") == ["left out: ImageTe, as there is no LabelTe"]
    (tmp_path / "pants" / "metadata.csv").unlink()
    with pytest.raises(InputError, match=r"metadata\.xlsx: no such file"):
        SOURCES["pants"].entries(tmp_path / "pants")


def test_pants_of_which_neither_side_was_downloaded_is_told(tmp_path):
    miniatures.pants(tmp_path)
    assert remarks("pants", tmp_path) == []
    for side in ("ImageTe", "LabelTe"):
        shutil.rmtree(tmp_path / side)
    lacking = "1 cases of metadata.xlsx have neither image nor label, such as PanTS_00009001"
    assert remarks("pants", tmp_path) == [lacking]


def test_pants_of_which_nothing_is_said_are_no_tumour_free_cases(tmp_path):
    miniatures.pants(tmp_path)
    table = tmp_path / "metadata.csv"
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    assert lines[0].endswith("tumor?") and lines[4].startswith("PanTS_00000004")
    lines[4] = lines[4].rpartition(",")[0]  # cut short: its last cell is missing
    lines[2] = lines[2].rpartition(",")[0] + ",NaN"
    table.write_text("\n".join(lines))
    said = faults(SOURCES["pants"].entries(tmp_path))
    assert set(said) == {"PanTS_00000002", "PanTS_00000004", "PanTS_00000005"}
    assert "PanTS_00000004: metadata.xlsx does not say whether it has a tumour" in said["PanTS_00000004"]


def test_a_short_row_of_a_table_has_empty_cells(tmp_path):
    miniatures.panorama(tmp_path)
    table = tmp_path / "panorama_labels" / "clinical_information.csv"
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    lines[1] = lines[1].rpartition(",")[0]  # of a study without PDAC
    table.write_text("\n".join(lines))
    assert len(SOURCES["panorama"].entries(tmp_path)) == 3 and len(remarks("panorama", tmp_path)) == 3


def test_organ_sets_say_what_they_leave_out_and_know_their_scanners(tmp_path):
    miniatures.amos(tmp_path / "amos")
    assert remarks("amos", tmp_path / "amos") == ["left out: 1 cases numbered from 0500, which are MRI"]
    assert dict(SOURCES["amos"].entries(tmp_path / "amos")[0].columns)["Site"] == "2"
    shutil.rmtree(tmp_path / "amos" / "labelsVa")
    assert "left out: imagesVa, as there is no labelsVa" in remarks("amos", tmp_path / "amos")
    miniatures.totalsegmentator(tmp_path / "total")
    columns = {e.name: dict(e.columns)["institute"] for e in SOURCES["totalsegmentator"].entries(tmp_path / "total")}
    assert columns == {"s0000": "B", "s0011": "A", "s1429": "A"}
    for source in ("amos", "btcv", "word", "totalsegmentator", "nih", "panorama-pancreas"):
        assert not SOURCES[source].codes(tmp_path).gives_tumour


@pytest.mark.parametrize("source, folder", [("amos", "labelsTr"), ("word", "labelsTr"), ("btcv", "label")])
def test_labels_of_another_set_are_refused(source, folder, tmp_path):
    miniatures.BUILDERS[source](tmp_path)
    entry = SOURCES[source].entries(tmp_path)[0]
    codes = miniatures.organ_codes(scan(1), 10, (1, 17))
    save(entry.label, codes)
    with pytest.raises(InputError, match="has label codes 17"):
        load_entry(entry, SOURCES[source].codes(tmp_path))
    for path in [*(tmp_path / folder).iterdir()]:
        path.rename(path.with_name(path.name.replace("0", "7")))
    with pytest.raises(InputError, match="no label belongs to an image"):
        SOURCES[source].entries(tmp_path)


def test_a_listed_file_that_is_missing_is_named_and_the_rest_prepared(tmp_path, capsys):
    root = tmp_path / "msd"
    known = miniatures.msd(root)
    (root / "imagesTr" / "pancreas_004.nii.gz").unlink()
    code, cases = prepared("msd", root, tmp_path / "store")
    out = "".join(capsys.readouterr())
    assert code == 2 and set(cases) == set(known) - {"pancreas_004"}
    assert "imagesTr/pancreas_004.nii.gz: no such file; " in out


@pytest.mark.parametrize("source", ["msd", "nih", "panorama", "pants", "amos", "btcv", "word", "totalsegmentator"])
def test_what_is_not_unpacked_or_one_floor_down_is_said(source, tmp_path):
    packed, above = tmp_path / "packed", tmp_path / "above"
    write(packed / "download.tar.gz", b"x")
    with pytest.raises(InputError, match=r"download\.tar\.gz: not unpacked.*; unpack it there"):
        SOURCES[source].entries(packed)
    if source in ("nih", "panorama"):  # their parts lie wherever the user put them
        return
    miniatures.BUILDERS[source](above / "inside")
    with pytest.raises(InputError, match=r"; give .*inside as ROOT"):
        SOURCES[source].entries(above)


@pytest.mark.parametrize("source, inner", [("msd", "imagesTr"), ("word", "imagesTr"), ("btcv", "img")])
def test_one_floor_too_low_is_said(source, inner, tmp_path):
    miniatures.BUILDERS[source](tmp_path / "set")
    with pytest.raises(InputError, match=rf"one floor up there is; give {tmp_path}/set as ROOT"):
        SOURCES[source].entries(tmp_path / "set" / inner)


def test_the_listing_documents_every_source():
    text = listing()
    for name, source in SOURCES.items():
        assert name in text and source.about.licence and type(source).__doc__
        assert max(source.about.download.split(), key=len) in text  # an address is never broken in two
    assert max(map(len, text.splitlines())) < 160
