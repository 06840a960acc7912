"""Process many cases in several processes, show their progress, and leave no process behind."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from data.common.errors import InputError
from data.common.progress import progress_bar

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], items: Sequence[T], workers: int, title: str) -> Iterator[R]:
    """Apply a function to many items in several processes and show their progress.

    An exception of ``work`` is raised here and cancels the items that have not been started.

    Args:
        work: Function to apply. With more than one worker, it, its items and its results must be picklable.
        items: Arguments of the calls.
        workers: Number of processes; 1 works in the calling process.
        title: Text before the progress.

    Yields:
        The results in the order in which the calls finish; with one worker, in the order of the items.

    Raises:
        InputError: If the operating system ends a worker process, usually for lack of memory.
    """
    with progress_bar(total=len(items), title=title, unit="case") as bar:
        for result in map(work, items) if workers == 1 else _results_of_pool(work, items, min(workers, len(items))):
            bar.update()
            yield result


def _results_of_pool(work: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    # Spawned, not forked: ITK and torch keep threads, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            for future in as_completed([pool.submit(work, item) for item in items]):
                yield future.result()
        except BrokenProcessPool as error:
            problem = "the system ended one of them, usually for lack of memory"
            remedy = "close other programs or use fewer worker processes"
            raise InputError(f"{workers} worker processes", problem, remedy) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Leave Ctrl-C to the parent process, and exit if the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in worker processes only"

    def exit_after_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=exit_after_parent, daemon=True).start()
