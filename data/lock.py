"""One run at a time in a folder: two would take each other's unfinished files for leftovers."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from data.errors import InputError


@contextlib.contextmanager
def alone(folder: Path, remedy: str) -> Iterator[int]:
    """Keep other runs out of ``folder``, which is made; yields the descriptor that holds the lock (``.lock``).

    A process that inherits the descriptor holds the lock too, and one that was killed holds it no longer. Raises
    InputError ending in ``remedy`` where another run has it, or where the file system knows no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{folder}: cannot be locked ({error.strerror}); {remedy}") from error
        yield file.fileno()
