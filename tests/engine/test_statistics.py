"""Summaries and comparisons: worked examples, properties, the count of undefined values, and repeatability."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine import statistics
from engine.statistics import (
    FEWEST_CASES,
    compare,
    hierarchical_interval,
    holm,
    paired_power,
    sign_flip_p,
    summarise,
)

NAN = math.nan
VALUES = st.lists(st.floats(-100, 100), min_size=10, max_size=20, unique=True)


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


def test_there_is_no_interval_below_ten_cases_nor_of_equal_values():
    values = [*np.linspace(0.5, 0.9, FEWEST_CASES - 1)]
    assert math.isnan(summarise([*values, NAN]).low) and summarise([*values, 0.4]).low < summarise(values).mean
    equal = summarise([0.0] * 12)  # all missed: no reason to be sure that the next one is missed, too
    assert equal.mean == equal.sd == 0 and math.isnan(equal.low) and math.isnan(equal.high)


def test_from_ten_cases_on_an_interval_holds_the_mean_in_nine_of_ten_samples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 499)

    def share(count: int) -> float:
        rng = np.random.default_rng(count)
        intervals = [statistics.bootstrap_interval(rng.normal(size=count), rng) for _ in range(600)]
        return float(np.mean([low <= 0 <= high for low, high in intervals]))

    assert 0.88 < share(FEWEST_CASES) < 0.95
    monkeypatch.setattr(statistics, "FEWEST_CASES", 3)
    assert share(4) < 0.85


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
    assert math.isnan(result.low)  # two cases


def test_the_interval_of_a_difference_is_that_of_the_differences():
    ours, theirs = ({str(i): base + 0.01 * i for i in range(12)} for base in (0.5, 0.4))
    theirs["3"] = 0.2
    result = compare(ours, theirs)
    assert 0.1 - 1e-9 <= result.low <= result.mean_difference <= result.high <= 0.33


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


def test_five_wins_in_each_of_two_domains_are_one_sign_pattern_of_512():
    wins = {"hyper": [0.01, 0.02, 0.03, 0.04, 0.05], "cystic": [0.02, 0.01, 0.04, 0.03, 0.05]}
    assert sign_flip_p(wins) == pytest.approx(2 / 2**10)


def test_the_sign_flip_test_of_a_worked_example():
    # Sums with all signs: +-6, +-4, +-2, 0, 0; four of the eight are at least as far from 0 as 1 - 2 - 3 = -4.
    assert sign_flip_p({"hyper": [1.0, -2.0, -3.0]}) == pytest.approx(4 / 8)
    assert sign_flip_p({"hyper": [0.0, 0.0, 0.0]}) == 1.0
    assert math.isnan(sign_flip_p({}))


def test_a_domain_with_fewer_pairs_counts_as_much():
    # The means of the domains cancel each other, although most pairs are positive.
    assert sign_flip_p({"hyper": [1.0] * 6, "cystic": [-1.0, -1.0]}) == 1.0


@given(st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=4), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_exchanging_the_arms_leaves_the_sign_flip_test_as_it_is(groups):
    pairs = {str(i): group for i, group in enumerate(groups)}
    p = sign_flip_p(pairs)
    assert p == sign_flip_p({name: [-value for value in group] for name, group in pairs.items()})
    assert 2 ** -sum(map(len, groups)) <= p <= 1


def test_the_p_values_of_the_sign_flip_test_are_calibrated_without_a_difference():
    rng = np.random.default_rng(0)
    p = np.array(
        [
            sign_flip_p({"a": rng.normal(0, 0.03, 4), "b": rng.normal(0, 0.08, 4), "c": rng.normal(0, 0.03, 3)})
            for _ in range(1500)
        ]
    )
    for level in (0.05, 0.2, 0.5):
        assert np.mean(p <= level) == pytest.approx(level, abs=3 * math.sqrt(level * (1 - level) / 1500))


def test_many_pairs_are_tested_by_random_signs_that_repeat():
    differences = {"hyper": np.random.default_rng(1).normal(0.02, 0.04, 30)}
    p = sign_flip_p(differences, seed=3)
    assert p == sign_flip_p(differences, seed=3)
    assert p == pytest.approx(stats.ttest_1samp(differences["hyper"], 0).pvalue, abs=0.02)


@pytest.mark.parametrize("pairs", [{"hyper": []}, {"hyper": [0.1, NAN]}, {"hyper": [0.1], "cystic": [math.inf]}])
def test_a_pair_that_was_not_computed_is_not_left_out(pairs):
    with pytest.raises(ValueError, match="finite difference"):
        sign_flip_p(pairs)


def test_the_hierarchical_interval_of_equal_differences_has_no_width():
    assert hierarchical_interval({"a": np.full((3, 4), 0.25), "b": np.full((5, 4), 0.25)}) == (0.25, 0.25, 0.25)


def test_undefined_values_are_left_out_and_domains_count_equally():
    a, b = np.full((3, 2), 0.2), np.full((4, 2), 0.4)
    a[0, 0] = NAN
    mean, low, high = hierarchical_interval({"a": a, "b": b})
    assert (mean, low, high) == pytest.approx((0.3, 0.3, 0.3))


def test_fewer_than_three_trainings_give_no_interval():
    rng = np.random.default_rng(0)
    mean, low, high = hierarchical_interval({"a": rng.normal(size=(6, 5)), "b": rng.normal(size=(2, 5))})
    assert math.isfinite(mean) and math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize(("trainings", "patients"), [(0.04, 0.0), (0.0, 0.1), (0.04, 0.1)])
def test_the_hierarchical_interval_knows_of_trainings_and_of_patients(trainings, patients):
    """Its width is that of the variance of both, of which the bootstrap of n has the share (n - 1) / n."""
    rng = np.random.default_rng(2)
    of_patients = rng.normal(0, patients, 30)
    values = {d: rng.normal(0, trainings, (12, 1)) + of_patients for d in "abc"}
    _, low, high = hierarchical_interval(values)
    variance = sum(v.mean(axis=1).var() / 12 for v in values.values()) / 9 + of_patients.var() / 30
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.06)


def test_the_hierarchical_interval_holds_the_truth_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr("engine.statistics.RESAMPLES", 400)
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(200):
        patient = rng.normal(0, 0.08, 30)
        values = {d: 0.03 + rng.normal(0, 0.04, (6, 1)) + patient + rng.normal(0, 0.1, (6, 30)) for d in "abc"}
        _, low, high = hierarchical_interval(values, seed=rng)
        held += low <= 0.03 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_patients_of_several_domains_are_drawn_together():
    """If the same patients are seen in two domains, their spread is not averaged away; that of others is."""
    rng = np.random.default_rng(3)
    first, second = (np.tile(rng.normal(0, 0.1, 40), (3, 1)) for _ in range(2))

    def width(a, b, names=None):
        _, low, high = hierarchical_interval({"a": a, "b": b}, names)
        return high - low

    same, other = [f"p{i}" for i in range(40)], [f"q{i}" for i in range(40)]
    assert width(first, first) == pytest.approx(2 * 1.96 * first[0].std() / math.sqrt(40), rel=0.06)
    assert width(first, first[:, ::-1], {"a": same, "b": same[::-1]}) == pytest.approx(width(first, first), rel=0.05)
    apart = 2 * 1.96 * math.sqrt((first[0].var() + second[0].var()) / 40) / 2
    assert width(first, second, {"a": same, "b": other}) == pytest.approx(apart, rel=0.06)


def test_columns_without_a_name_are_refused():
    for values in ({}, {"a": np.ones((3, 4)), "b": np.ones((3, 5))}, {"a": np.ones(3)}):
        with pytest.raises(ValueError, match="name for each patient"):
            hierarchical_interval(values)
    with pytest.raises(ValueError, match="name for each patient"):
        hierarchical_interval({"a": np.ones((3, 4))}, {"a": ["p", "q"]})


def test_holm_of_a_worked_example():
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(corrected) == ["a", "b", "c", "d"] and holm({}) == {} and holm({"a": 0.6, "b": 0.7})["a"] == 1.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm({"a": NAN})


def test_the_power_of_the_planned_study_is_that_of_a_simulation():
    rng = np.random.default_rng(5)
    drawn = rng.normal(0.03, 0.029 * math.sqrt(2), (4000, 18))
    simulated = np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05)
    assert paired_power(0.03, 0.029, 18) == pytest.approx(simulated, abs=0.02)
    assert paired_power(0.0, 0.029, 18) == pytest.approx(0.05)
