"""A thousand corrupted scans and labels of every format: the right volume or one clear line, and nothing else.

``pytest -m slow tests/fire`` reads all of them and prints how often each outcome came about (``tests.fire.scans`` says
what they mean); the quick test reads a sample. Inputs are drawn from a seed: number 417 is the same in every run.
"""

import pytest

from tests.fire.harness import attack_all, faults, tables

MODULE = "tests.fire.scans"


def test_a_sample_of_corrupted_scans_is_read_as_it_was_or_refused(tmp_path):
    outcomes = attack_all(MODULE, tmp_path, range(0, 1000, 17))
    assert len(outcomes) == 59 and not faults(outcomes), faults(outcomes)
    assert {o["outcome"] for o in outcomes} >= {"refused", "undamaged", "other values"}


@pytest.mark.slow
def test_a_thousand_corrupted_scans_are_read_as_they_were_or_refused(tmp_path, capsys):
    outcomes = attack_all(MODULE, tmp_path, range(1000))
    with capsys.disabled():
        print(tables(outcomes))
    assert len(outcomes) == 1000 and not faults(outcomes), faults(outcomes)
