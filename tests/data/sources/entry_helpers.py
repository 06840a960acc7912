"""What the tests of several adapters share."""

from pathlib import Path

from data.common.errors import InputError
from data.sources.base import Entry


def touch(path: Path, text: str = "x") -> Path:
    """Write a text file, in folders that need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def names(entries: list[Entry]) -> list[str]:
    return [entry.name for entry in entries]


def faults(entries: list[Entry]) -> dict[str, InputError]:
    """The faults by case, of the cases that have one."""
    return {entry.name: entry.fault for entry in entries if entry.fault is not None}
