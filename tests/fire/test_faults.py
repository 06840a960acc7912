"""A disk that fails in the middle of every long command: one line, exit code 2, and nothing that was there is lost.

``pytest -m slow tests/fire/test_faults.py -s`` prints what was seen.
"""

import random
import shutil
from functools import partial

import pytest

from tests.fire.faults import FAULTS, arm, build_library, count
from tests.fire.world import Job, begin, check_nothing_half_written, make_jobs, measure, snapshot

PLACES = 6  # operations that fail, a run each, for every command and fault
JOBS = ("prepare", "train", "evaluate", "predict")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> dict[str, Job]:
    if build_library() is None:
        pytest.skip("no C compiler")
    return make_jobs(tmp_path_factory.mktemp("world"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", JOBS)
def test_a_failing_disk_ends_a_command_with_one_line(jobs, name, fault, tmp_path):
    job, log, chance = jobs[name], tmp_path / "log.txt", random.Random(name + fault)
    measure(job, tmp_path / "undisturbed")
    expected = snapshot(tmp_path / "undisturbed")
    folder = tmp_path / "faulty"
    operations = count_operations(job, folder, fault, tmp_path / "count.txt")
    # The last one is always among them: it ends what has nearly succeeded.
    places = sorted({*chance.sample(range(1, operations), min(PLACES - 1, operations - 1)), operations})
    carried_on = 0
    for place in places:
        start(job, folder)
        log.unlink(missing_ok=True)
        process = begin(job, folder, log, partial(arm, FAULTS[fault].text(folder, place)))
        process.join(120)
        where, printed = f"{fault}, operation {place} of {operations}", log.read_text()
        assert process.exitcode in (0, 2), f"{where}: exit code {process.exitcode}\n{printed}"
        assert "Traceback" not in printed, f"{where}\n{printed}"
        complaints = [line for line in printed.splitlines() if line.startswith(("error: ", "failed: ", "warning: "))]
        if process.exitcode == 0 and not complaints:  # then it has not mattered, as where a file is gone already
            assert snapshot(folder) == expected, f"{where}: silent\n{printed}"
        assert complaints or process.exitcode == 0, f"{where}: silent\n{printed}"
        carried_on += process.exitcode == 0
        check_nothing_half_written(folder)
        process = begin(job, folder, log)
        process.join()
        assert process.exitcode == 0, f"{where}, then again\n{log.read_text()}"
        assert snapshot(folder) == expected, f"{where}\n{log.read_text()}"
    print(f"\n{name}, {fault}: {operations} operations, {len(places)} failed in turn, {carried_on} times it went on")


def start(job: Job, folder) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    job.start(folder)


def count_operations(job: Job, folder, fault: str, counted) -> int:
    """Return how many operations of a fault's kinds a command makes in its folder."""
    start(job, folder)
    text = FAULTS[fault].text(folder, 0)
    counting = Job(job.name, partial(run_and_count, job.run, counted), job.start)
    process = begin(counting, folder, folder.parent / "log.txt", partial(arm, text))
    process.join()
    assert process.exitcode == 0, (folder.parent / "log.txt").read_text()
    return int(counted.read_text())


def run_and_count(run, counted, folder) -> int:
    code = run(folder)
    counted.write_text(str(count()))
    return code
