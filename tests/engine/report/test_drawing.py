"""A picture that cannot be drawn is reported in one line, and the work goes on."""

import errno
import math
import os

import pytest

from data.common.errors import InputError
from engine.metrics import COLUMNS, LESIONS
from engine.report import drawing as module
from engine.report.drawing import drawing
from engine.report.results import write_results
from engine.train.run_log import RunLog


@pytest.fixture(autouse=True)
def as_for_users(monkeypatch):
    monkeypatch.setattr(module, "FORGIVEN", (Exception,))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x"), "No space left on device"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (ImportError("no module"), "ImportError: no module"),
        (InputError("case", "is damaged", "prepare it again"), "case: is damaged. Prepare it again."),
    ],
)
def test_a_fault_is_one_line_that_names_the_picture(tmp_path, capsys, error, reason):
    with drawing(tmp_path / "best.png") as outcome:
        raise error
    assert outcome.fault == f"{tmp_path / 'best.png'} was not drawn ({reason})"
    assert capsys.readouterr().err == f"warning: {outcome.fault}\n"


def test_a_picture_that_fails_after_every_epoch_is_reported_once(tmp_path, capsys):
    for _ in range(3):
        with drawing(tmp_path / "curves.png") as outcome:
            raise ValueError("no font")
        assert outcome.fault
    assert capsys.readouterr().err.count("\n") == 1


def test_a_picture_that_is_drawn_has_no_fault(tmp_path, capsys):
    with drawing(tmp_path / "best.png") as outcome:
        pass
    assert outcome.fault == "" and capsys.readouterr().err == ""


def test_ctrl_c_ends_the_work(tmp_path):
    with pytest.raises(KeyboardInterrupt), drawing(tmp_path / "best.png"):
        raise KeyboardInterrupt


def test_a_training_whose_curves_cannot_be_drawn_keeps_its_losses(tmp_path, capsys):
    (tmp_path / "curves.png").mkdir()
    log = RunLog(tmp_path)
    for epoch in (1, 2):
        log.add_epoch({"epoch": epoch, "loss": 1.0, "validation_dice": 0.5})
        log.draw_curves("a run")
    log.close()
    assert log.undrawn == f"{tmp_path / 'curves.png'} was not drawn (Is a directory)"
    assert capsys.readouterr().err == f"warning: {log.undrawn}\n"
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == 3


def test_an_evaluation_whose_plot_cannot_be_drawn_has_its_summary(tmp_path, capsys):
    (tmp_path / "distributions.png").mkdir()
    row = dict.fromkeys((*COLUMNS, "seconds"), math.nan) | {"case": "a/b", "centre": "a", "error": ""}
    row |= dict.fromkeys((*LESIONS, "reference_ml", "prediction_ml"), 0.0)

    def lost(case):
        raise InputError("a/b.npz", "no such mask", "run this evaluation again")

    given = {"target": "tumour", "title": "t", "heading": "h", "read_prediction": lost}
    write_results(tmp_path, [row], cases={"a/b": None}, find_mask=lambda case: tmp_path / "b.nii.gz", **given)
    captured = capsys.readouterr()
    assert captured.out.endswith("*.png; 1 could not be drawn, see the warnings\n") and captured.err.count("\n") == 1
    assert (tmp_path / "summary.json").exists()
    assert "a/b: a/b.npz: no such mask." in (tmp_path / "report.html").read_text()
