"""One kind of error for everything a user can put right, and the one place that prints it."""

import errno
import functools
import sys
from collections.abc import Callable
from pathlib import Path

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
# A place that cannot be written to: full, read-only, or a file where a folder should be.
_PLACES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)


class InputError(Exception):
    """Something that the user gave cannot be used: a file, a folder, an option, a setting.

    It prints as one line, ``PATH: problem. Remedy.``, or ``PATH: problem. Remedy: COMMAND`` where a command mends it.

    Attributes:
        path: The file or folder to blame; or an option with its value, as it was typed.
        problem: What is wrong, without a full stop.
        remedy: What to do about it, without a full stop.
        command: A command that can be pasted into a shell; empty where none helps.
    """

    def __init__(self, path: Path | str, problem: str = "", remedy: str = "", *, command: str = "") -> None:
        super().__init__(path, problem, remedy)
        self.path, self.problem, self.remedy, self.command = path, problem, remedy, command

    def __reduce__(self) -> tuple:
        return functools.partial(InputError, command=self.command), (self.path, self.problem, self.remedy)

    def __str__(self) -> str:
        if not self.problem:
            return str(self.path)
        line = f"{self.path}: {self.problem}. {self.remedy[:1].upper()}{self.remedy[1:]}"
        return f"{line}: {self.command}" if self.command else f"{line}."


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turn ``main(argv)`` into the body of a command: one clear line instead of a traceback for what a user can mend.

    Returns the exit code: what ``main`` returned (None means 0), 2 for bad input, a full disk or an
    unwritable place, 130 for Ctrl-C. Errors of the program itself keep their traceback.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
        except PermissionError as error:
            print(
                f"error: {error.filename}: no permission to read or write there; choose another place", file=sys.stderr
            )
        except OSError as error:
            if error.errno not in _PLACES:
                raise
            place = error.filename or "the output folder"
            print(f"error: {place}: {error.strerror}; free some space or choose another place", file=sys.stderr)
        except KeyboardInterrupt:
            print("\ninterrupted; what was finished is kept, the same command goes on from there", file=sys.stderr)
            return EXIT_INTERRUPTED
        return EXIT_BAD_INPUT

    return run
