"""Progress is a bar on a terminal, a line a minute in a log file, and nothing with --quiet."""

import argparse
import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import time

import pytest

from data.common import progress as module
from data.common.files import REPOSITORY
from data.common.progress import add_quiet, progress, progress_bar

INTERVAL_S = 0.1


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch):
    monkeypatch.setattr(module, "LINE_INTERVAL_S", INTERVAL_S)
    monkeypatch.setattr(module, "_is_quiet", False)


def sleep_through(items, **options) -> None:
    for _ in progress(items, title="reading", unit="case", **options):
        time.sleep(0.03)


def test_a_log_file_gets_whole_lines_with_counts_and_times(capsys):
    sleep_through(range(12))
    written = capsys.readouterr().err
    assert "\r" not in written and written.endswith("\n")
    lines = written.splitlines()
    assert 2 <= len(lines) <= 5  # a line an interval and a last one, not one for each of the 12 items
    assert lines[-1].startswith("reading: 12 of 12 cases, 00:00 elapsed, 00:00 remaining")


def test_work_that_takes_less_than_an_interval_writes_nothing(capsys):
    sleep_through(range(2))
    assert capsys.readouterr().err == ""


def test_items_that_become_slow_are_still_shown(capsys):
    with progress_bar(total=2000, title="training", unit="step", done=500) as bar:
        for step in range(1030):
            time.sleep(0 if step < 1000 else 0.02)
            bar.update()
            bar.set_postfix(loss="0.5", refresh=False)
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) >= 3 and lines[-1].startswith("training: 1530 of 2000 steps, ") and lines[-1].endswith(", loss=0.5")
    )


def test_text_between_the_lines_is_written_once_and_does_not_repeat_them(capsys):
    with progress_bar(total=3, title="study", unit="run") as bar:
        for number in range(3):
            bar.write(f"run {number}")
            bar.update()
    captured = capsys.readouterr()
    assert captured.out == "run 0\nrun 1\nrun 2\n" and captured.err == ""


def test_an_interrupted_loop_says_how_far_it_came(capsys):
    with pytest.raises(KeyboardInterrupt), progress_bar(total=50, title="reading", unit="case") as bar:
        for number in range(50):
            if number == 6:
                raise KeyboardInterrupt
            time.sleep(0.03)
            bar.update()
    assert capsys.readouterr().err.splitlines()[-1].startswith("reading: 6 of 50 cases")


def test_quiet_shows_nothing_until_the_next_command_line(capsys):
    def parse(*words: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        add_quiet(parser)
        return parser.parse_args(words)

    assert vars(parse("--quiet")) == {}  # no options class has to carry it
    sleep_through(range(12))
    assert capsys.readouterr().err == ""
    parse()
    sleep_through(range(12))
    assert "12 of 12" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_that_is_redrawn():
    code = "from data.common.progress import progress; list(progress(range(3), title='reading', unit='case'))"
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, stderr=end, check=True)
    os.close(end)
    with io.FileIO(terminal) as file:
        written = file.read(4096).decode()
    assert "\rreading: 100%" in written and "3/3" in written
