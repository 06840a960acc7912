"""kill -9 at random moments of every long command: it goes on, and ends as if nothing had happened.

``pytest -m slow tests/fire/test_kills.py -s`` kills a hundred times and prints what was seen.
"""

import contextlib
import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.fire.world import Job, begin, check_nothing_half_written, make_jobs, measure, snapshot

KILLS = {
    "prepare": 25,
    "train": 25,
    "train with a loader process": 5,
    "evaluate": 20,
    "predict": 20,
    "study": 5,
}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> dict[str, Job]:
    return make_jobs(tmp_path_factory.mktemp("world"))


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLS)
def test_a_killed_command_goes_on_and_ends_with_the_same_result(jobs, name, tmp_path):
    job, chance = jobs[name], random.Random(name)
    duration = measure(job, tmp_path / "undisturbed")
    expected = snapshot(tmp_path / "undisturbed")
    kills = finished = 0
    while kills < KILLS[name] or not finished:
        folder = tmp_path / "killed"
        if not folder.exists():
            folder.mkdir()
            job.start(folder)
        delay = chance.uniform(0, duration) if kills < KILLS[name] else None
        if run_until(job, folder, tmp_path / "log.txt", delay):
            assert snapshot(folder) == expected, (tmp_path / "log.txt").read_text()
            shutil.rmtree(folder)
            (tmp_path / "log.txt").unlink()
            finished += 1
        else:
            kills += 1
            check_nothing_half_written(folder)
    print(f"\n{name}: {kills} kills, {finished} times gone on to the end, undisturbed {duration:.1f} s")


def run_until(job: Job, folder: Path, log: Path, delay: float | None) -> bool:
    """Run a job and kill it after ``delay`` seconds; return whether it ended before."""
    process = begin(job, folder, log)
    process.join(delay)
    if process.is_alive():
        kill_all(process.pid)
        process.join()
        return False
    assert process.exitcode == 0, log.read_text()
    return True


def kill_all(pid: int) -> None:
    """Kill a process and all that it has started, as a power failure does."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)  # it must not start others meanwhile
        children = Path(f"/proc/{pid}/task").glob("*/children")
        for child in [int(child) for path in children for child in path.read_text().split()]:
            kill_all(child)
        os.kill(pid, signal.SIGKILL)
