"""The stage that lost a case is the first one that did not show the next one where to look."""

from dataclasses import replace

import numpy as np
import pytest

from data.samples import Sampling
from engine.evaluate.lost import find_lost_stage
from engine.stages import STAGES, Stage

SHAPE, MM = (8, 8, 32), (1.0, 1.0, 1.0)
# Boxes without a margin, on voxels of the scan: a mask that reaches from 8 to 16 has the box from 8 to 16.
PLAIN = {"margin_mm": (0.0, 0.0, 0.0), "target_mm": MM}
CASCADE = {name: replace(stage, sampling=replace(stage.sampling, **PLAIN)) for name, stage in STAGES.items()}


def bar(start: int, stop: int, *, depth: int = 8) -> np.ndarray:
    """A mask from column ``start`` to ``stop``, of all rows and of the first ``depth`` slices."""
    mask = np.zeros(SHAPE, bool)
    mask[:depth, :, start:stop] = True
    return mask


# A gland of 16 columns whose last 4 are tumour: 1024 and 256 voxels, a column has 64.
LABEL = bar(0, 16).astype(np.uint8) + bar(12, 16)
EXACT = {"pancreas_coarse": bar(0, 16), "pancreas_fine": bar(0, 16), "tumor_coarse": bar(12, 16)}


def lost(evaluated: str, without: tuple[str, ...] = (), **masks: np.ndarray) -> str:
    names = list(STAGES)[: list(STAGES).index(evaluated) + 1]
    chain: list[Stage] = [CASCADE[name] for name in names if name not in without]
    given = {stage.name: {**EXACT, **masks}[stage.name] for stage in chain[:-1]}
    return find_lost_stage(chain, given, LABEL, MM)


@pytest.mark.parametrize("evaluated", STAGES)
def test_it_is_the_evaluated_stage_if_every_other_one_found_the_reference(evaluated):
    assert lost(evaluated) == evaluated


@pytest.mark.parametrize(
    ("columns", "evaluated", "expected"),
    [
        ((8, 16), "pancreas_fine", "pancreas_fine"),  # the box holds 8 of 16 columns of the gland: half suffices
        ((9, 17), "pancreas_fine", "pancreas_coarse"),  # 7 of 16
        ((0, 8), "pancreas_fine", "pancreas_fine"),
        ((0, 8), "tumor_fine", "pancreas_coarse"),  # half of the gland, but nothing of the tumour
        ((6, 14), "tumor_fine", "tumor_fine"),  # half of both
        ((5, 13), "tumor_fine", "pancreas_coarse"),  # half of the gland, a quarter of the tumour
        ((0, 0), "pancreas_fine", "pancreas_coarse"),
        ((16, 32), "tumor_coarse", "pancreas_coarse"),
    ],
)
def test_a_box_has_to_hold_half_of_the_gland_and_half_of_the_tumour_that_is_looked_for(columns, evaluated, expected):
    assert lost(evaluated, pancreas_coarse=bar(*columns)) == expected


@pytest.mark.parametrize(("voxels", "expected"), [(0, "pancreas_fine"), (25, "pancreas_fine"), (26, "tumor_fine")])
def test_pancreas_fine_has_to_hold_a_tenth_of_the_tumour_for_its_components_are_dropped_outside_of_it(voxels, expected):
    mask = bar(0, 12)
    mask[:, :, 15].flat[:voxels] = True  # 26 of 256 are a tenth
    mask[:, :, 16] = True  # outside the gland; the box reaches to the tumour's end in any case
    assert lost("tumor_fine", pancreas_fine=mask) == expected


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (bar(8, 16), "tumor_fine"),
        (bar(6, 14), "tumor_fine"),  # half of the tumour is in the box
        (bar(5, 13), "tumor_coarse"),  # a quarter
        (bar(16, 24), "tumor_coarse"),  # a false finding beside it
        (bar(0, 0), "tumor_coarse"),
        (bar(12, 13, depth=1), "tumor_coarse"),  # 8 voxels of 0.001 ml count as nothing, although they lie in it
        (bar(12, 14, depth=1), "tumor_fine"),  # 16 do not
    ],
)
def test_tumour_coarse_has_to_show_where_the_tumour_is(mask, expected):
    assert lost("tumor_fine", tumor_coarse=mask) == expected


def test_the_first_stage_counts_and_those_that_the_reference_replaces_do_not():
    nothing = {name: bar(0, 0) for name in EXACT}
    assert lost("tumor_fine", **nothing) == "pancreas_coarse"
    assert lost("tumor_fine", without=("pancreas_coarse", "pancreas_fine"), **nothing) == "tumor_coarse"
    assert lost("tumor_coarse", without=("pancreas_coarse", "pancreas_fine"), **nothing) == "tumor_coarse"


def test_the_margin_with_which_the_next_stage_reads_counts():
    wide = replace(
        CASCADE["tumor_fine"], sampling=Sampling(**{**PLAIN, "margin_mm": (0, 0, 9)}, target="tumour", roi="tumour")
    )
    masks = {**EXACT, "tumor_coarse": bar(20, 24)}
    without, with_margin = (
        find_lost_stage([*list(CASCADE.values())[:3], last], masks, LABEL, MM) for last in (CASCADE["tumor_fine"], wide)
    )
    assert (without, with_margin) == ("tumor_coarse", "tumor_fine")
