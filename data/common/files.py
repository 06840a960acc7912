"""Writing files so that a reader, or the next run, never meets a half-written one; and reading arrays in threads."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from data.common.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]

# numpy parses a header with Python's own parser, which counts its depth for all threads together: where two parse and
# a garbage collection changes from one to the other, "SystemError: AST constructor recursion depth mismatch".
_HEADERS = threading.Lock()


def read_array(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """``np.load`` for code that runs in threads; it raises OSError, ValueError, EOFError as that does."""
    with _HEADERS:
        return np.load(path, mmap_mode=mmap_mode)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, of the same suffix; it takes the place of ``path`` when the block succeeds.

    Missing folders are made. When the block fails nothing is left behind and an older file at ``path`` stays as it
    was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}.unfinished.{path.name}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folders: Iterable[Path]) -> None:
    """Remove what ``replacing`` in killed processes left directly in ``folders``; nobody else may be writing there."""
    for folder in folders:
        for leftover in folder.glob(".*.unfinished.*"):
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive_lock(folder: Path, remedy: str) -> Iterator[int]:
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
