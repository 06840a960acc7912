"""Summaries and comparisons: worked examples, properties, the count of undefined values, and repeatability."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.statistics import compare, summarise

NAN = math.nan
VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


def test_mean_and_standard_deviation_of_a_worked_example():
    summary = summarise([1.0, 2.0, NAN, 6.0])
    assert (summary.mean, summary.n, summary.excluded) == (3.0, 3, 1)
    assert summary.sd == pytest.approx(math.sqrt(7))


@pytest.mark.parametrize(("values", "n", "excluded"), [([], 0, 0), ([NAN, NAN], 0, 2), ([0.5, NAN], 1, 1)])
def test_too_few_values_give_no_interval(values, n, excluded):
    summary = summarise(values)
    assert (summary.n, summary.excluded) == (n, excluded)
    assert math.isnan(summary.sd) and math.isnan(summary.low) and math.isnan(summary.high)
    assert summary.mean == 0.5 if n else math.isnan(summary.mean)


def test_the_interval_of_equal_values_has_no_width():
    summary = summarise([0.25] * 4)
    assert summary.low == summary.high == summary.mean == 0.25 and summary.sd == 0


def test_the_interval_is_that_of_the_central_limit_theorem():
    values = np.random.default_rng(0).normal(5, 2, 400)
    summary = summarise(values, seed=1)
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert (summary.low, summary.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


@given(VALUES, st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_intervals_are_repeatable_bounded_and_independent_of_undefined_values(values, seed):
    summary = summarise(values, seed)
    assert summary == summarise(values, np.random.default_rng(seed))
    assert min(values) - 1e-9 <= summary.low <= summary.high <= max(values) + 1e-9
    with_gaps = summarise([NAN, *values, NAN], seed)
    assert (with_gaps.low, with_gaps.mean, with_gaps.excluded) == (summary.low, summary.mean, 2)


def test_infinite_values_are_refused():
    with pytest.raises(ValueError, match="infinite"):
        summarise([1.0, math.inf])


def test_cases_are_matched_by_name_and_unmatched_ones_are_listed():
    ours = {"b": 0.8, "a": 0.6, "x": 1.0, "gap": NAN}
    theirs = {"a": 0.5, "b": 0.5, "y": 0.0, "gap": 0.4}
    result = compare(ours, theirs)
    assert result.mean_difference == pytest.approx(0.2) and result.n == 2
    assert (result.excluded, result.only_ours, result.only_theirs) == (("gap",), ("x",), ("y",))
    assert 0.1 - 1e-9 <= result.low <= result.high <= 0.3 + 1e-9


def test_wilcoxon_of_five_wins_out_of_five_is_one_in_sixteen():
    theirs = {str(i): 0.1 * i for i in range(5)}
    ours = {key: value + 0.01 * (i + 1) for i, (key, value) in enumerate(theirs.items())}
    assert compare(ours, theirs).p == pytest.approx(2 / 2**5)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12))
@settings(max_examples=15, deadline=None)
def test_exchanging_the_runs_changes_the_sign_of_the_difference(pairs):
    ours = {str(i): a for i, (a, _) in enumerate(pairs)}
    theirs = {str(i): b for i, (_, b) in enumerate(pairs)}
    there, back = compare(ours, theirs), compare(theirs, ours)
    assert there.mean_difference == pytest.approx(-back.mean_difference)
    assert there.p == pytest.approx(back.p)
    difference = [a - b for a, b in pairs]
    assert there.p == pytest.approx(stats.wilcoxon(difference).pvalue if any(difference) else 1.0)


def test_runs_without_a_common_case_have_no_difference():
    result = compare({"a": 1.0}, {"b": 1.0})
    assert result.n == 0 and math.isnan(result.p) and math.isnan(result.mean_difference)
