"""Safe files: written completely or not at all, locked against other runs, and read by several threads.

Nothing here relies on process numbers or clocks, which two machines that share a file system do not have in common.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import secrets
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal
from zipfile import BadZipFile

import numpy as np

from data.common.errors import InputError, refusal
from data.common.program import IS_INSTALLED

READ_BYTES = 1 << 22  # of a file at a time
REPOSITORY = Path(__file__).resolve().parents[2]  # the root of this checkout
WORKSPACE = Path() if IS_INSTALLED else REPOSITORY  # prepared cases and runs lie below it by default

# numpy parses the header of an array with Python's own parser, which counts its recursion depth for all threads
# together. If a garbage collection switches threads while two of them parse, Python raises "SystemError: AST
# constructor recursion depth mismatch". The lock lets one thread parse at a time.
_PARSING = threading.Lock()
# What numpy and zipfile raise for a damaged or hostile .npz file; none of them says more than that.
_READING = (OSError, EOFError, BadZipFile, zlib.error, struct.error)
ARCHIVE_ERRORS = (*_READING, ValueError, TypeError, KeyError, RuntimeError, MemoryError)


def read_array(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """Read an array with ``np.load``; unlike that function, it may be called from several threads at once.

    Args:
        path: File of one array (.npy).
        mmap_mode: "r" leaves the array on the disk as a read-only memory map; None reads it.

    Returns:
        The array.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If the file does not hold an array.
        EOFError: If the file is empty.
    """
    with _PARSING:
        return np.load(path, mmap_mode=mmap_mode)


def add_content(digest: "hashlib._Hash", path: Path) -> None:
    """Add the content of a file to a hash that is being computed."""
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    add_content(digest, path)
    return digest.hexdigest()


def make_folder(folder: Path) -> None:
    """Create a folder with its parents, unless it exists.

    Raises:
        InputError: If it cannot be created, whatever the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(error, folder) from error


def check_writable(folder: Path) -> None:
    """Check that a folder can be created or, if it exists, written to; nothing is left behind.

    A command that writes its results after hours of work calls this before the work.

    Raises:
        InputError: If that is not so.
    """
    try:
        existing = next(part for part in (folder.absolute(), *folder.absolute().parents) if part.exists())
        with tempfile.TemporaryDirectory(prefix=".", dir=existing):
            pass
    except OSError as error:
        raise _unusable(error, folder) from error


def check_replaceable(path: Path) -> None:
    """Check that ``replacing`` can write a file, before the work whose result it is to hold.

    Raises:
        InputError: If it is a folder, or its own folder cannot be written to.
    """
    if path.is_dir():
        raise InputError(path, "it is a folder, not a file", "give the name of a file")
    check_writable(path.parent)


def _unusable(error: OSError, folder: Path) -> InputError:
    """Return the error for a folder that cannot be created or written to."""
    if file := next((part for part in (folder, *folder.parents) if part.is_file()), None):
        return InputError(file, "it is a file, not a folder", "choose another folder")
    if known := refusal(error, folder):
        return InputError(folder, known.problem, known.remedy)
    why = "" if error.errno == errno.ENOENT else f" ({error.strerror})"  # as in /proc, which takes no files at all
    return InputError(folder, f"this folder cannot be created or written to{why}", "choose another folder")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that no reader, and no later run, ever finds it incomplete.

    The block writes to a temporary path in the same folder, which replaces ``path`` in one step when the block ends and
    its content is on the disk, so that a power failure leaves the older file or the new one. If the block raises, the
    temporary file is removed and an older file at ``path`` stays as it was.

    Args:
        path: File to write. Missing folders are created.

    Yields:
        The temporary path. It has the suffix of ``path``, because some libraries choose the format by it.

    Raises:
        InputError: If its folder cannot be created.
        OSError: If the file cannot be written; it names ``path``.
    """
    path = Path(path)
    make_folder(path.parent)
    unfinished = path.with_name(f".{secrets.token_hex(4)}.unfinished.{path.name}")
    try:
        with unfinished.open("xb") as mine:
            _lock_if_possible(mine)  # as long as it is held, remove_unfinished leaves the file alone
            yield unfinished
            write_to_disk(unfinished)
            unfinished.replace(path)
    except OSError as error:
        if str(error.filename) != str(unfinished):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # the temporary name tells the user nothing
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written, the first error is the one to tell
            unfinished.unlink(missing_ok=True)


def _lock_if_possible(file: BinaryIO) -> bool:
    """Lock an open file unless another process holds its lock; return whether it is locked now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def write_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk and survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folders: Iterable[Path]) -> None:
    """Remove the temporary files that killed processes left behind while they were ``replacing`` a file.

    Files that another process, also on another machine, is still writing are left alone: it holds their locks.

    Args:
        folders: Folders to clean; their sub-folders are not searched.
    """
    for folder in folders:
        for leftover in folder.glob(".*.unfinished.*"):
            with contextlib.suppress(OSError), leftover.open("r+b") as file:
                if _lock_if_possible(file):
                    leftover.unlink()


@contextlib.contextmanager
def exclusive_lock(folder: Path, remedy: str, *, patience_s: float = 0.0) -> Iterator[int]:
    """Keep other runs out of a folder while the block runs.

    The lock is a lock on the file ``.lock`` in the folder. The operating system releases it when the process ends, even
    if the process is killed. A child process that inherits the file descriptor holds the lock as well. The file names
    its holder; this is for people and decides nothing.

    Args:
        folder: Folder to lock; it is created if it does not exist.
        remedy: What the user should do if the folder cannot be locked.
        patience_s: Seconds to wait for a lock that another process holds. The children of a killed process inherit
            its lock and may live a few seconds longer.

    Yields:
        The file descriptor that holds the lock.

    Raises:
        InputError: If another process holds the lock, the file system does not support locks, or the folder cannot be
            created.
    """
    make_folder(folder)
    try:
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise _unusable(error, folder) from error
    with file:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    raise InputError(folder, f"cannot be locked, because {holder} is using it", remedy) from error
                time.sleep(0.2)
            except OSError as error:
                raise InputError(folder, f"cannot be locked ({error.strerror})", remedy) from error
        file.truncate(0)
        print(f"process {os.getpid()} on {platform.node()}", file=file, flush=True)  # for the message above
        yield file.fileno()
