"""The order of an epoch: which cases it sees, and how many without the target."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.splits.leave_one_out import make_splits
from data.splits.split import Split
from engine.recipe import TrainSettings
from engine.stages import STAGES
from engine.train.loader import EpochSampler, count_negatives, derive_seed, share_around_pancreas
from engine.train.plan import count_steps, describe, plan_split
from tests.data.splits.populations import centre, three_centres


def epoch_of(sampler: EpochSampler, epoch: int) -> list[tuple[int, ...]]:
    """The boxes of an epoch in their order, of steps of one box."""
    sampler.epoch = epoch
    return [draw for step in sampler for draw in step]


@given(st.integers(1, 60), st.integers(1, 40), st.floats(0.01, 0.9), st.integers(0, 10**6))
def test_an_epoch_sees_every_case_with_the_target_once_and_the_share_of_others(positives, available, share, seed):
    negatives = count_negatives(positives, available, share)
    assert abs(negatives - positives * share / (1 - share)) <= 0.5 or negatives == 1
    sampler = EpochSampler(positives, seed, available, negatives)
    draws = epoch_of(sampler, 3)
    assert len(draws) == len(sampler) == positives + negatives and len(set(draws)) == len(draws)
    assert sorted(draw for draw in draws if len(draw) == 2) == [(3, index) for index in range(positives)]
    assert all(positives <= index < positives + available for _, index, *number in draws if number)


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6))
def test_no_case_without_the_target_comes_again_before_all_have_come(positives, available, negatives, seed):
    sampler = EpochSampler(positives, seed, available, negatives)
    counts = Counter()
    for epoch in range(1, 6):
        counts += Counter(index for _, index, *number in epoch_of(sampler, epoch) if number)
        times = [counts[positives + index] for index in range(available)]
        assert max(times) - min(times) <= 1 and sum(times) == epoch * negatives


def test_an_epoch_depends_on_the_seed_and_its_number_only():
    first, second = EpochSampler(20, 1, 7, 5), EpochSampler(20, 1, 7, 5)
    epochs = [epoch_of(first, epoch) for epoch in range(1, 9)]
    assert epoch_of(second, 6) == epochs[5] and epoch_of(first, 2) == epochs[1]
    indices = [[index for _, index, *_ in epoch] for epoch in epochs]
    assert len({tuple(order) for order in indices}) == 8
    assert [index for _, index, *_ in epoch_of(EpochSampler(20, 2, 7, 5), 1)] != indices[0]


@given(st.integers(1, 12), st.integers(0, 4), st.integers(1, 6))
def test_every_step_has_as_many_boxes_and_the_last_is_filled_with_the_first(positives, negatives, batch_size):
    whole = epoch_of(EpochSampler(positives, 3, negatives, negatives), 2)
    sampler = EpochSampler(positives, 3, negatives, negatives, batch_size)
    sampler.epoch = 2
    steps = list(sampler)
    assert len(steps) == len(sampler) == -(-len(whole) // batch_size)
    assert all(len(step) == batch_size for step in steps)
    drawn = [draw for step in steps for draw in step]
    assert drawn == [whole[place % len(whole)] for place in range(len(drawn))]


def test_without_others_an_epoch_is_a_permutation_of_its_cases():
    assert count_negatives(20, 0, 0.25) == count_negatives(20, 9, 0.0) == 0
    generator = torch.Generator().manual_seed(derive_seed(5, 2))
    expected = [(2, index) for index in torch.randperm(6, generator=generator).tolist()]
    assert epoch_of(EpochSampler(6, 5), 2) == expected


def test_boxes_around_a_pancreas_show_a_tumour_as_often_as_not():
    positives, negatives = 30, count_negatives(30, 9, 0.25)
    assert negatives == 10
    assert positives * share_around_pancreas(0.25) == pytest.approx(negatives / 2)
    assert share_around_pancreas(0.0) == 0 and share_around_pancreas(0.9) == 0.5


def test_a_plan_knows_which_centres_of_its_split_are_synthetic():
    centres = three_centres() | {"extra": centre("extra", [("p", True)])}
    for name in ("a", "c", "extra"):
        centres[name] = [replace(case, source={"phantom": 2}) for case in centres[name]]
    centres["c"][0] = replace(centres["c"][0], source={})
    plan = plan_split(STAGES["tumor_coarse"], make_splits(three_centres())["a"], centres)
    assert plan.synthetic_centres == ("a",)


def test_cases_without_a_tumour_of_centres_without_any_take_no_part():
    centres = three_centres() | {"extra": centre("extra", [(f"p{i}", False) for i in range(6)])}
    split = make_splits(centres)["a"]
    plan = plan_split(STAGES["tumor_coarse"], split, centres)
    used = [*plan.train_cases, *plan.negatives, *plan.validation_cases]
    assert {case.centre for case in used} == {"b", "c"}
    assert all(case.tumour_box for case in plan.train_cases) and not any(case.tumour_box for case in plan.negatives)
    assert len(used) == 18 and len(plan.negatives) + sum(not case.tumour_box for case in plan.validation_cases) == 6
    pancreas = plan_split(STAGES["pancreas_fine"], split, centres)
    assert not pancreas.negatives and len(pancreas.train_cases) == len([*split.train])


def test_a_run_is_announced_with_its_cases_without_a_tumour():
    centres = {"a": centre("a", [(f"p{i}", i < 9) for i in range(14)])}
    plan = plan_split(STAGES["tumor_fine"], Split("a", tuple(c.key for c in centres["a"]), (), ()), centres)
    settings = TrainSettings(epochs=4, batch_size=2)
    assert "train on 9 cases (a 9) and 5 without a tumour in 25 % of the steps, " in describe(plan, settings)
    assert count_steps(plan, settings) == 4 * 6
    off = TrainSettings(epochs=4, batch_size=2, negatives=0.0)
    assert "train on 9 cases (a 9), " in describe(plan, off) and count_steps(plan, off) == 4 * 5


def test_cases_without_a_tumour_alone_are_not_validated_on():
    centres = {"a": centre("a", [(f"p{i}", i < 3) for i in range(6)])}
    keys = [case.key for case in centres["a"]]
    plan = plan_split(STAGES["tumor_fine"], Split("a", tuple(keys[:3]), tuple(keys[3:]), ()), centres)
    assert plan.validation_cases == []
    plan = plan_split(STAGES["tumor_fine"], Split("a", tuple(keys[:2]), tuple(keys[2:]), ()), centres)
    assert [case.key for case in plan.validation_cases] == keys[2:]
