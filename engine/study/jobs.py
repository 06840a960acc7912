"""The processes of a study: the ordinary scripts, several at a time, ended with it and never twice in one folder."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

from tqdm import tqdm

from data.common.errors import EXIT_INTERRUPTED
from data.common.files import REPOSITORY
from engine.study.runs import Run, Study

# How long an interrupted script may take to end in good order.
PATIENCE_S = 15


def commands(study: Study, run: Run, gpu: str, more: Sequence[str]) -> list[list[str]]:
    """The training and the evaluation of a run, as they are typed; ``more``: options of the training beside the
    study's settings.
    """
    train, evaluate = (str(REPOSITORY / study.stage.script(action).split()[1]) for action in ("train", "evaluate"))
    common = ["--store", str(study.store), "--path", str(study.place(run)), "--data", run.centre, "--gpu", gpu]
    options = [text for key, value in study.settings.items() for text in (f"--{key.replace('_', '-')}", str(value))]
    roi = ["--roi", study.roi] if study.roi else []
    average = ["--average"] if study.readouts[run.variant] == "average" else []
    which = ["--variant", run.variant, "--seed", str(run.seed)]
    return [
        [sys.executable, train, *common, *which, "--resume", *options, *more],
        [sys.executable, evaluate, *common, *roi, *average],
    ]


class Children:
    """Scripts that end when this process is told to.

    ``lock``: a descriptor (data.common.files.exclusive_lock) that they share. A script that outlives a killed study
    holds it too: its run must not be begun a second time beside it.
    """

    def __init__(self, lock: int, environment: Mapping[str, str]):
        self._lock, self._environment = lock, {**os.environ, **environment}
        self._guard, self._running, self._stopped = threading.Lock(), set(), False

    def run(self, command: Sequence[str], log: Path) -> int:
        """Run a script to its end, what it says into ``log``. Returns its exit code."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            with self._guard:
                if self._stopped:
                    return EXIT_INTERRUPTED
                print(f"$ {shlex.join(command)}", file=file, flush=True)
                # A session of its own: Ctrl-C is ours to answer, each script gets it once.
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                    pass_fds=(self._lock,),
                )
                self._running.add(process)
            code = process.wait()
        with self._guard:
            self._running.discard(process)
        return code

    def stop(self) -> None:
        """Interrupt all as Ctrl-C does; who does not end in time is ended."""
        with self._guard:
            self._stopped = True
            running = list(self._running)
        # A study in the background of a shell script was started to ignore Ctrl-C, and its scripts with it.
        deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        try:
            for process in running:
                process.send_signal(signal.SIGTERM if deaf else signal.SIGINT)
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE_S)
        finally:
            for process in running:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


def execute(
    study: Study, runs: Sequence[Run], gpus: Sequence[str], more: Sequence[str], children: Children
) -> list[str]:
    """Make the runs, as many at a time as ``gpus`` has places. ``more``: see ``commands``.

    Returns a line per failed run.
    """
    places: SimpleQueue[str] = SimpleQueue()
    for gpu in gpus:
        places.put(gpu)

    def make(run: Run) -> str | None:
        gpu = places.get()
        try:
            for command in commands(study, run, gpu, more):
                if code := children.run(command, study.log(run)):
                    return f"{run}: {Path(command[1]).name} ended with code {code}; see {study.log(run)}"
        finally:
            places.put(gpu)
        return None

    faults = []
    title = study.stage.title
    with ThreadPoolExecutor(len(gpus)) as pool, tqdm(total=len(runs), desc=title, unit="run", disable=None) as bar:
        try:
            futures = {pool.submit(make, run): run for run in runs}
            for future in as_completed(futures):
                fault = future.result()
                faults += [fault] if fault else []
                bar.write(f"failed: {fault}" if fault else result_line(study, futures[future]))
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            raise
    return faults


def result_line(study: Study, run: Run) -> str:
    """What a finished run gave, in one line."""
    folder = study.evaluation(run)
    dice = json.loads((folder / "summary.json").read_text())["metrics"].get("dice") if folder else None
    return f"{run}: Dice {dice['mean']:.3f} over {dice['n']} cases" if dice and dice["n"] else f"{run}: no Dice to tell"
