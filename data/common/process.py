"""Set up the process of a command. The entry points call this before they import anything that loads torch."""

import contextlib
import ctypes
import os
import sys
import threading
from io import TextIOWrapper
from types import TracebackType

from data.common.errors import refusal


def set_up_process(*, computes: bool = False) -> None:
    """Make this process behave as a command of this project; every entry point calls this once, first.

    - Ctrl-C while torch and the other packages are being imported prints one line instead of a traceback.
    - A disk that fails under a thread of its own, such as TensorBoard's writer, is reported in one line.
    - A character that the terminal or log file cannot show is printed as an escape instead of ending the command.
    - Pictures are drawn without a display, whatever a notebook has left in ``MPLBACKEND``.
    - Threads of OpenMP that wait for others sleep instead of spinning. On a machine that runs anything else, such as a
      second training, spinning threads occupy the cores that the slowest thread needs: on 2 cores, beside one busy
      process, a training step took 2.7 s with spinning and 0.4 s with sleeping threads. On an idle machine both take
      0.13 s.

    The exception hook of a debugger and an ``OMP_WAIT_POLICY`` that the user has set are left unchanged.

    Args:
        computes: Whether the process runs the network. It then also keeps the memory pages of freed tensors instead of
            returning them to the system and faulting them in again at every step (benchmarks/training_step.py).
    """
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _print_interrupt_as_one_line
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _print_refusal_as_one_line
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ["MPLBACKEND"] = "agg"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if computes and sys.platform == "linux":
        _keep_freed_pages()


def _print_interrupt_as_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _print_refusal_as_one_line(failed: threading.ExceptHookArgs) -> None:
    known = refusal(failed.exc_value, "a file") if isinstance(failed.exc_value, OSError) else None
    if known:
        print(f"error: {known}", file=sys.stderr)
    else:
        threading.__excepthook__(failed)


def release_freed_pages() -> None:
    """Return the memory pages of freed tensors to the system, before work that needs the memory for something else."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library keeps none
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _keep_freed_pages() -> None:
    m_trim_threshold, m_mmap_max = -1, -4  # parameters of glibc's mallopt, from malloc.h
    with contextlib.suppress(OSError, AttributeError):  # another C library has nothing to tune
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
