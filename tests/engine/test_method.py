"""Variants and settings of the method, before anything is trained."""

import json
import math

import pytest
import torch

from data.common.errors import InputError
from data.common.settings import from_record
from engine.method import METHOD_PARTS, Method
from engine.stages import STAGES, VARIANTS, distinct_variants, with_variant
from models.losses import LossWeights
from models.signed_distance import distance_to_mask, scale_steepness


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
        assert added == (set(stage.method.weights.active) & set(terms)) - (
            {"sdf_consistency", "guided_transform"} - added
        )
    assert methods["views"].views == stage.method.views and methods["sdf"].views == "none"
    assert math.isinf(methods["hard-transform"].steepness)
    assert methods["hard-transform"].weights == methods["full"].weights
    assert methods["published"].ramp == 0 and methods["published"].distance == "per_case"


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_the_redesigned_method_and_what_is_left_without_a_part(stage):
    whole = with_variant(stage, "redesigned").method
    assert {"tissue_contrast", "sdf", "reciprocal", "union_consistency", "guided_transform"} <= {*whole.weights.active}
    assert whole.tau_mm == (10.0 if stage.segments_pancreas else 5.0) and whole.needs_pancreas
    for name in ("absence", "slice"):
        assert getattr(whole.weights, name) == getattr(stage.method.weights, name)
    for part, terms in METHOD_PARTS.items():
        less = with_variant(stage, f"redesigned-no-{part}").method
        gone = {*whole.weights.active} - {*less.weights.active}
        assert gone == {*whole.weights.active} & ({*terms} | ({"guided_transform"} if part == "sdf" else set()))
        assert less.images == whole.images == 2
        assert ("sdf" in less.heads) == (part != "sdf")


def test_the_fair_baseline_sees_as_many_images_as_two_views():
    for stage in STAGES.values():
        fair, baseline = (with_variant(stage, name).method for name in ("fair-baseline", "baseline"))
        assert fair.weights == baseline.weights and (fair.copies, fair.images, baseline.images) == (2, 2, 1)
        assert not fair.needs_pancreas


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
    for views in ("none", "twice", "raw-randconv"):
        with pytest.raises(InputError, match=f"--views {views}"):
            method.changed(["consistency=0", "union_consistency=1"], {"views": views})
    with pytest.raises(InputError, match="--steepness"):
        method.changed([], {"steepness": 0.0})
    with pytest.raises(InputError, match="--ramp"):
        method.changed([], {"ramp": -1.0})
    with pytest.raises(InputError, match="every loss term is 0"):
        STAGES["pancreas_fine"].method.changed(["dice=0", "bce=0", "contrast=0"])
    with pytest.raises(InputError, match="--weight reciprocal=0"):
        method.changed(["reciprocal=1"], {"distance": "per_case"})


def test_the_transform_is_as_steep_in_mm_whatever_tau_is():
    """A boundary between two voxels of 0.9 mm: T of the signed distance on either side is the same for 5 and 10 mm."""
    mask = torch.zeros(1, 1, 4, 4, 8)
    mask[..., 4:] = 1
    spacing = torch.full((1, 3), 0.9)
    found = []
    for tau in (5.0, 10.0):
        method = STAGES["tumor_coarse"].method.changed([], {"tau_mm": tau})
        phi = method.distance_target(mask, spacing)
        assert float(phi[0, 0, 0, 0, 5]) == pytest.approx(-1.8 / tau)
        found.append(distance_to_mask(phi, scale_steepness(spacing, method.scaled_steepness)))
        loss = method.build_loss()
        assert (loss.tau, loss.steepness) == (tau, method.scaled_steepness)
    assert torch.allclose(*found, atol=1e-5)


def test_settings_of_the_distance_are_checked_and_ignored_without_its_head():
    method = STAGES["tumor_coarse"].method
    with pytest.raises(InputError, match="--tau-mm"):
        method.changed([], {"tau_mm": 0.0})
    with pytest.raises(InputError, match="--regression box"):
        method.changed([], {"distance": "per_case", "regression": "band"})
    changed = {"tau_mm": 5.0, "regression": "band"}
    assert method.changed([], changed).effective != method.effective
    assert method.only().changed([], changed).effective == method.only().effective


def test_a_record_from_before_a_setting_was_added_still_reads():
    method = STAGES["tumor_fine"].method
    record = {name: value for name, value in method.to_record().items() if name not in ("tau_mm", "regression")}
    assert from_record(Method, record, complete=True) == method


def test_variants_that_compute_the_same_are_one():
    assert distinct_variants(STAGES["tumor_coarse"])[0] == "baseline"
    assert {*distinct_variants(STAGES["tumor_coarse"])} == {*VARIANTS}
    # No distance head: nothing to transform, and no part "sdf".
    assert distinct_variants(STAGES["pancreas_coarse"]) == [
        "baseline",
        "full",
        "fair-baseline",
        "contrast",
        "views",
        "published",
        *(name for name in VARIANTS if name.startswith("redesigned")),
    ]
