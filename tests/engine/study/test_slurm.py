"""The job script for SLURM, run by bash as a node of a cluster would: stopped, queued again, and two jobs at once."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data.common.files import REPOSITORY
from data.phantom import command as phantom
from engine.report.tables import read_case_table
from engine.study import command as study
from engine.study import slurm
from engine.study.runs import read_studies
from engine.study.slurm import split_options
from tests.study_parts import options

TIMEOUT_S = 120
AUGMENT = "rotation_degrees=5"
FEW = ("--variants", "baseline", "full", "--centres", "west")

# Stands in for the training: each call makes an epoch, and the first one goes on until it is stopped.
TRAIN = """
import pathlib, sys, time
run = pathlib.Path(sys.argv[1]); run.mkdir(parents=True, exist_ok=True)
epochs = run / "last.pt"
before = epochs.read_text() if epochs.exists() else ""
print("begins", "after", len(before), "epochs", flush=True)
if sys.argv[2] != "idle": epochs.write_text(before + "x")
print("made", "an epoch", flush=True)
if not before: time.sleep(60)
"""
EVALUATE = "print('cases', 'evaluated')"


def write_script(store: Path, folder: Path, *more: str) -> Path:
    """Write the job script of a study and return its path."""
    assert study.main(options(store, folder, *FEW, "--slurm", *more)) == 0
    (path,) = (folder / "slurm").glob("*.sh")
    return path


@pytest.fixture
def stand_ins(monkeypatch) -> Callable[[str], None]:
    """Return a function that replaces the scripts of the runs by TRAIN and EVALUATE."""

    def install(mode: str = "") -> None:
        def commands(made, run, gpu, more):
            train = [sys.executable, "-c", TRAIN, str(made.run_folder(run) / "time"), mode]
            return train, [sys.executable, "-c", EVALUATE]

        monkeypatch.setattr(slurm, "build_commands", commands)

    return install


def start_job(script: Path, number: int, **more: str) -> subprocess.Popen[bytes]:
    """Start a job of the array, in another folder and without the variables that SLURM does not set."""
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(number), "SLURM_JOB_ID": f"7{number}", **more}
    return subprocess.Popen(["bash", str(script)], env=environment, cwd="/", start_new_session=True)


def wait_for(text: str, log: Path, count: int = 1) -> None:
    """Wait until a log has a text so many times."""
    deadline = time.monotonic() + TIMEOUT_S
    while not log.exists() or log.read_text().count(text) < count:
        assert time.monotonic() < deadline, log.read_text() if log.exists() else log
        time.sleep(0.02)


def test_the_script_names_every_run_and_works_from_any_folder(study_store, tmp_path, capsys):
    folder = tmp_path / "50% of it's"
    asked = ("--slurm-options=--partition=gpu --time 24:00:00", "--seeds", "1", "2", "--jobs", "3")
    path = write_script(study_store, folder, *asked, "--gpu", "auto", "--workers", "4", "--augment", AUGMENT)
    text, printed = path.read_text(), capsys.readouterr().out
    directives = re.findall(r"^#SBATCH (.+)$", text, re.MULTILINE)
    wanted = ["--array=0-3%3", "--requeue", "--open-mode=append", "--gres=gpu:1", "--cpus-per-task=6"]
    assert {*wanted, "--partition=gpu", "--time 24:00:00"} <= set(directives)
    (output,) = (shlex.split(line) for line in directives if line.startswith("--output"))
    assert output == [f"--output={tmp_path}/50%% of it's/slurm/%x_%A_%a.out"]
    (made,) = read_studies(folder).values()
    assert len(made.runs) == 4
    for run in made.runs:
        _, lines = text.split(f"# {run}\n")
        train = next(line for line in lines.splitlines() if line.startswith("  train="))
        words = shlex.split(train.partition("=(")[2].removesuffix(")"))
        assert words[:2] == [sys.executable, str(REPOSITORY / "train_tumor/train_sh_tumor_coarse.py")]
        for pair in (["--gpu", "0"], ["--seed", str(run.seed)], ["--workers", "4"], ["--augment", AUGMENT]):
            assert pair in [words[i : i + 2] for i in range(len(words))]
        assert words[words.index("--path") + 1] == str(folder / run.variant / f"seed_{run.seed}")
        assert "--resume" in words
    assert f"sbatch {shlex.quote(str(path))}" in printed and "--dependency=afterany:JOB" in printed
    assert "engine.study report" in printed and subprocess.run(["bash", "-n", path]).returncode == 0


def test_a_killed_job_goes_on_where_it_was(study_store, tmp_path, stand_ins):
    stand_ins()
    script = write_script(study_store, tmp_path)
    log = tmp_path / "baseline" / "seed_2022" / "tumor_coarse_west.log"
    job = start_job(script, 0)
    wait_for("made an epoch", log)
    os.killpg(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    assert start_job(script, 0).wait(TIMEOUT_S) == 0
    lines = log.read_text().splitlines()
    assert lines.count("begins after 1 epochs") == 1 and lines[-1] == "cases evaluated"
    assert sum(line.startswith("$ ") for line in lines) == 3  # the log says what was run, like that of a study


@pytest.mark.parametrize(("mode", "code"), [("", 0), ("idle", 2)])
def test_near_its_time_limit_a_job_is_queued_again_if_it_made_an_epoch(study_store, tmp_path, stand_ins, mode, code):
    stand_ins(mode)
    script = write_script(study_store, tmp_path / "study")
    tool = tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/queued\n')
    tool.chmod(0o755)
    log = tmp_path / "study" / "full" / "seed_2022" / "tumor_coarse_west.log"
    job = start_job(script, 1, PATH=f"{tool.parent}:{os.environ['PATH']}")
    wait_for("made an epoch", log)
    os.kill(job.pid, signal.SIGUSR1)
    assert job.wait(TIMEOUT_S) == code
    if mode == "idle":
        assert "no epoch was finished within the time limit" in log.read_text() and not (tmp_path / "queued").exists()
    else:
        assert (tmp_path / "queued").read_text() == "requeue 71\n" and "queued again" in log.read_text()
        assert start_job(script, 1).wait(TIMEOUT_S) == 0


def test_jobs_of_different_runs_work_at_the_same_time_and_two_of_one_run_do_not(
    study_store, tmp_path, stand_ins, monkeypatch, capfd
):
    stand_ins()
    monkeypatch.setattr(slurm, "LOCK_PATIENCE_S", 0)
    script = write_script(study_store, tmp_path)
    jobs = [start_job(script, number) for number in (0, 1)]
    logs = [tmp_path / variant / "seed_2022" / "tumor_coarse_west.log" for variant in ("baseline", "full")]
    for log in logs:
        wait_for("made an epoch", log)
    assert start_job(script, 0).wait(TIMEOUT_S) == 2
    assert "another job or study is making this run" in capfd.readouterr().err
    # A study on this machine does not touch their runs either.
    assert study.main(options(study_store, tmp_path, *FEW)) == 2
    assert re.search(r"cannot be locked, because job 7\d on .* is using it", capfd.readouterr().err)
    for job in jobs:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    assert [log.read_text().count("made an epoch") for log in logs] == [1, 1]


def test_a_job_outside_of_the_array_and_one_without_sbatch_are_refused(study_store, tmp_path, capfd):
    script = write_script(study_store, tmp_path)
    assert start_job(script, 2).wait(TIMEOUT_S) == 2
    assert "no run has the number 2; the last one is 1" in capfd.readouterr().err
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    assert subprocess.run(["bash", script], env=plain, check=False).returncode != 0
    assert "submit this file with sbatch" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--slurm-options=--time=1"], "no job script is asked for. Add --slurm."),
        (["--slurm", "--gpu", "0,1"], "SLURM chooses the GPU of each job"),
        (["--slurm", "--slurm-options=gpu"], "gpu is no option of sbatch"),
        (["--slurm", "--slurm-options=--array=1-4"], "--array is set by the study"),
        (["--slurm", "--slurm-options=--comment='a"], "a quotation mark is not closed"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(study_store, tmp_path, capsys, change, words):
    arguments = [text for text in options(study_store, tmp_path / "new") if text not in ("--gpu", "cpu")]
    assert study.main([*arguments, *change]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and not (tmp_path / "new").exists()


def test_options_of_sbatch_are_kept_apart():
    text = "--partition=gpu -t 24:00:00 --comment='two words' --gres gpu:a100:1"
    assert split_options(text) == ("--partition=gpu", "-t 24:00:00", "'--comment=two words'", "--gres gpu:a100:1")


def test_a_dry_run_writes_no_script_and_names_where_the_time_is_measured(study_store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert study.main(options(study_store, tmp_path / "new", "--slurm", "--dry-run", "--gpu", "auto")) == 0
    out = capsys.readouterr().out
    assert "each a job of SLURM" in out and "time: unknown" in out and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_an_array_makes_a_study_through_a_kill(tmp_path, capsys):
    store, folder = tmp_path / "store", tmp_path / "study"
    assert phantom.main([str(store), "--prepared", "--cases", "3", "--workers", "1"]) == 0
    recipe = ("--epochs", "3", "--validate-every", "1", "--target-mm", "6,6,6")
    script = write_script(store, folder, *recipe)
    jobs = [start_job(script, number) for number in (0, 1)]
    log = folder / "baseline" / "seed_2022" / "tumor_coarse_west.log"
    deadline = time.monotonic() + 600
    while not list(folder.glob("baseline/seed_2022/tumor_coarse/west/*/last.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(jobs[0].pid, signal.SIGKILL)
    jobs[0].wait()
    assert start_job(script, 0).wait(600) == 0 and jobs[1].wait(600) == 0
    assert "goes on after epoch" in log.read_text() or "already finished" in log.read_text()
    (made,) = read_studies(folder).values()
    for run in made.runs:
        (run_folder,) = made.run_folder(run).glob("2*/")
        assert [row.split(",")[0] for row in (run_folder / "losses.csv").read_text().splitlines()[1:]] == [
            "1",
            "2",
            "3",
        ]
        evaluation = made.find_evaluation(run)
        assert evaluation is not None and len(read_case_table(evaluation / "cases.csv")) == 3
    assert study.main(options(store, folder, *FEW, *recipe)) == 0
    assert "2 finished, 0 to do" in capsys.readouterr().out
    shutil.rmtree(made.run_folder(made.runs[0]))
    assert study.main(["report", str(folder)]) == 0
    assert f"not finished: 1 of 2 run(s) of tumor coarse: {made.runs[0]}" in capsys.readouterr().out
