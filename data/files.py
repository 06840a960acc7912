"""Writing files so that a reader, or the next run, never meets a half-written one."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


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
