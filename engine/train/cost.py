"""What a training costs, from steps that are measured on its device before it starts.

The measurement trains a network of its own on boxes of the training cases, in a process of its own: nothing of it is
left in the memory of the device, in the draws of the training or on the disk.
"""

import contextlib
import math
import multiprocessing
import platform
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from data.cases.case import Case
from data.common.errors import InputError
from data.common.process import set_up_process
from data.splits.split import Split
from engine.device import Execution, choose_execution, set_up_plain
from engine.recipe import Recipe, TrainSettings
from engine.stages import Stage
from engine.train.loop import train_one_epoch, validate
from engine.train.training import Training, prepare_training

MOST_STEPS = 64  # a power of 2
LEAST_STEPS = {"cuda": 8}  # the first steps compile and choose kernels; elsewhere 2
ENOUGH_S = 4.0  # that the measured steps take together


@dataclass(frozen=True)
class Work:
    """A training to measure; the fields are arguments of ``engine.train.training.prepare_training``."""

    stage: Stage
    split: Split
    recipe: Recipe
    train_cases: Sequence[Case]
    negatives: Sequence[Case]
    validation_cases: Sequence[Case]
    recomputed: int = 0
    synthetic: Sequence[Case] = ()


@dataclass(frozen=True)
class Cost:
    """Measured seconds of one optimisation step, and of one validation case; 0 without any."""

    step_s: float
    case_s: float

    def seconds(self, steps: int, validation_cases: int, settings: TrainSettings) -> float:
        """Return how long a training takes, from its steps and the number of its validation cases."""
        validations = -(-settings.epochs // settings.validate_every) + 1  # the last one chooses the thresholds
        return steps * self.step_s + validations * validation_cases * self.case_s


def describe_machine(device: torch.device) -> str:
    """Return the model of a GPU, or that of the CPU with the number of threads that compute on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # not on every system
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} threads"


def format_duration(seconds: float) -> str:
    """Return a duration with two digits or more, in the unit that suits it."""
    unit, size = ("s", 1) if seconds < 90 else ("min", 60) if seconds < 90 * 60 else ("h", 3600)
    value = seconds / size
    return f"{value:#.2g} {unit}" if value < 10 else f"{value:,.0f} {unit}"


class Meter:
    """Measures trainings one after the other; from ``measuring``.

    Attributes:
        machine: What they are measured on.
    """

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self._process, self._connection = process, connection
        self.machine: str = self._receive()

    def measure(self, work: Work) -> Cost:
        """Measure some steps and a validation case of a training.

        Raises:
            InputError: If a case cannot be read, or the memory does not suffice, as it would be in the training.
        """
        self._connection.send(work)
        return self._receive()

    def _receive(self) -> Any:  # noqa: ANN401
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join()
            if self._process.exitcode != -signal.SIGKILL:
                raise RuntimeError("the process that measures has failed") from error  # it has printed why
            problem = "its process was killed, as the system does when there is not enough memory"
            remedy = "close other programs, or use a smaller --batch-size, --width or fewer --workers"
            raise InputError("measuring some steps", problem, remedy) from error
        if isinstance(answer, InputError):
            raise answer
        return answer


@contextlib.contextmanager
def measuring(device: torch.device, threads: int, *, plain: bool = False) -> Iterator[Meter]:
    """Measure trainings inside the block, in a process that ends with it.

    Args:
        device: Where they will run.
        threads: With which torch will compute on the CPU.
        plain: As in ``choose_execution``.
    """
    context = multiprocessing.get_context("spawn")  # a forked process could not use a GPU
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_answer, args=(theirs, device, plain, threads, Path(folder)))
        # A process starts with the signals blocked that are blocked here, and keeps them so. Ctrl-C then reaches this
        # process only, which ends the other one.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        try:
            yield Meter(process, ours)
        except BaseException:
            process.kill()
            raise
        finally:
            ours.close()  # of which the process ends
            process.join()


def _answer(connection: Connection, device: torch.device, plain: bool, threads: int, folder: Path) -> None:
    """Send the name of the machine, and then the cost of each training that is received."""
    set_up_process(computes=True)
    torch.set_num_threads(threads)
    connection.send(describe_machine(device))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if plain:
        set_up_plain()
    execution = choose_execution(device, plain=plain)
    with contextlib.suppress(EOFError):  # the other end is closed
        while True:
            work = connection.recv()
            try:
                connection.send(measure_cost(work, execution, folder))
            except InputError as error:
                connection.send(error)


def measure_cost(work: Work, execution: Execution, folder: Path) -> Cost:
    """Measure some steps and a validation case of a training in this process.

    Args:
        work: The training.
        execution: How to compute, and where.
        folder: Stands in for the run folder; nothing is kept in it.

    Raises:
        InputError: As for ``Meter.measure``.
    """
    settings = work.recipe.training
    boxes = MOST_STEPS * settings.batch_size / (len(work.train_cases) + len(work.synthetic))

    def repeated(cases: Sequence[Case]) -> list[Case]:
        return list(islice(cycle(cases), math.ceil(boxes * len(cases))))

    training = prepare_training(
        stage=work.stage,
        split=work.split,
        recipe=work.recipe,
        train_cases=repeated(work.train_cases),
        negatives=work.negatives,
        # Of a case without a tumour alone no Dice could be computed.
        validation_cases=[c for c in work.validation_cases if c.target_box(work.stage.sampling.target)][:1],
        synthetic=repeated(work.synthetic),
        execution=execution,
        folder=folder,
        recomputed=work.recomputed,
    )
    clock = StepClock(execution.device)
    with contextlib.suppress(MeasuredEnough):
        train_one_epoch(training, 1, clock)
    return Cost(clock.step_s, _time_validation(training))


def _time_validation(training: Training) -> float:
    """Return the seconds of a validation; on a GPU, of the second one."""
    if not training.validation:
        return 0.0
    seconds = 0.0
    for _ in range(2 if training.device.type == "cuda" else 1):
        start = time.monotonic()
        validate(training)  # ends with masks on the CPU, so there is nothing left to wait for
        seconds = time.monotonic() - start
    return seconds


class MeasuredEnough(Exception):
    """Ends an epoch of which enough steps were measured."""


class StepClock:
    """Measures the steps of an epoch; it is called after each.

    The time is taken after 1, 2, 4, 8, ... steps, where the device is waited for; between these it works as ever.

    Attributes:
        step_s: Seconds of a step, as a mean over those since the last but one of these times.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.step_s = device, 0.0
        self.done, self._looked_at, self._time = 0, 0, time.monotonic()

    def __call__(self) -> None:
        """Count a step.

        Raises:
            MeasuredEnough: If enough of them were measured.
        """
        self.done += 1
        if self.done < 2 * self._looked_at:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now, first = time.monotonic(), self._looked_at == 0
        seconds, steps = now - self._time, self.done - self._looked_at
        self.step_s, self._time, self._looked_at = seconds / steps, now, self.done
        if not first and seconds >= ENOUGH_S and self.done >= LEAST_STEPS.get(self.device.type, 2):
            raise MeasuredEnough
