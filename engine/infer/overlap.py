"""While the network is at work on one scan, the next is read and the one before is written."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Input = TypeVar("Input")
Result = TypeVar("Result")
Written = TypeVar("Written")


def overlap(
    items: Sequence[Item],
    read: Callable[[Item], Input],
    work: Callable[[Input], Result],
    write: Callable[[Result], Written],
    *,
    has_room: Callable[[Input], bool],
) -> Iterator[Written]:
    """Read, work and write in three threads, each with one item at a time.

    The work stays in the thread that calls. There is one thread for all reading and one for all writing, so that a
    library that knows only one thread, such as matplotlib, may be used in one of them. An interruption ends the work at
    once; reading and writing that have begun come to their end, so that what was worked on before is written.

    Args:
        items: What to read; in this order everything happens.
        read: Reads an item.
        work: Works on what was read.
        write: Writes what came of it.
        has_room: Says whether the memory has room for other items beside one that was read. If not, it is worked on
            alone: what came before is written first, and the next is read when it has been written.

    Yields:
        What ``write`` returns, in order.

    Raises:
        Exception: That of ``read``, ``work`` or ``write``. Work on the following item may have been done in vain.
    """
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        ahead: Future[Input] | None = None
        writing: Future[Written] | None = None
        for number, item in enumerate(items, start=1):
            if ahead is None:
                if writing is not None:
                    writing.exception()  # waits; the result is asked for below
                ahead = reader.submit(read, item)
            given = ahead.result()
            ahead = None
            if not has_room(given):
                if writing is not None:
                    writing.exception()
            elif number < len(items):
                ahead = reader.submit(read, items[number])
            result = work(given)
            del given  # of which the writer may keep less
            if writing is not None:
                yield writing.result()
            writing = writer.submit(write, result)
            del result
        if writing is not None:
            yield writing.result()
