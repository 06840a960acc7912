"""Runs damaged inputs in child processes and counts what came of each.

``python -m tests.fire.harness MODULE FOLDER SEED NUMBER...`` is the child. It imports ``attack`` from MODULE and prints
two lines of JSON for each input: its number, before it is read, and its outcome. From these lines the parent learns
which input crashed the child, or kept it busy for longer than ``TIME_LIMIT_S``, after which the operating system's
alarm ends it. A library that crashes, hangs or allocates without limit would otherwise take the tests with it.
"""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.common.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
SEED = 20260
TIME_LIMIT_S = 20
EXTRA_BYTES = 200 << 20  # memory that a reader may use beyond three times the size of what is read
CAP_BYTES = 2 << 30  # address space beyond what the process has at first; protects the machine
# Everything else is a fault: another result, a traceback, an InputError that is not one clear line, too much memory,
# code of the input that was run, a crash, a hang.
RIGHT = ("refused", "undamaged", "other values", "other place", "other text")


class Attempt(NamedTuple):
    """What came of reading one damaged input.

    Attributes:
        result: What the reader returned; None if it raised.
        outcome: "refused" or a fault; empty if the reader returned something, which has to be judged.
        detail: The error.
        seconds: Time taken.
        grown: Bytes by which the largest resident memory of the process grew.
    """

    result: Any
    outcome: str
    detail: str
    seconds: float
    grown: int


def attempt(read: Callable[[], Any], folder: Path) -> Attempt:
    """Call a reader of a damaged input in ``folder``, where every error has to find the fault."""
    start, before = time.monotonic(), peak_bytes()
    result, outcome, detail = None, "", ""
    try:
        result = read()
    except InputError as error:
        detail = str(error)
        clear = str(folder) in str(error.path) and not set("\r\n") & set(detail) and error.problem and error.remedy
        outcome = "refused" if clear else "unclear"
    except Exception as error:
        outcome, detail = "traceback", f"{type(error).__name__}: {error}"[:300]
    return Attempt(result, outcome, detail, time.monotonic() - start, peak_bytes() - before)


def report(made: Attempt, size: int, **facts: Any) -> dict[str, Any]:
    """Return the outcome of an attempt as JSON can hold it.

    Args:
        made: The attempt, of which ``outcome`` and ``detail`` may have been judged since.
        size: Bytes of what was to be read.
        facts: Further columns, such as ``kind`` and ``damage``.
    """
    outcome, detail = made.outcome, made.detail
    if made.grown > EXTRA_BYTES + 3 * size:
        outcome, detail = "memory", f"{made.grown >> 20} MB; {outcome}: {detail}"
    measured = {"seconds": round(made.seconds, 2), "grown_mb": made.grown >> 20}
    return {**facts, "outcome": outcome, "detail": detail, **measured}


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def attack_all(module: str, folder: Path, numbers: Iterable[int], seed: int = SEED) -> list[dict[str, Any]]:
    """Let child processes read these inputs; a child that dies is replaced by another, which goes on behind it.

    Args:
        module: Name of the module with ``attack``.
        folder: Folder for the files.
        numbers: Which inputs. The same number and seed make the same input.
        seed: Of all inputs.

    Returns:
        One record for each input: ``number``, ``outcome``, ``detail`` and what ``attack`` adds.
    """
    left, outcomes = list(numbers), []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(REPOSITORY)}
    while left:
        command = [sys.executable, "-m", "tests.fire.harness", module, str(folder), str(seed), *map(str, left)]
        child = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        lines = [json.loads(line) for line in child.stdout.splitlines() if line.startswith('{"number": ')]
        outcomes += [line for line in lines if "outcome" in line]
        if child.returncode:
            died_reading = bool(lines) and "outcome" not in lines[-1] and child.returncode < 0
            assert died_reading, f"the harness itself failed at {lines[-1:]}:\n{child.stderr}"
            how = "hang" if child.returncode == -signal.SIGALRM else "crash"
            known = {"kind": "?", "damage": "?", "detail": f"signal {-child.returncode}"}
            outcomes.append({**lines[-1], **known, "outcome": how})
        done = {outcome["number"] for outcome in outcomes}
        left = [number for number in left if number not in done]
    return outcomes


def faults(outcomes: Iterable[dict[str, Any]]) -> str:
    """Describe the inputs whose outcome is a fault, one a line."""
    return "\n".join(
        f"input {o['number']} ({o['kind']}, {o['damage']}): {o['outcome']}: {o['detail']}"
        for o in outcomes
        if o["outcome"] not in RIGHT
    )


def tables(outcomes: Sequence[dict[str, Any]]) -> str:
    """Return the numbers of outcomes by kind of file and by damage, and the greatest time and memory."""
    total = Counter(o["outcome"] for o in outcomes)
    columns = [*(name for name in RIGHT if total[name]), *sorted(total.keys() - set(RIGHT))]
    lines = []
    for by in ("kind", "damage"):
        count = Counter((o[by], o["outcome"]) for o in outcomes)
        lines += ["", f"{by:<22}" + "".join(f"{column:>14}" for column in columns)]
        for row in sorted({o[by] for o in outcomes}):
            lines.append(f"{row:<22}" + "".join(f"{count[row, column] or '-':>14}" for column in columns))
    lines.append(f"{'all ' + str(len(outcomes)):<22}" + "".join(f"{total[column]:>14}" for column in columns))
    slowest, largest = (max(o.get(name, 0) for o in outcomes) for name in ("seconds", "grown_mb"))
    return "\n".join([*lines, "", f"slowest {slowest:.1f} s, memory grown by at most {largest} MB", ""])


def main(module: str, folder: Path, seed: int, numbers: Sequence[int]) -> None:
    """Read these inputs one after the other and print the outcomes."""
    attack = importlib.import_module(module).attack
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + CAP_BYTES,) * 2)
    for number in numbers:
        print(json.dumps({"number": number}), flush=True)
        signal.alarm(TIME_LIMIT_S)
        outcome = attack(folder, seed, number)
        signal.alarm(0)
        print(json.dumps({"number": number, **outcome}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), [int(number) for number in sys.argv[4:]])
