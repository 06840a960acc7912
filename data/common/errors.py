"""The error for everything that a user can put right, and the one place that prints it."""

import errno
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

_FREE_SPACE = "free some space or choose another folder"
_NO_PERMISSION = ("no permission to read or write here", "change the permissions or choose another folder")
_IN_THE_WAY = ("a file or folder of this name is in the way", "rename it or choose another folder")
_GONE = ("the disk or network share has gone away", "connect it again and run the same command")
# What the file system refuses because of the user's choice of a path: the problem and the remedy.
_REFUSALS = {
    errno.ENOSPC: ("the disk is full", _FREE_SPACE),
    errno.EDQUOT: ("the disk quota is used up", _FREE_SPACE),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.EIO: ("the disk or the network reports an error", "check them, or choose another folder"),
    **dict.fromkeys((errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN, errno.ENODEV, errno.ENXIO), _GONE),
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EEXIST: _IN_THE_WAY,
    errno.EISDIR: _IN_THE_WAY,
    errno.ENOTDIR: ("a part of this path is a file, not a folder", "rename that file or choose another folder"),
    errno.ENAMETOOLONG: ("the path is too long for the file system", "choose a shorter one"),
}

P = ParamSpec("P")


class InputError(Exception):
    """Something that the user gave cannot be used: a file, a folder, an option or a setting.

    It prints as one line: ``PATH: problem. Remedy.``, or ``PATH: problem. Remedy: COMMAND`` if a command helps.

    Attributes:
        path: The file or folder to blame, or an option with its value as the user typed it.
        problem: What is wrong, without a full stop.
        remedy: What to do about it, without a full stop.
        command: A command that can be pasted into a shell; empty if none helps.
    """

    def __init__(self, path: Path | str, problem: str, remedy: str, *, command: str = "") -> None:
        super().__init__(path, problem, remedy)
        self.path, self.problem, self.remedy, self.command = path, problem, remedy, command

    def __str__(self) -> str:
        line = f"{self.path}: {self.problem}. {self.remedy[:1].upper()}{self.remedy[1:]}"
        line = f"{line}: {self.command}" if self.command else f"{line}."
        return " ".join(line.splitlines())  # a damaged file may have line breaks in its names


def refusal(error: OSError, place: Path | str) -> InputError | None:
    """Return what the file system refused as an error that the user can put right.

    Args:
        error: The refusal.
        place: The path to blame if the error does not name one.

    Returns:
        The error; None if the refusal is not due to the user's choice of a path.
    """
    if error.errno not in _REFUSALS:
        return None
    return InputError(str(error.filename or place), *_REFUSALS[error.errno])


def command(main: Callable[P, int | None]) -> Callable[P, int]:
    """Make ``main`` the body of a command: errors that the user can put right end it with one line on stderr.

    These errors are ``InputError`` and what the file system refuses because of the user's choice of a path, such as a
    full disk or a read-only folder. Any other exception is a fault of the program and keeps its traceback.

    Args:
        main: Function that does the work, usually of ``argv``; returns the exit code, None meaning 0.

    Returns:
        The wrapped function. It returns the exit code: that of ``main``, ``EXIT_BAD_INPUT`` for an error that the
        user can put right, or ``EXIT_INTERRUPTED`` for Ctrl-C.
    """

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
        except OSError as error:
            if (refused := refusal(error, "the output folder")) is None:
                raise
            print(f"error: {refused}", file=sys.stderr)
        except KeyboardInterrupt:
            print("\ninterrupted: finished work is kept. Run the same command again to continue.", file=sys.stderr)
            return EXIT_INTERRUPTED
        return EXIT_BAD_INPUT

    return run
