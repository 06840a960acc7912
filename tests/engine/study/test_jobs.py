"""Making the runs of a study: on which devices, several at the same time, and through failures and interruptions."""

import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from data.common.errors import InputError
from data.common.files import REPOSITORY, exclusive_lock
from engine.stages import STAGES
from engine.study import command as study
from engine.study import jobs as study_jobs
from engine.study.plan import assign_gpus
from tests.study_parts import options


def test_a_failed_run_is_listed_with_its_log_and_the_others_go_on(study_store, tmp_path, fake_scripts, capsys):
    fake_scripts(failing="full")
    more = ["--variants", "full", "baseline", "--centres", "west", "--jobs", "2"]
    assert study.main(options(study_store, tmp_path, *more)) == 2
    printed = capsys.readouterr()
    log = tmp_path / "full" / "seed_2022" / "tumor_coarse_west.log"
    last = printed.err.splitlines()[-1]
    assert last.startswith(f"error: {log}: ") and "(full, seed 2022, west held out)" in last
    assert "error: no luck" in log.read_text()
    assert "| baseline" in printed.out and "Dice 0.600 over 3 cases" in printed.out
    assert study.main(options(study_store, tmp_path, *more, "--against", "full")) == 2
    assert "full, seed 2022, west held out" in capsys.readouterr().err  # also where there is nothing to report against


def test_a_run_that_another_process_makes_is_left_to_it_and_the_others_go_on(
    study_store, tmp_path, fake_scripts, capsys
):
    fake_scripts()
    more = ["--variants", "full", "baseline", "--centres", "west"]
    assert study.main(options(study_store, tmp_path, *more, "--slurm")) == 0  # the runs may be those of a cluster
    with exclusive_lock(tmp_path / "full" / "seed_2022" / "tumor_coarse" / "west", "wait"):
        assert study.main(options(study_store, tmp_path, *more)) == 2
    printed = capsys.readouterr()
    assert "cannot be locked" in printed.err and "Wait until this run is made" in printed.err
    assert (tmp_path / "order").read_text().splitlines() == ["baseline, seed 2022, west held out"]
    assert study.main(options(study_store, tmp_path, *more)) == 0


def test_scripts_share_the_cores_and_the_folder_is_locked(study_store, tmp_path, monkeypatch, capsys):
    code = "import os; print('threads', os.environ['OMP_NUM_THREADS'])"
    monkeypatch.setattr(study_jobs, "build_commands", lambda *_: [[sys.executable, "-c", code]])
    assert study.main(options(study_store, tmp_path, "--variants", "full", "--centres", "west")) == 0
    threads = (tmp_path / "full" / "seed_2022" / "tumor_coarse_west.log").read_text().splitlines()[-1]
    assert threads == f"threads {torch.get_num_threads()}"
    with exclusive_lock(tmp_path, "wait"):
        assert study.main(options(study_store, tmp_path, "--variants", "full", "--centres", "west")) == 2
    assert "cannot be locked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "gpu", "jobs", "wanted"),
    [
        (2, "auto", 3, "0 1 0"),
        (2, "auto", None, "0"),
        (1, "auto", 3, "0 0 0"),
        (3, "all", None, "0 1 2"),
        (3, "all", 2, "0 1"),
        (4, "2,0", None, "2 0"),
        (4, "1,3", 4, "1 3 1 3"),
        (4, "3,3", None, "3"),
        (2, "1", None, "1"),
        (2, "1", 3, "1 1 1"),
        (0, "auto", 3, "cpu cpu cpu"),
        (0, "auto", None, "cpu"),
        (2, "cpu", 3, "cpu cpu cpu"),
    ],
)
def test_runs_at_the_same_time_use_the_gpus_in_turn(monkeypatch, count, gpu, jobs, wanted):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    assert assign_gpus(gpu, jobs) == wanted.split()


@pytest.mark.parametrize(
    ("count", "gpu", "words"),
    [
        (0, "all", "--gpu all: this machine has no GPU that torch can use. Give cpu."),
        (2, "0,2", "--gpu 2: this machine has 2 GPUs. Give a number from 0 to 1, or cpu."),
        (2, "0,cpu", "--gpu 0,cpu: the CPU would make a run much more slowly"),
        (2, "0-1", "--gpu 0-1: this machine has 2 GPUs"),
    ],
)
def test_gpus_that_are_not_there_are_refused(monkeypatch, count, gpu, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    with pytest.raises(InputError) as error:
        assign_gpus(gpu, None)
    assert words in str(error.value)


def test_every_gpu_makes_one_run_at_a_time(study_store, tmp_path, monkeypatch):
    """Each run notes what else is in the folder of its GPU while it lasts."""
    fits = SimpleNamespace(sampling=STAGES["tumor_coarse"].sampling, recomputed=0)  # there is no GPU to ask
    monkeypatch.setattr("engine.study.cost.fit_step", lambda *_: fits)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    code = "import os, sys, time; os.mkdir(sys.argv[1]); time.sleep(0.3); os.rmdir(sys.argv[1]); print('alone')"
    used = []

    def commands(made, run, gpu, more):
        used.append(gpu)
        return [[sys.executable, "-c", code, str(tmp_path / f"gpu_{gpu}")]]

    monkeypatch.setattr(study_jobs, "build_commands", commands)
    more = ["--variants", "baseline", "full", "--gpu", "all"]
    assert study.main(options(study_store, tmp_path / "study", *more)) == 0
    logs = list((tmp_path / "study").glob("*/seed_2022/*.log"))
    assert len(logs) == 6 and all("alone" in log.read_text() for log in logs) and {*used} == {"0", "1"}


STUDY_OF_SLEEPERS = """
import signal, sys; sys.path.insert(0, {root!r})
from engine.study import command as study
from engine.study import jobs as study_jobs
signal.signal(signal.SIGINT, signal.SIG_IGN if {ignored} else signal.default_int_handler)
code = "import time; print('asleep', flush=True); time.sleep(60)"
study_jobs.build_commands = lambda *_: [[sys.executable, "-c", code]]
study.describe_costs = lambda *_, **__: "hours"
sys.exit(study.main({arguments!r}))
"""


@pytest.mark.parametrize(
    ("number", "ignored"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)]
)
def test_an_interruption_ends_the_scripts_and_says_how_to_go_on(study_store, tmp_path, number, ignored):
    """Also where the study was started with SIGINT ignored, as a shell starts its background jobs."""
    arguments = options(study_store, tmp_path, "--variants", "full", "--centres", "west", "east", "--jobs", "2")
    code = STUDY_OF_SLEEPERS.format(root=str(REPOSITORY), arguments=arguments, ignored=ignored)
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300  # it has to import torch, on a machine that may be busy
    logs = [tmp_path / "full" / "seed_2022" / f"tumor_coarse_{centre}.log" for centre in ("west", "east")]
    while not all(log.exists() and "\nasleep" in log.read_text() for log in logs) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 130 and "Run the same command again" in printed and "Traceback" not in printed
    with exclusive_lock(tmp_path, "wait"):  # the scripts, which held the lock too, have exited
        assert all(ignored or "KeyboardInterrupt" in log.read_text() for log in logs)
