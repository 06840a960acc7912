"""A picture never ends the training, evaluation or prediction that it shows."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from data.common.errors import InputError

# What may go wrong in a picture without ending the work. The tests narrow it, so that faults of the program fail them.
FORGIVEN: tuple[type[Exception], ...] = (Exception,)


@dataclass
class Outcome:
    """What became of a picture: ``fault`` says why it was not drawn, and is empty if it was."""

    fault: str = ""


@contextlib.contextmanager
def drawing(path: Path) -> Iterator[Outcome]:
    """Draw a picture in the block. If that fails, say so in one line and go on.

    Everything that only the picture needs belongs in the block, such as the import of matplotlib. The same warning is
    printed once, however often a training redraws its curves.

    Args:
        path: File of the picture.

    Yields:
        The outcome, which is known after the block.
    """
    outcome = Outcome()
    try:
        yield outcome
    except FORGIVEN as error:
        reason = error.strerror if isinstance(error, OSError) else ""
        reason = reason or (str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}")
        outcome.fault = f"{path} was not drawn ({' '.join(reason.split())})"
        _warn_once(outcome.fault)


@cache
def _warn_once(fault: str) -> None:
    print(f"warning: {fault}", file=sys.stderr, flush=True)
