"""The job script that makes the runs of a study on a cluster with SLURM: an array with one job a run.

The script calls the ordinary training and evaluation scripts, so that it can be read, changed and run in parts. The
jobs share nothing but the folder of the study: each run has its own checkpoints, log and lock.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from data.common.errors import InputError
from data.common.files import REPOSITORY, replacing
from data.common.program import IS_INSTALLED, PACKAGE
from engine.checkpoint import TIME_FORMAT
from engine.study.jobs import build_commands
from engine.study.plan import RunOptions
from engine.study.runs import Run, Study

LIMIT_NOTICE_S = 60  # before its time limit a job is told to stop; a script that is stopped ends at once
LOCK_PATIENCE_S = 300  # a file server may keep the lock of a lost node for some time
_OURS = {
    "--array": "choose the runs with --variants, --centres and --seeds, and how many at a time with --jobs",
    "--output": "the logs are kept in the folder of the study",
}

SCRIPT = r"""#!/bin/bash
# {title}: {count} run(s) of the study {folder}, a job each.
# Written by:  {command}
# Submit with: sbatch {path}
# A job that is stopped, because its node is lost, by another job that goes first or by its time limit, is queued again
# and goes on after its last finished epoch. Runs that are finished are found finished.
# When all jobs have ended, write the report, which names the runs that are missing:
#              {report}
{directives}

case "${{SLURM_ARRAY_TASK_ID:?submit this file with sbatch}}" in
{cases}
*)
  echo "error: no run has the number $SLURM_ARRAY_TASK_ID; the last one is {last}" >&2
  exit 2
  ;;
esac

# The lock keeps a second job, and a study on another machine, out of this run. Its file says who has it, and is as old
# as this job.
echo "job $SLURM_JOB_ID on $(hostname): $log"
mkdir -p "$run" && exec 9>>"$run/.lock" || exit 2
if ! flock --timeout {patience} 9; then
  echo "error: $run: another job or study is making this run, or the file system has no locks. Cancel one of them." >&2
  exit 2
fi
echo "job $SLURM_JOB_ID on $(hostname)" >"$run/.lock"
exec >>"$log" 2>&1

queue_again() {{ # called shortly before the time limit
  trap '' USR1
  kill "$script"
  wait "$script"
  if [ -z "$(find "$run" -newer "$run/.lock" \( -name last.pt -o -name cases.csv \) -print -quit)" ]; then
    echo "error: $run: no epoch was finished within the time limit. Give the jobs more time: sbatch --time=..."
    exit 2
  fi
  echo "the time limit is near: job $SLURM_JOB_ID is queued again"
  scontrol requeue "$SLURM_JOB_ID"
  exit
}}
trap queue_again USR1

run_script() {{ # in the background, where the signal can reach this shell
  echo "$ ${{*@Q}}"
  "$@" &
  script=$!
  wait "$script"
}}
run_script "${{train[@]}}" && run_script "${{evaluate[@]}}"
"""


def write_array(study: Study, runs: Sequence[Run], options: RunOptions) -> str:
    """Write the job script of some runs into the folder ``slurm`` of the study.

    Args:
        study: Of the runs.
        runs: At least one.
        options: Of the study.

    Returns:
        What to do with the script, for the user.
    """
    folder = study.folder.resolve()  # the jobs start in another
    study = replace(study, folder=folder)
    stage, path = study.stage, folder / "slurm" / f"{study.stage.name}_{time.strftime(TIME_FORMAT)}.sh"
    typed = options.slurm_options
    names_gpus = any(option.startswith(("--gres", "--gpus", "-G")) for option in typed)
    per_cent = str(path.parent).replace("%", "%%")  # begins a placeholder of SLURM, such as the number of the job
    directives = [
        f"--job-name={stage.name}",
        f"--array=0-{len(runs) - 1}" + (f"%{options.jobs}" if options.jobs else ""),
        f"--output={shlex.quote(f'{per_cent}/%x_%A_%a.out')}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{LIMIT_NOTICE_S}",
        f"--cpus-per-task={options.training.workers + 2}",
        *(["--gres=gpu:1"] if options.gpu != "cpu" and not names_gpus else []),
        *typed,  # last, so that they count where both name an option
    ]
    if IS_INSTALLED:
        report = shlex.join([sys.executable, "-m", PACKAGE, "study", "report", str(folder)])
    else:
        study_module = [sys.executable, "-m", "engine.study", "report", str(folder)]
        report = f"cd {shlex.quote(str(REPOSITORY))} && {shlex.join(study_module)}"
    text = SCRIPT.format(
        title=stage.title,
        count=len(runs),
        folder=folder,
        command=" ".join(options.command.splitlines()),
        path=shlex.quote(str(path)),
        report=report,
        directives="\n".join(f"#SBATCH {directive}" for directive in directives),
        cases="\n".join(_describe_run(study, run, number, options) for number, run in enumerate(runs)),
        last=len(runs) - 1,
        patience=LOCK_PATIENCE_S,
    )
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.chmod(0o755)
    report_job = [f"--job-name={stage.name}_report", f"--output={shlex.quote(f'{per_cent}/%x_%j.out')}", *typed]
    return "\n".join(
        [
            f"{path}: an array of {len(runs)} job(s), one a run. Submit it with",
            f"  sbatch {shlex.quote(str(path))}",
            "and then, with the number that this prints as JOB, the report of what they have made:",
            f"  sbatch --dependency=afterany:JOB {' '.join(report_job)} --wrap {shlex.quote(report)}",
            "To see how long the runs take, call this command with --dry-run on a node of the cluster.",
        ]
    )


def _describe_run(study: Study, run: Run, number: int, options: RunOptions) -> str:
    """Return the branch of the script that names the files and the command lines of a run."""
    # With --gpu auto, a node whose GPU does not work would train on its CPU.
    train, evaluate = build_commands(study, run, "cpu" if options.gpu == "cpu" else "0", options.training_options)
    lines = [
        f"{number}) # {run}",
        f"  run={shlex.quote(str(study.run_folder(run)))}",
        f"  log={shlex.quote(str(study.log_file(run)))}",
        f"  train=({shlex.join(train)})",
        f"  evaluate=({shlex.join(evaluate)})",
        "  ;;",
    ]
    return "\n".join(lines)


def split_options(text: str) -> tuple[str, ...]:
    """Split what was typed for ``--slurm-options`` into single options of ``sbatch``, such as "--partition=gpu".

    Raises:
        InputError: If it is no list of options, or one of them is among those that the script needs as they are.
    """
    found: list[list[str]] = []
    flag, remedy = f"--slurm-options {text!r}", 'for instance --slurm-options="--partition=gpu --time=24:00:00"'
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(flag, "a quotation mark is not closed", f"write it as a shell needs it, {remedy}") from error
    for word in words:
        if word.startswith("-"):
            found.append([word])
        elif found:
            found[-1].append(word)
        else:
            raise InputError(flag, f"{word} is no option of sbatch", f"write options as sbatch takes them, {remedy}")
    for option in found:
        if (name := option[0].split("=")[0]) in _OURS:
            raise InputError(flag, f"{name} is set by the study", _OURS[name])
    return tuple(shlex.join(option) for option in found)
