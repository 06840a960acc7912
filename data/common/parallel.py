"""The same work on many cases in several processes, with a progress bar, and nothing left behind when stopped."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from data.common.errors import InputError

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], items: Sequence[T], workers: int, title: str) -> Iterator[R]:
    """Yield ``work(item)`` for all items, as they finish, under a progress bar.

    Args:
        work: a function (or partial of one) that can be pickled; what it raises is raised here and ends the others.
        workers: processes; 1 stays in this one.
    """
    with tqdm(total=len(items), desc=title, unit="case", disable=None) as bar:
        for result in map(work, items) if workers == 1 else _pooled(work, items, workers):
            bar.update()
            yield result


def _pooled(work: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    # Spawned, not forked: ITK and torch keep threads, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    count = min(workers, len(items))
    with ProcessPoolExecutor(count, mp_context=context, initializer=_stay_with_parent) as pool:
        try:
            for future in as_completed([pool.submit(work, item) for item in items]):
                yield future.result()
        except BrokenProcessPool as error:
            remedy = "close other programs or use fewer --workers"
            raise InputError(
                f"a reading process was ended by the system, usually for lack of memory; {remedy}"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _stay_with_parent() -> None:
    """Ctrl-C is the parent's to answer; and should the parent be killed, its workers must not linger on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
