"""The experiment on real scans: which label counts, how a stage is scored, and the record of the looks."""

from pathlib import Path

import numpy as np
import pytest

from data.common.errors import InputError
from data.scans.boxes import whole_box
from data.scans.volume import read_image, read_label, write_image
from engine.infer.cascade import StageResult
from engine.infer.ensemble import BoxProbability
from engine.report.tables import read_case_table
from experiments.real_scans import LabelSource, find_scans, main, measure, parse_label, read_reference
from tests.tiny_cascade import OBLIQUE, write_runs, write_scan


@pytest.fixture
def folder(tmp_path) -> Path:
    """A patient with a label of two organs, in which code 7 is the pancreas."""
    write_scan(tmp_path / "scans" / "patient" / "ct.nii.gz")
    label = np.zeros(OBLIQUE.lps_shape, np.uint8)
    label[4:10, 8:20, 8:20] = 7
    label[3, 4:8, 4:8] = 2
    write_image(tmp_path / "scans" / "patient" / "organs.nii.gz", label, OBLIQUE)
    return tmp_path / "scans"


def test_a_label_of_several_organs_has_to_be_explained(folder):
    scan = find_scans(folder, {})[0]
    volume = read_image(scan.path)
    with pytest.raises(InputError, match=r"codes 2, 7.*--label patient=organs\.nii\.gz:CODES"):
        read_reference(scan, volume)
    named = find_scans(folder, dict([parse_label("patient=organs.nii.gz:7")]))[0]
    assert np.count_nonzero(read_reference(named, volume)) == 6 * 12 * 12
    with pytest.raises(InputError, match="no such patient"):
        find_scans(folder, {"other": LabelSource("organs.nii.gz", (1,))})


def test_a_stage_that_finds_the_gland_is_scored_so_and_one_that_fires_elsewhere_is_told_where(folder):
    scan = find_scans(folder, dict([parse_label("patient=organs.nii.gz:7")]))[0]
    volume = read_image(scan.path)
    reference = read_reference(scan, volume)
    box = whole_box(reference.shape)
    found = StageResult(reference, "", probability=BoxProbability(box, reference.astype(np.float32)))
    row = measure(found, volume, reference, reference, volume)
    assert row["dice"] == 1 and row["rank"] == 1 and row["centre_mm"] == 0 and row["found"] == "yes"
    elsewhere = np.roll(reference, 8, axis=1)
    row = measure(StageResult(elsewhere, ""), volume, elsewhere, reference, volume)
    assert row["centre_y_mm"] == pytest.approx(8 * volume.spacing[1]) and row["found"] == "yes"
    assert row["dice"] == pytest.approx(1 / 3) and np.isnan(row["rank"])
    nothing = np.zeros_like(reference)
    row = measure(StageResult(nothing, ""), volume, nothing, reference, volume)
    assert row["dice"] == 0 and row["found"] == "no" and np.isnan(row["centre_mm"])


def test_every_call_writes_masks_pictures_and_a_line_of_its_own(folder, tmp_path, capsys):
    runs, out = write_runs(tmp_path / "runs", "synthetic"), tmp_path / "out"
    options = [str(folder), str(out), "--path", str(runs), "--label", "patient=organs.nii.gz:7", "--fast"]
    assert main(options) == 0
    assert main([*options, "--stages", "pancreas_coarse"]) == 0
    looks = (out / "looks.txt").read_text().splitlines()
    assert len(looks) == 2 and "pancreas_fine" in looks[0] and "pancreas_fine" not in looks[1]
    assert "look number 2" in capsys.readouterr().out
    rows = read_case_table(out / "cases.csv")
    assert [(row["case"], row["stage"]) for row in rows] == [("patient", "pancreas_coarse")]
    mask = read_label(out / "patient_pancreas_coarse.nii.gz")
    assert np.count_nonzero(mask.array) * np.prod(mask.spacing) / 1000 == pytest.approx(rows[0]["prediction_ml"])
    assert all((out / f"patient_{stage}.png").stat().st_size > 1000 for stage in ("pancreas_coarse", "pancreas_fine"))
