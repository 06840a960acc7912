"""Run folders: their names put the runs in order, whatever the clocks of the machines say."""

from datetime import datetime, timedelta

import pytest

from engine.checkpoint import TIME_FORMAT, create_run, find_run, list_runs
from engine.stages import STAGES

STAGE = STAGES["pancreas_fine"]


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(hours=3), timedelta(days=400)])
def test_a_new_run_is_the_newest_even_if_another_machine_was_ahead_of_time(tmp_path, ahead):
    earlier = tmp_path / STAGE.name / "west" / (datetime.now() + ahead).strftime(TIME_FORMAT)
    earlier.mkdir(parents=True)
    runs = [create_run(tmp_path, STAGE, "west") for _ in range(3)]
    assert list_runs(tmp_path, STAGE, "west") == [earlier, *runs]
    for run in (earlier, runs[0]):
        (run / "best.pt").touch()
    assert find_run(tmp_path, STAGE, "west") == runs[0]


def test_folders_whose_names_are_no_times_are_no_runs(tmp_path):
    for name in ("2026_99_01_00_00_00", "2026_01_01", "notes"):
        (tmp_path / STAGE.name / "west" / name).mkdir(parents=True)
    run = create_run(tmp_path, STAGE, "west")
    assert list_runs(tmp_path, STAGE, "west") == [run]
