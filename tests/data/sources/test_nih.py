"""NIH Pancreas-CT: labels that fit by index, whichever way they run, are placed by what lies under them."""

import shutil
from itertools import product

import pytest

from data.common.errors import InputError
from data.sources import nih as nih_set
from data.sources.catalogue import SOURCES, remarks
from data.sources.nih import clear_winner, vote
from tests import miniatures
from tests.miniature_scan import check, dicom, prepared, scan


@pytest.mark.parametrize("flips", list(product((False, True), repeat=2)))
def test_nih_labels_are_placed_whichever_way_they_run(flips, tmp_path, capsys):
    known = miniatures.nih(tmp_path / "nih", flips)
    code, cases = prepared("nih", tmp_path / "nih", tmp_path / "store")
    out = "".join(capsys.readouterr())
    assert code == 0 and set(cases) == set(known), out
    for name, case in cases.items():
        check(case, known[name])
    assert remarks("nih", tmp_path / "nih") == ["left out: 0025, 0070, whose images were withdrawn from the collection"]


def test_nih_faults_are_the_cases_own(tmp_path, monkeypatch, capsys):
    root = tmp_path / "nih"
    known = miniatures.nih(root)
    miniatures.nih_label(root, "0002", scan(2).label[2:], (True, False))
    shutil.rmtree(root / "Pancreas-CT" / "PANCREAS_0069")
    dicom(root / "Pancreas-CT" / "PANCREAS_0025" / "study" / "series", scan(25), "1.2.25")
    miniatures.nih_label(root, "0025", scan(25).label, (False, False))
    with pytest.raises(InputError, match=r"PANCREAS_0001: z flipped, .*PANCREAS_0025: nothing flipped"):
        SOURCES["nih"].entries(root)
    monkeypatch.setattr(nih_set, "VOTERS", 1)  # 0025 is then met only when it is read
    code, cases = prepared("nih", root, tmp_path / "store")
    out = "".join(capsys.readouterr())
    assert code == 2 and set(cases) == {"PANCREAS_0001", "PANCREAS_0024"} <= set(known)
    for name, words in {"0002": "48x40x20", "0069": "no such file", "0070": "no such file"}.items():
        assert any(f"failed: PANCREAS_{name}: " in line and words in line for line in out.splitlines()), (name, out)
    assert "failed: PANCREAS_0025" in out and "fits its scan with nothing flipped" in out


def test_the_placement_of_nih_must_be_one_for_all():
    def spread(best: tuple[bool, bool], low: float = 30.0, other: float = 90.0):
        return {flips: low if flips == best else other for flips in product((False, True), repeat=2)}

    z, y = (True, False), (False, True)
    assert clear_winner(spread(z)) == z
    assert clear_winner(spread(z, low=80)) is None and clear_winner(spread(z, other=35)) is None
    assert vote([("a", spread(z)), ("b", spread(z, other=35)), ("c", spread(z))]) == z
    with pytest.raises(InputError, match=r"different placements \(a: z flipped, b: y flipped\); "):
        vote([("a", spread(z)), ("b", spread(y))])
    with pytest.raises(InputError, match=r"do not tell .*\(b, c\); "):
        vote([("a", spread(z)), ("b", spread(z, other=35)), ("c", spread(z, other=35))])
