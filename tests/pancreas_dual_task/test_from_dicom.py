"""A folder of DICOM slices and a model file become a mask, a report and a DICOM segmentation in one command."""

import numpy as np
import pytest

from data.scans.volume import read_image, read_label
from engine.export import command as export
from pancreas_dual_task import command
from tests.conftest import tiny_scan
from tests.dicom_files import write_slices
from tests.engine.report.html.pages import Reader
from tests.tiny_cascade import write_runs

pytest.importorskip("highdicom")


def test_a_series_and_a_model_file_become_a_report_and_a_dicom_segmentation(tmp_path):
    model, series, out = tmp_path / "model.zip", tmp_path / "patient_7", tmp_path / "out"
    assert export.main([str(write_runs(tmp_path / "runs")), "-o", str(model)]) == 0
    study = {"StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.9", "PatientPosition": "HFS"}
    write_slices(series, tiny_scan(0)[0], PixelSpacing=[4.0, 4.0], step=(0.0, 0.0, 5.0), SliceThickness=5.0, **study)
    words = [str(series), "-o", str(out), "--model", str(model), "--report", "--dicom-seg", "--gpu", "cpu"]
    assert command.main(["predict", *words]) == 0
    scan = read_image(series)
    mask = read_label(out / "patient_7_pancreas_tumour.nii.gz", like=scan).array
    assert set(np.unique(mask)) == {0, 1, 2}
    assert np.array_equal(read_label(out / "patient_7_seg.dcm", like=scan).array, mask)
    page = Reader(out / "report.html")
    assert [case["data-key"] for case in page.all("script", class_="case")] == ["patient_7"]
    assert "patient_7_pancreas_tumour.nii.gz" in page.links and str(model) in page.text
