"""A picture that cannot be drawn is reported in one line, and the work goes on."""

import errno
import os

import pytest

from data.common.errors import InputError
from engine.report import drawing as module
from engine.report.drawing import drawing


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
