"""Set up the process of a command. The entry points call this before they import anything that loads torch."""

import contextlib
import ctypes
import os
import sys
from io import TextIOWrapper
from types import TracebackType


def set_up_process(*, computes: bool = False) -> None:
    """Make this process behave as a command of this project; every entry point calls this once, first.

    - Ctrl-C while torch and the other packages are being imported prints one line instead of a traceback.
    - A character that the terminal or log file cannot show is printed as an escape instead of ending the command.
    - Pictures are drawn without a display, whatever a notebook has left in ``MPLBACKEND``.
    - OpenMP's waiting threads sleep instead of spinning. With anything else running on the machine (a second
      training, say) spinning threads take the very cores that the late thread needs: a training step on 2 cores
      beside one busy process took 2.7 s with spinning threads and 0.4 s with sleeping ones; on an idle machine both
      take 0.13 s.

    A debugger's exception hook and an ``OMP_WAIT_POLICY`` that the user has set are left as they are.

    Args:
        computes: Whether the process runs the network. It then also keeps the memory pages of freed tensors instead of
            returning them to the system and faulting them in again at every step (benchmarks/training_step.py).
    """
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _print_interrupt_as_one_line
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


def _keep_freed_pages() -> None:
    m_trim_threshold, m_mmap_max = -1, -4  # parameters of glibc's mallopt, from malloc.h
    with contextlib.suppress(OSError, AttributeError):  # another C library has nothing to tune
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
