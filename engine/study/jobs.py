"""The processes of a study: the ordinary training and evaluation scripts, several at a time.

The scripts end together with the study, and no two studies run scripts in one folder.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

from data.common.errors import EXIT_INTERRUPTED, InputError
from data.common.files import exclusive_lock, make_folder
from data.common.progress import progress_bar
from engine.options import without_option
from engine.report.tables import read_summary
from engine.study.runs import Run, Study

BUSY_RUN = "wait until this run is made, and start the study again"
PATIENCE_S = 15  # time that interrupted scripts have to exit


def build_commands(study: Study, run: Run, gpu: str, training_options: Sequence[str]) -> list[list[str]]:
    """Build the command lines that train and evaluate a run.

    Args:
        study: Its network and training settings become options of the training script.
        run: The run.
        gpu: Value of ``--gpu`` for both scripts.
        training_options: Further options of the training script.
    """
    path = str(study.checkpoints(run))
    common = ["--store", str(study.store), "--path", path, "--data", run.centre, "--gpu", gpu]
    settings = {**study.recipe["training"], **study.recipe["network"]}
    named = {f"--{n.replace('_', '-')}": value for n, value in settings.items() if n not in without_option(study.stage)}
    options = [text for name, value in named.items() for text in (name, str(value))]
    variant = ["--variant", run.variant, "--seed", str(run.seed)]
    roi = ["--roi", study.roi] if study.roi else []
    average = ["--average"] if study.readouts[run.variant] == "average" else []
    return [
        [*study.stage.words("train"), *common, *variant, "--resume", *options, *training_options],
        [*study.stage.words("evaluate"), *common, *roi, *average],
    ]


class ScriptRunner:
    """Run scripts as child processes that do not outlive an interrupted study.

    Args:
        lock: Descriptor of the lock on the study's folder (data.common.files.exclusive_lock). The scripts inherit it,
            so that a script that outlives a killed study still keeps a second study out of the folder.
        environment: Variables that the scripts get in addition to those of this process.
    """

    def __init__(self, lock: int, environment: Mapping[str, str]) -> None:
        self._lock, self._environment = lock, {**os.environ, **environment}
        self._guard, self._stopped = threading.Lock(), False
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, command: Sequence[str], log_file: Path, lock: int) -> int:
        """Run a script to its end.

        Args:
            command: The script with its options.
            log_file: Its output is appended to this file.
            lock: Descriptor of the lock on the run, which the script inherits like that on the study.

        Returns:
            Its exit code.
        """
        make_folder(log_file.parent)
        with log_file.open("a") as file:
            with self._guard:
                if self._stopped:
                    return EXIT_INTERRUPTED
                print(f"$ {shlex.join(command)}", file=file, flush=True)
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    # In a session of its own a script does not see Ctrl-C of the terminal, which stop_all passes on.
                    start_new_session=True,
                    pass_fds=(self._lock, lock),
                )
                self._running.add(process)
            code = process.wait()
        with self._guard:
            self._running.discard(process)
        return code

    def stop_all(self) -> None:
        """Send SIGINT to all running scripts and kill those that have not exited after PATIENCE_S seconds.

        No further script is started.
        """
        with self._guard:
            self._stopped = True
            running = list(self._running)
        # A shell starts background jobs with SIGINT ignored, and child processes inherit this.
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        deadline = time.monotonic() + PATIENCE_S
        try:
            for process in running:
                process.send_signal(signal.SIGTERM if ignored else signal.SIGINT)
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for process in running:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


def run_jobs(
    study: Study, runs: Sequence[Run], *, gpus: Sequence[str], training_options: Sequence[str], scripts: ScriptRunner
) -> list[InputError]:
    """Train and evaluate runs and show the progress.

    Args:
        study: Of the runs.
        runs: In the order in which they are started.
        gpus: The value of ``--gpu`` for each of the runs that are made at the same time.
        training_options: As for ``build_commands``.
        scripts: Starts the scripts; all of them are stopped when this function is interrupted.

    Returns:
        An error for each run of which a script failed; the other runs go on.
    """
    free_gpus: SimpleQueue[str] = SimpleQueue()
    for gpu in gpus:
        free_gpus.put(gpu)

    def train_and_evaluate(run: Run) -> InputError | None:
        gpu = free_gpus.get()
        try:
            with exclusive_lock(study.run_folder(run), BUSY_RUN) as lock:
                commands = build_commands(study, run, gpu, training_options)
                for action, command in zip(("train", "evaluate"), commands, strict=False):
                    if code := scripts.run(command, study.log_file(run), lock):
                        problem = f"{study.stage.program(action)} exited with code {code} ({run})"
                        return InputError(study.log_file(run), problem, "read the end of this file")
        except InputError as error:  # of the lock; the other runs go on
            return error
        finally:
            free_gpus.put(gpu)
        return None

    faults = []
    title = study.stage.title
    with ThreadPoolExecutor(len(gpus)) as pool, progress_bar(total=len(runs), title=title, unit="run") as bar:
        try:
            futures = {pool.submit(train_and_evaluate, run): run for run in runs}
            for future in as_completed(futures):
                fault = future.result()
                faults += [fault] if fault else []
                bar.write(f"failed: {fault}" if fault else describe_result(study, futures[future]))
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            scripts.stop_all()
            raise
    return faults


def describe_result(study: Study, run: Run) -> str:
    """Return one line with the mean Dice of a finished run."""
    folder = study.find_evaluation(run)
    dice = read_summary(folder / "summary.json")["metrics"].get("dice") if folder else None
    return (
        f"{run}: Dice {dice['mean']:.3f} over {dice['n']} cases" if dice and dice["n"] else f"{run}: no case has a Dice"
    )


@contextlib.contextmanager
def terminations_as_interrupts() -> Iterator[None]:
    """Treat SIGTERM and a closed terminal (SIGHUP) like Ctrl-C, so that the scripts end with the study."""
    unhandled = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
    for number in unhandled:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in unhandled:
            signal.signal(number, signal.SIG_DFL)
