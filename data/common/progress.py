"""Progress of long work: a bar on a terminal, a line a minute in a log file, nothing with ``--quiet``."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

from tqdm import tqdm

from data.common.text import OptionGroup

Progress: TypeAlias = tqdm
T = TypeVar("T")

LINE_INTERVAL_S = 60.0  # between two lines of a log file; work that takes less time writes none
BAR_INTERVAL_S = 0.5  # between two changes of a bar
LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s, {elapsed} elapsed, {remaining} remaining{postfix}"

_is_quiet = False  # of this process; set by its command line


def add_quiet(parser: OptionGroup) -> None:
    """Add ``--quiet``, which turns the progress of this process off when the command line is parsed."""
    global _is_quiet
    _is_quiet = False
    parser.add_argument(
        "--quiet",
        action=_TurnOff,
        nargs=0,
        default=argparse.SUPPRESS,
        help="show no progress (default: a bar on a terminal, a line a minute in a log file)",
    )


def be_quiet() -> None:
    """Turn progress off. It is a matter of the process, so no function between the command and a loop carries it."""
    global _is_quiet
    _is_quiet = True


class _TurnOff(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        be_quiet()


def progress(
    items: Iterable[T], *, title: str, unit: str, total: int | None = None, delay_s: float = 0.0
) -> Iterable[T]:
    """Iterate over items and show the progress on stderr.

    Args:
        items: What is iterated over.
        title: Text before the numbers.
        unit: What is counted, in the singular.
        total: Number of items, if ``items`` has no length.
        delay_s: Seconds before anything is shown.
    """
    return _open(items, title=title, unit=unit, total=total, delay_s=delay_s)


def progress_bar(*, total: int, title: str, unit: str, done: int = 0) -> Progress:
    """Show the progress of work that calls ``update``, in a ``with`` block.

    Args:
        total: Number of items.
        title: Text before the numbers.
        unit: What is counted, in the singular.
        done: Number of items that an earlier run has done.
    """
    return _open(None, title=title, unit=unit, total=total, done=done)


def _open(
    items: Iterable[T] | None, *, title: str, unit: str, total: int | None, done: int = 0, delay_s: float = 0.0
) -> Progress:
    is_terminal = sys.stderr.isatty()
    bar = {"delay": delay_s, "mininterval": BAR_INTERVAL_S}
    # With miniters=1 the time is looked at after every item. Otherwise tqdm would skip as many items as it expects
    # within the interval, and fall silent when they become slower.
    lines = {"delay": LINE_INTERVAL_S, "mininterval": LINE_INTERVAL_S, "miniters": 1, "bar_format": LINE}
    look: dict[str, Any] = bar if is_terminal else lines
    kind = Progress if is_terminal else _LogLines
    return kind(items, desc=title, unit=unit, total=total, initial=done, disable=_is_quiet, file=sys.stderr, **look)


class _LogLines(Progress):
    """Progress as whole lines, for output that is not a terminal."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print a line; nothing is to be erased before the next one."""
        if msg is None:
            print(str(self), file=self.fp, flush=True)

    def close(self) -> None:
        """Print a last line if there has been any and more has been done since."""
        if not self.disable and self.last_print_t > self.start_t and self.n > self.last_print_n:
            self.display()
        self.leave = False
        super().close()

    @classmethod
    def write(cls, s: str, file: Any = None, end: str = "\n", nolock: bool = False) -> None:  # noqa: ANN401
        """Print a line of text between those of the progress."""
        print(s, file=file, end=end, flush=True)
