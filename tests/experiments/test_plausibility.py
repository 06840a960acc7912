"""The comparison of synthetic patients with real scans: its command line, its table, and the whole of it, coarsely."""

import argparse
import csv

import numpy as np
import pytest

from data.scans.volume import write_image
from data.synthesis.settings import Synthesis
from experiments.plausibility import ORGANS, draw_materials, main, parse_organs, write_figures
from experiments.texture import Figures
from tests.tiny_cascade import OBLIQUE, write_scan


def test_organs_are_named_with_their_codes():
    assert parse_organs("a=l.nii.gz:liver=6,kidney=2+3") == ("a", ("l.nii.gz", {"liver": (6,), "kidney": (2, 3)}))
    for text in ("a=l.nii.gz", "a=l.nii.gz:heart=3", "l.nii.gz:liver=6", "a=l.nii.gz:liver=six"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_organs(text)


def test_what_lies_beyond_the_patients_is_marked(tmp_path):
    drawn = [Figures(np.zeros(1), np.zeros(1), {"noise HU": float(n)}) for n in range(101)]
    real = {
        name: Figures(np.zeros(1), np.zeros(1), {"noise HU": n}) for name, n in (("within", 50.0), ("beyond", 99.0))
    }
    line = write_figures(tmp_path / "figures.csv", drawn, real).splitlines()[1]
    assert line.split() == ["noise", "HU", "5", "50", "95", "50", "99*"]
    with (tmp_path / "figures.csv").open(newline="") as file:
        assert list(csv.reader(file))[1] == ["noise HU", "5", "50", "95", "50", "99"]


def test_without_variety_the_organs_have_the_values_of_one_phase():
    values = draw_materials(Synthesis(intensity=0, resolution=0), [], (3.0, 2.0, 2.0))
    assert values["HU"].keys() == set(ORGANS)
    assert np.ptp(values["HU"]["spleen"]) == 0 and 100 < values["HU"]["spleen"][0] < 140
    assert np.ptp(draw_materials(Synthesis(), [], (3.0, 2.0, 2.0))["HU"]["spleen"]) > 60


def test_the_command_writes_pictures_and_a_table_of_patients_and_real_scans(tmp_path, capsys):
    patient = tmp_path / "scans" / "patient"
    write_scan(patient / "ct.nii.gz")
    label = np.zeros(OBLIQUE.lps_shape, np.uint8)
    label[4:10, 8:20, 8:20], label[4:10, 8:20, 21:26] = 7, 6
    write_image(patient / "organs.nii.gz", label, OBLIQUE)
    options = [str(tmp_path / "out"), "--real", str(patient.parent), "--label", "patient=organs.nii.gz:7"]
    options += ["--organs", "patient=organs.nii.gz:liver=6", "--patients", "2", "--spacing", "6", "6", "6"]
    assert main(options) == 0
    assert all((tmp_path / "out" / name).stat().st_size > 5000 for name in ("axial.png", "coronal.png", "figures.png"))
    with (tmp_path / "out" / "figures.csv").open(newline="") as file:
        rows = {row["figure"]: row for row in csv.DictReader(file)}
    assert float(rows["gland HU"]["patient"]) == pytest.approx(140, abs=10)
    assert float(rows["liver HU"]["patient"]) == pytest.approx(40, abs=25)
    assert float(rows["gland ml"]["median"]) > 5
    assert "gland ml" in capsys.readouterr().out
