"""Reports of predictions and studies are written again from their folders; those of evaluations, see their tests."""

import numpy as np
import pytest

from data.scans.volume import read_image, write_lps, write_mask
from engine.infer.volumes import PredictionFolder
from pancreas_dual_task import report
from tests.conftest import SPACING, tiny_scan
from tests.engine.report.html.pages import Reader


@pytest.fixture
def predictions(tmp_path) -> PredictionFolder:
    """Two scans that were segmented without a report; the file of one is gone."""
    folder = PredictionFolder(tmp_path / "out")
    for name in ("ct_0", "ct_1"):
        scan, (image, label) = tmp_path / f"{name}.nii.gz", tiny_scan(0)
        write_lps(scan, image, SPACING)
        write_mask(folder.mask_path(name), label.astype(np.uint8), read_image(scan).grid)
        numbers = {"pancreas_ml": 61.2, "tumour_ml": 4.1, "tumour_score": 0.812}
        folder.put({"case": name, "scan": str(scan), **numbers, "unreliable": "", "note": "", "error": ""})
    scan.unlink()
    return folder


def test_the_report_shows_all_scans_of_the_table(predictions, capsys):
    assert report.main([str(predictions.folder)]) == 0
    path = predictions.folder / "report.html"
    assert capsys.readouterr().out == f"report: {path}\n"
    page = Reader(path)
    assert [found["data-key"] for found in page.all("script", class_="case")] == ["ct_0"]
    assert "61.20" in page.text and "0.812" in page.text and "ct_1.nii.gz" in page.text  # which is missing
    assert "Models:" not in page.text


def test_a_study_and_other_folders(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert "holds neither an evaluation nor predictions nor a study. Give the folder" in capsys.readouterr().err
    (tmp_path / "study.yaml").write_text("[1]")
    assert report.main([str(tmp_path)]) == 2
    assert "study.yaml: not the record of a study" in capsys.readouterr().err
