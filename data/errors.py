"""One kind of error for everything a user can put right, and the one place that prints it."""

import errno
import functools
import sys
from collections.abc import Callable
from types import TracebackType

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
# A place that cannot be written to: full, read-only, or a file where a folder should be.
_PLACES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)


class InputError(Exception):
    """Something the user gave cannot be used. The message is one line: which file, what is wrong, what to do."""


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


def _quiet_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line for a Ctrl-C that came before ``command``, while torch and the others were imported."""
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# Here, as data and engine import this module before anything else. Another hook, such as a debugger's, stays.
if sys.excepthook is sys.__excepthook__:
    sys.excepthook = _quiet_interrupt
