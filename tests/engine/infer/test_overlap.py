"""Reading, work and writing of successive items overlap, in order, with one item in each."""

import threading

import pytest

from engine.infer.overlap import overlap

WAIT_S = 10.0


def always(item):
    return True


def test_the_next_item_is_read_and_the_one_before_written_during_the_work():
    reading, working, written = ({n: threading.Event() for n in range(4)} for _ in range(3))

    def read(n):
        reading[n].set()
        return n

    def work(n):
        working[n].set()
        assert n == 3 or reading[n + 1].wait(WAIT_S)
        assert n == 0 or written[n - 1].wait(WAIT_S)
        return n

    def write(n):
        assert n == 3 or working[n + 1].wait(WAIT_S)
        written[n].set()
        return 10 * n

    assert list(overlap(range(4), read, work, write, has_room=always)) == [0, 10, 20, 30]


def test_no_more_than_one_item_is_read_ahead_or_waits_to_be_written():
    begun = []

    def work(n):
        begun.append(n)
        return n

    def write(n):
        assert max(begun) <= n + 1
        return n

    read = []
    results = overlap(range(20), lambda n: read.append(n) or n, work, write, has_room=always)
    for n in results:
        assert max(read) <= n + 3
    assert begun == read == list(range(20))


def test_reading_and_writing_have_a_thread_each():
    threads = {"read": set(), "work": set(), "write": set()}

    def noted(step):
        return lambda n: threads[step].add(threading.get_ident()) or n

    list(overlap(range(9), noted("read"), noted("work"), noted("write"), has_room=always))
    assert threads["work"] == {threading.get_ident()}
    assert [len(set.union(*some)) for some in (threads.values(), [threads["read"]], [threads["write"]])] == [3, 1, 1]


def test_an_item_without_room_is_alone():
    events, tight = [], {1, 2}

    def noted(step):
        return lambda n: events.append((step, n)) or n

    steps = [noted(step) for step in ("read", "work", "write")]
    assert list(overlap(range(4), *steps, has_room=lambda n: n not in tight)) == [0, 1, 2, 3]
    assert events.index(("write", 0)) < events.index(("work", 1))
    alone = [("work", 1), ("write", 1), ("read", 2), ("work", 2), ("write", 2), ("read", 3)]
    start = events.index(alone[0])
    assert events[start : start + len(alone)] == alone


@pytest.mark.parametrize("step", ["read", "work", "write"])
@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_an_error_ends_it_and_what_was_worked_on_before_is_written(step, error):
    written, before = [], set(threading.enumerate())

    def failing_at_2(name):
        def run(n):
            if name == step and n == 2:
                raise error
            if name == "write":
                written.append(n)
            return n

        return run

    with pytest.raises(type(error)):
        list(overlap(range(5), *map(failing_at_2, ("read", "work", "write")), has_room=always))
    assert written == [0, 1] and set(threading.enumerate()) <= before


def test_nothing_to_do_is_done_at_once():
    assert list(overlap([], always, always, always, has_room=always)) == []
