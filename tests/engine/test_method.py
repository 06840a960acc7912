"""Variants and settings of the method, before anything is trained."""

import json
import math

import pytest

from data.common.errors import InputError
from data.common.settings import from_record
from engine.method import METHOD_PARTS, Method
from engine.stages import STAGES, VARIANTS, distinct_variants, with_variant
from models.losses import LossWeights


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_variants_hold_what_their_names_say(stage):
    methods = {name: with_variant(stage, name).method for name in VARIANTS}
    assert methods["full"] == stage.method
    plain = {"dice", "bce"} | ({"absence"} & {*stage.method.weights.active})
    assert {*methods["baseline"].weights.active} == plain
    assert methods["baseline"].heads == ("seg",) and methods["baseline"].views == "none"
    for part, terms in METHOD_PARTS.items():
        added = set(methods[part].weights.active) - plain
        assert added <= set(terms), "a part brings its own terms alone"
        assert added == (set(stage.method.weights.active) & set(terms)) - ({"sdf_consistency"} - added)
    assert methods["views"].views == stage.method.views and methods["sdf"].views == "none"
    assert math.isinf(methods["hard-transform"].steepness)
    assert methods["hard-transform"].weights == methods["full"].weights
    assert methods["published"].ramp == 0 and methods["published"].distance == "per_case"


def test_no_head_is_built_that_no_term_trains():
    assert Method(LossWeights(), views="none").heads == ("seg",)
    assert set(STAGES["tumor_fine"].published.heads) == {"seg", "sdf", "embedding", "slice"}
    assert set(STAGES["pancreas_fine"].published.heads) == {"seg", "embedding"}


def test_a_method_survives_its_record():
    for stage in STAGES.values():
        for method in (stage.method, stage.published):
            assert from_record(Method, json.loads(json.dumps(method.to_record()))) == method


@pytest.mark.parametrize("change", ["sdf", "sdf=-1", "sdf=nan", "magic=1", "=1", "sdf=1,2"])
def test_a_weight_is_a_term_and_a_number(change):
    with pytest.raises(InputError) as caught:
        STAGES["tumor_coarse"].method.changed([change])
    assert str(caught.value).startswith(f"--weight {change}") and caught.value.remedy


def test_settings_that_contradict_each_other_are_refused():
    method = STAGES["tumor_coarse"].method
    assert method.changed(["sdf=0.5"]).weights.sdf == 0.5
    with pytest.raises(InputError, match="--weight consistency=0"):
        method.changed([], {"views": "none"})
    assert method.changed(["consistency=0"], {"views": "none"}).views == "none"
    with pytest.raises(InputError, match="--steepness"):
        method.changed([], {"steepness": 0.0})
    with pytest.raises(InputError, match="--ramp"):
        method.changed([], {"ramp": -1.0})
    with pytest.raises(InputError, match="every loss term is 0"):
        STAGES["pancreas_fine"].method.changed(["dice=0", "bce=0", "contrast=0"])
    with pytest.raises(InputError, match="--weight reciprocal=0"):
        method.changed(["reciprocal=1"], {"distance": "per_case"})


def test_variants_that_compute_the_same_are_one():
    assert distinct_variants(STAGES["tumor_coarse"])[0] == "baseline"
    assert {*distinct_variants(STAGES["tumor_coarse"])} == {*VARIANTS}
    # No distance head: nothing to transform, and no part "sdf".
    assert distinct_variants(STAGES["pancreas_coarse"]) == ["baseline", "full", "contrast", "views", "published"]
