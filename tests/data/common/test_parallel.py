"""Work in several processes: all results arrive, and errors of the workers are raised here."""

import os
import signal

import pytest

from data.common.errors import InputError
from data.common.parallel import in_parallel


def halve(number: int) -> int:
    if number % 2:
        raise InputError(str(number), "is odd", "give an even number", command="halve 2")
    return number // 2


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_all_results_arrive(workers):
    assert sorted(in_parallel(halve, [0, 2, 4, 6], workers, "halving")) == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_a_worker_is_raised_with_its_fields(workers):
    with pytest.raises(InputError) as caught:
        list(in_parallel(halve, [2, 3], workers, "halving"))
    assert caught.value.path == "3" and caught.value.command == "halve 2"


def test_a_killed_worker_is_named_as_lack_of_memory():
    with pytest.raises(InputError) as caught:
        list(in_parallel(die, [1, 2], 2, "dying"))
    assert "memory" in caught.value.problem and "fewer" in caught.value.remedy
