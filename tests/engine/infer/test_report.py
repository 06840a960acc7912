"""The report of segmented scans, and what a later call leaves of it."""

import shutil
from pathlib import Path
from urllib.parse import unquote

from engine.infer import predict
from engine.infer import scan as scan_steps
from engine.report import drawing
from tests.engine.infer import test_predict
from tests.engine.infer.test_predict import blocks
from tests.engine.report.html.pages import Reader

seen = test_predict.seen  # the fixture


def test_the_report_shows_every_scan_of_the_call(seen, tmp_path, capsys):
    out = tmp_path / "out"
    first, broken, third = blocks(tmp_path, "a & b.nii.gz", "b.nii.gz", "c.nii.gz")
    Path(broken).write_bytes(b"x")
    assert predict.main([first, broken, "-o", str(out), "--report"]) == 2  # as without the report
    page = Reader(out / "report.html")
    (shown,) = page.all("script", class_="case")
    assert shown["data-key"] == "a & b" and f"{broken}: " in page.text
    files = [unquote(link) for link in page.links if not link.startswith(("#", "data:"))]
    assert files == ["a & b_pancreas_tumour.nii.gz", "a & b.png"] and all((out / name).is_file() for name in files)
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out
    # Shares of the same scans may be segmented at the same time; a scan that was finished before is shown, too.
    shutil.copy(out / "a & b_pancreas_tumour.nii.gz", out / "a & b_tumour_probability.nii.gz")
    assert predict.main([first, third, "-o", str(out), "--report", "--shard", "1/2"]) == 0
    assert '"name": "probability of the tumour"' in (out / "report_1_of_2.html").read_text()
    assert [found["data-key"] for found in Reader(out / "report_1_of_2.html").all("script", class_="case")] == ["a & b"]


def test_a_report_is_removed_when_a_scan_that_it_shows_is_segmented_again(seen, tmp_path, capsys):
    out = tmp_path / "out"
    first, second, other = blocks(tmp_path, "a & b.nii.gz", "b.nii.gz", "a.nii.gz")
    assert predict.main([first, second, "-o", str(out), "--report"]) == 0
    assert predict.main([first, second, "-o", str(out), "--report", "--shard", "2/2"]) == 0
    reports = out / "report.html", out / "report_2_of_2.html"
    assert predict.main([first, other, "-o", str(out)]) == 0  # one is finished, the other is in no report
    assert all(report.exists() for report in reports) and "removed, because" not in capsys.readouterr().out
    seen["model"].threshold = 0.7
    segmentation = out / "a & b_seg.dcm"
    segmentation.touch()
    assert predict.main([first, "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{reports[0]}: removed, because a & b, which it shows, is segmented again" in said
    assert f"{segmentation}: removed, because a & b was segmented again without --dicom-seg" in said
    assert not segmentation.exists()
    assert not reports[0].exists() and reports[1].exists()  # the second share shows b only
    assert predict.main([second, "-o", str(out), "--report"]) == 0
    assert reports[0].exists() and not reports[1].exists()


def test_the_picture_of_an_earlier_mask_does_not_stay_if_the_new_one_cannot_be_drawn(seen, tmp_path, monkeypatch):
    (scan,) = blocks(tmp_path, "a.nii.gz")
    assert predict.main([scan, "-o", str(tmp_path / "out")]) == 0 and (tmp_path / "out" / "a.png").exists()
    monkeypatch.setattr(drawing, "FORGIVEN", (Exception,))
    monkeypatch.setattr(scan_steps, "draw_overlay", lambda *_, **__: 1 / 0)
    seen["model"].threshold = 0.7
    assert predict.main([scan, "-o", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "a.png").exists()
