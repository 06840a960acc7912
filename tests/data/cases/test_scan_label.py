"""Preparing with a target spacing keeps the label on the scan's own voxels, also in stores of earlier versions."""

import numpy as np

from data.cases.store import read_store
from data.prepare.command import main as prepare
from tests.conftest import SPACING, tiny_scan


def test_prepare_stores_the_label_of_the_scan_and_adds_it_to_older_cases(write_centre, tmp_path, capsys):
    root, store = write_centre(cases=2), tmp_path / "store"
    command = ["folder", str(root), "--centre", "here", "--store", str(store), "--workers", "1"]
    assert prepare([*command, "--spacing", "5", "5", "5"]) == 0
    for index, case in enumerate(read_store(store)["here"]):
        label = tiny_scan(index)[1]
        assert case.shape != label.shape and np.allclose(case.scan_spacing, SPACING)
        assert np.array_equal(case.scan_label(), label[case.grid.part.slices])
        assert (case.scan_label() > 0).sum() == (label > 0).sum()
    (store / "here" / "case_1" / "scan_label.npz").unlink()  # as an earlier version left it
    capsys.readouterr()
    assert prepare([*command, "--spacing", "5", "5", "5"]) == 0
    out = capsys.readouterr().out
    assert "disk: 1 scan to prepare" in out and "1 prepared, 1 already there" in out
    assert all(case.has_scan_label for case in read_store(store)["here"])


def test_a_case_that_was_only_cropped_stores_its_label_once(write_centre, tmp_path):
    root, store = write_centre(cases=1), tmp_path / "store"
    assert prepare(["folder", str(root), "--centre", "here", "--store", str(store), "--workers", "1"]) == 0
    (case,) = read_store(store)["here"]
    assert case.has_scan_label and not list(case.folder.glob("scan_label*"))
    assert np.array_equal(case.scan_label(), case.label())
