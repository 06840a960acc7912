"""Memory: how much there is, asked before it is needed, and arrays that take it only where they are written to."""

import math
import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.common.errors import InputError

GB = 1e9  # bytes
LARGE_BYTES = 1 << 26  # smaller arrays come from numpy
_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Return the bytes that this process can still take: of the machine, or of its container if that has less.

    Returns:
        The bytes; None if the system does not tell.
    """
    amounts = [amount for amount in (_free_in_machine(), _free_in_container()) if amount is not None]
    return min(amounts, default=None)


def require_memory(path: Path | str, needed: float, *, remedy: str = "close other programs") -> None:
    """Refuse work that does not fit, before the system ends the process in the middle of it.

    Args:
        path: What the memory is for, to blame.
        needed: Bytes.
        remedy: What to do.

    Raises:
        InputError: If less than that is free.
    """
    free = free_memory()
    if free is not None and needed > free:
        problem = f"it needs {needed / GB:.1f} GB of memory, but {free / GB:.1f} GB are free"
        raise InputError(path, problem, f"{remedy}, or use a machine with more memory")


def zeros(shape: Sequence[int], dtype: type | np.dtype) -> np.ndarray:
    """Make an array of zeros that takes memory only where other values are written, and gives it back when it is freed.

    Large arrays are memory maps of their own. The allocator may keep the memory of others (``data.common.process``) and
    fill it with zeros, which takes all of it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LARGE_BYTES:
        return np.zeros(shape, dtype)
    # Private, because reading a shared map would fill it.
    private = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(private, dtype).reshape(shape)


def _free_in_machine() -> int | None:
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _free_in_container() -> int | None:
    """Return what the control groups of this process and those above them leave free; None without a limit."""
    try:
        lines = (_PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        return None
    amounts = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, files = _CGROUP, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, files = _CGROUP / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inner = root / group.lstrip("/")
        amounts += [_free_in_group(folder, *files) for folder in (inner, *inner.parents) if folder.is_relative_to(root)]
    return min((amount for amount in amounts if amount is not None), default=None)


def _free_in_group(folder: Path, limit: str, used: str, cache: str) -> int | None:
    """Return the limit of a control group less what it uses, of which the cache of files can be given up."""
    try:
        stat = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
        most, now = ((folder / name).read_text().strip() for name in (limit, used))
        return None if most == "max" else int(most) - int(now) + int(stat.get(cache, 0))
    except (OSError, ValueError):
        return None
