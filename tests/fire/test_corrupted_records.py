"""Corrupted and malicious records: what was written or one clear line; no code is run, no meaning changes unnoticed.

``pytest -m slow tests/fire`` reads 200 of each group of ``tests.fire.record_kinds`` and prints how often each outcome
came about (``tests.fire.records`` says what they mean); the quick test reads a sample.
"""

import pytest

from tests.fire.harness import attack_all, faults, tables
from tests.fire.record_kinds import GROUPS
from tests.fire.records import EACH

MODULE = "tests.fire.records"


def test_a_sample_of_corrupted_records_is_read_as_it_was_or_refused(tmp_path):
    numbers = range(0, EACH * len(GROUPS), 37)
    outcomes = attack_all(MODULE, tmp_path, numbers)
    assert len(outcomes) == len(numbers) and not faults(outcomes), faults(outcomes)
    assert {o["outcome"] for o in outcomes} >= {"refused", "undamaged"}


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_two_hundred_corrupted_records_of_each_group_are_read_as_they_were_or_refused(tmp_path, capsys, group):
    first = list(GROUPS).index(group) * EACH
    outcomes = attack_all(MODULE, tmp_path, range(first, first + EACH))
    with capsys.disabled():
        print(tables(outcomes))
    assert len(outcomes) == EACH and not faults(outcomes), faults(outcomes)
