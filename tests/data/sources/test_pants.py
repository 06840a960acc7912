"""PanTS: tumours that the table states, missing parts, and scans about which the table says nothing."""

import shutil
from pathlib import Path

import pytest

from data.common.errors import InputError
from data.sources.catalogue import SOURCES, remarks
from tests import miniatures
from tests.data.sources.entry_helpers import faults
from tests.miniature_scan import prepared

PANTS = SOURCES["pants"]


def miniature_at(tmp_path: Path) -> Path:
    miniatures.pants(tmp_path / "pants")
    return tmp_path / "pants"


def test_a_tumour_that_is_flagged_but_not_labelled_fails(tmp_path, capsys):
    code, _ = prepared("pants", miniature_at(tmp_path), tmp_path / "store")
    out = "".join(capsys.readouterr())
    assert code == 2 and "PanTS_00000003 has a tumour, but its label shows none. Leave the case out" in out
    assert "PanTS_00000005/ct.nii.gz: no such file" in out


def test_columns_of_the_table_and_the_part_are_kept(tmp_path):
    entries = {entry.name: dict(entry.columns) for entry in PANTS.entries(miniature_at(tmp_path))}
    assert entries["PanTS_00000002"]["site"] == "NIH" and entries["PanTS_00009001"]["part"] == "test"


def test_a_missing_mask_is_a_fault_and_half_a_test_part_is_left_out(tmp_path):
    root = miniature_at(tmp_path)
    mask = root / "LabelTr" / "PanTS_00000002" / "segmentations" / "pancreatic_lesion.nii.gz"
    mask.unlink()
    shutil.rmtree(root / "ImageTe")
    entries = PANTS.entries(root)
    fault = faults(entries)["PanTS_00000002"]
    assert (fault.path, fault.problem) == (mask, "no such file") and len(entries) == 5
    assert remarks("pants", root) == ["left out: LabelTe, because its scans are missing"]
    (root / "LabelTe").rename(root / "ImageTe")
    assert len(PANTS.entries(root)) == 5
    assert remarks("pants", root) == ["left out: ImageTe, because there is no LabelTe"]


def test_a_data_set_without_its_table_is_refused(tmp_path):
    root = miniature_at(tmp_path)
    (root / "metadata.csv").unlink()
    with pytest.raises(InputError, match="no such file") as error:
        PANTS.entries(root)
    assert error.value.path == root / "metadata.xlsx"


def test_cases_that_were_not_downloaded_are_counted(tmp_path):
    root = miniature_at(tmp_path)
    assert remarks("pants", root) == []
    for side in ("ImageTe", "LabelTe"):
        shutil.rmtree(root / side)
    expected = "1 cases of metadata.xlsx have neither image nor label, such as PanTS_00009001"
    assert remarks("pants", root) == [expected]


def test_labels_of_other_scans_are_refused(tmp_path):
    root = miniature_at(tmp_path)
    for number in range(1, 5):
        (root / "LabelTr" / f"PanTS_{number:08d}").rename(root / "LabelTr" / f"PanTS_0000002{number}")
    with pytest.raises(InputError, match="no label belongs to a scan of ImageTr") as error:
        PANTS.entries(root)
    assert error.value.path == root / "LabelTr"


def test_a_case_whose_tumour_status_is_unknown_is_not_free_of_tumours(tmp_path):
    root = miniature_at(tmp_path)
    table = root / "metadata.csv"
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    assert lines[0].endswith("tumor?") and lines[4].startswith("PanTS_00000004")
    lines[4] = lines[4].rpartition(",")[0]  # cut short: its last cell is missing
    lines[2] = lines[2].rpartition(",")[0] + ",NaN"
    del lines[1]
    table.write_text("\n".join(lines))
    found = faults(PANTS.entries(root))
    assert set(found) == {f"PanTS_0000000{number}" for number in (1, 2, 4, 5)}
    assert found["PanTS_00000001"].problem.startswith("not in metadata.xlsx")
    assert found["PanTS_00000004"].problem.startswith("metadata.xlsx does not say whether it has a tumour")
    assert found["PanTS_00000004"].path == root / "ImageTr" / "PanTS_00000004"
