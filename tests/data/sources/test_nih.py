"""NIH Pancreas-CT: labels fit by index, and the tissue under them tells in which direction their axes run."""

import shutil
from itertools import product

import pytest

from data.common.errors import InputError
from data.sources import nih
from data.sources.catalogue import SOURCES, remarks
from data.sources.nih import Placement, clear_winner, vote
from tests import miniatures
from tests.miniature_scan import check, dicom, prepared, scan

PLACEMENTS = [Placement(*flips) for flips in product((False, True), repeat=2)]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_labels_are_placed_whichever_way_they_run(placement, tmp_path, capsys):
    known = miniatures.nih(tmp_path / "nih", placement)
    code, cases = prepared("nih", tmp_path / "nih", tmp_path / "store")
    out = "".join(capsys.readouterr())
    assert code == 0 and set(cases) == set(known), out
    for name, case in cases.items():
        check(case, known[name])
    assert remarks("nih", tmp_path / "nih") == ["left out: 0025, 0070, whose images were withdrawn from the collection"]


def test_a_fault_concerns_only_its_own_case(tmp_path, monkeypatch, capsys):
    root = tmp_path / "nih"
    known = miniatures.nih(root)
    miniatures.nih_label(root, "0002", scan(2).label[2:], (True, False))
    shutil.rmtree(root / "Pancreas-CT" / "PANCREAS_0069")
    dicom(root / "Pancreas-CT" / "PANCREAS_0025" / "study" / "series", scan(25), "1.2.25")
    miniatures.nih_label(root, "0025", scan(25).label, (False, False))
    with pytest.raises(InputError, match=r"PANCREAS_0001: z flipped, .*PANCREAS_0025: nothing flipped"):
        SOURCES["nih"].entries(root)
    monkeypatch.setattr(nih, "VOTING_CASES", 1)  # the label of 0025 is then noticed only when it is read
    code, cases = prepared("nih", root, tmp_path / "store")
    out = "".join(capsys.readouterr())
    assert code == 2 and set(cases) == {"PANCREAS_0001", "PANCREAS_0024"} <= set(known)
    for name, words in {"0002": "48x40x20", "0069": "no such file", "0070": "no such file"}.items():
        assert any(f"failed: PANCREAS_{name}: " in line and words in line for line in out.splitlines()), (name, out)
    assert "failed: PANCREAS_0025" in out and "fits its scan with nothing flipped" in out


def spreads(best: Placement, low: float = 30.0, other: float = 90.0) -> dict[Placement, float]:
    return {placement: low if placement == best else other for placement in PLACEMENTS}


Z, Y = Placement(True, False), Placement(False, True)


def test_a_case_votes_only_if_one_placement_is_clearly_the_best():
    assert clear_winner(spreads(Z)) == Z
    assert clear_winner(spreads(Z, low=80)) is None and clear_winner(spreads(Z, other=35)) is None


def test_the_placement_is_the_same_for_all_labels():
    unclear = spreads(Z, other=35)
    assert vote([("a", spreads(Z)), ("b", unclear), ("c", spreads(Z))]) == Z
    with pytest.raises(InputError, match=r"imply different placements \(a: z flipped, b: y flipped\)"):
        vote([("a", spreads(Z)), ("b", spreads(Y))])
    with pytest.raises(InputError, match=r"do not tell .*\(b, c\)"):
        vote([("a", spreads(Z)), ("b", unclear), ("c", unclear)])
