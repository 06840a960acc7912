"""Which splits a run uses, and which cases of them."""

import pytest

from data.common.errors import InputError
from data.splits.folds import make_folds
from data.splits.leave_one_out import make_splits
from data.splits.split import (
    Split,
    centres_with,
    choose_splits,
    exclude_centres_without_tumours,
    held_out_cases,
)
from tests.data.splits.populations import centre, three_centres


def test_the_hash_is_the_one_in_existing_checkpoints_and_ignores_the_kind():
    parts = (("a/0", "a/1"), ("a/2",), ("b/0",))
    assert Split("b", *parts, kind="centre").hash == Split("b", *parts, kind="list").hash == "d73f4ba2d5e7d2f9"
    assert Split("c", *parts).hash != "d73f4ba2d5e7d2f9"


def test_without_a_name_every_centre_is_held_out_in_turn():
    splits = make_splits(three_centres())
    assert [s.name for s in choose_splits(splits, None)] == ["a", "b", "c"]
    assert choose_splits(splits, "none")[0].test == ()
    with pytest.raises(InputError) as error:
        choose_splits(splits, "d")
    assert str(error.value) == "--data d: no centre or split has this name. Choose one of a, b, c, none."


def test_one_centre_cannot_be_held_out_but_trained_on():
    splits = make_splits({"a": three_centres()["a"]})
    with pytest.raises(InputError) as error:
        choose_splits(splits, None)
    assert error.value.path == "--data a" and "holds out the only prepared centre" in error.value.problem
    assert len(choose_splits(splits, "none")[0].train) > 0


def test_folds_are_chosen_by_name_and_never_without_one():
    centres = three_centres()
    splits = make_splits(centres) | make_folds(centres, 3) | make_folds({"a": centres["a"]}, 3, "a_folds")
    assert [s.name for s in choose_splits(splits, None)] == ["a", "b", "c"]
    assert [s.name for s in choose_splits(splits, "folds")] == ["folds_1", "folds_2", "folds_3"]
    assert [s.name for s in choose_splits(splits, "a_folds")] == ["a_folds_1", "a_folds_2", "a_folds_3"]
    assert [s.name for s in choose_splits(splits, "folds_2")] == ["folds_2"]
    with pytest.raises(InputError) as error:
        choose_splits(splits, "a_fold")
    assert error.value.path == "--data a_fold"
    assert error.value.remedy.startswith("choose one of a, b, c, folds, folds_1, ")
    assert error.value.remedy.endswith(", a_folds, a_folds_1, a_folds_2, a_folds_3, none")


def test_a_list_that_is_named_like_a_fold_is_not_taken_for_one():
    splits = make_folds(three_centres(), 3) | {"folds_9": Split("folds_9", ("a/scan0",), (), (), kind="list")}
    assert [s.name for s in choose_splits(splits, "folds")] == ["folds_1", "folds_2", "folds_3"]


def test_a_centre_without_tumours_is_held_out_for_the_pancreas_only():
    centres = three_centres() | {"extra": centre("extra", [(f"p{i}", False) for i in range(6)])}
    splits = make_splits(centres)
    held_out = {
        target: [s.name for s in choose_splits(splits, None, centres_with(centres, target))]
        for target in ("pancreas", "tumour")
    }
    assert held_out == {"pancreas": ["a", "b", "c", "extra"], "tumour": ["a", "b", "c"]}
    assert any(key.startswith("extra/") for key in splits["a"].train)
    assert choose_splits(splits, "extra", centres_with(centres, "tumour"))[0].name == "extra"  # when asked for
    with pytest.raises(InputError, match="no centre has a label of the structure to segment"):
        choose_splits(splits, None, centres_with({"extra": centres["extra"]}, "tumour"))


def test_an_evaluation_without_any_labelled_case_is_refused():
    centres = three_centres() | {"extra": centre("extra", [("p", False)])}
    splits = make_splits(centres)
    assert len(held_out_cases(splits["extra"], centres, "pancreas")) == 1
    with pytest.raises(InputError) as error:
        held_out_cases(splits["extra"], centres, "tumour")
    assert error.value.path == "split extra" and error.value.problem.startswith("no tumour is labelled in the centres")


def test_centres_without_tumours_are_excluded_from_training_unless_all_are():
    centres = three_centres() | {"extra": centre("extra", [(f"p{i}", False) for i in range(6)])}
    split = make_splits(centres)["a"]
    excluded = exclude_centres_without_tumours(split, {"a", "b", "c"})
    assert {key.split("/")[0] for key in (*excluded.train, *excluded.validation)} == {"b", "c"}
    assert excluded.test == split.test and excluded.kind == "centre"
    assert exclude_centres_without_tumours(split, set()) == split
    with pytest.raises(InputError, match="split a: no training case comes from a centre with labelled tumours"):
        exclude_centres_without_tumours(split, {"a"})


def test_a_title_calls_a_fold_no_centre():
    titles = [Split("a", (), (), (), kind).title for kind in ("centre", "none", "fold", "list")]
    assert titles == ["a held out", "no centre held out", "fold a", "split a"]
