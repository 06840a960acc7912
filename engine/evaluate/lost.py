"""Which stage of the cascade lost a case.

Every stage but the last one only has to show the next one where to look, so it is judged by the box that the next one
reads around its mask. A stage *missed* a case

    if that box holds less than ``LEAST_IN_BOX`` of the gland, for a stage that segments the pancreas,
    if that box holds less than ``LEAST_IN_BOX`` of the tumour, if a stage that segments tumours is evaluated,
    for tumour coarse, if it found less than ``MIN_TUMOUR_ML``, which counts as nothing, or
    for pancreas fine before a tumour stage, if less than ``LEAST_INSIDE`` of the tumour lies in its mask, because the
    tumour stages drop components that lie outside of it.

A case whose final mask is lost (``engine.report.lost``) was lost in the first stage that missed it, or in the evaluated
stage if none before it did. A case that a stage missed and a later one found after all is not lost.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from data.cases.labels import target_mask
from data.samples import mask_box
from data.scans.grid import volume_ml
from engine.infer.components import LEAST_INSIDE
from engine.stages import MIN_TUMOUR_ML, Stage

LEAST_IN_BOX = 0.5  # share of a structure; with less than that, the next stage does not see what it is to segment


def find_lost_stage(
    chain: Sequence[Stage], masks: Mapping[str, np.ndarray], label: np.ndarray, spacing: tuple[float, float, float]
) -> str:
    """Find the stage that lost a case whose final mask does not show where the target is.

    Args:
        chain: The stages in the order of the cascade, the evaluated one last; without those whose mask the reference
            has replaced.
        masks: Boolean masks of all stages of the chain but the last, by name, each of shape (D, H, W).
        label: Reference labels 0/1/2 of the same shape; it contains the target of the last stage.
        spacing: Voxel spacing (z, y, x) in mm.

    Returns:
        The name of the first stage that missed the case; that of the last one if no stage before it did.
    """
    evaluated = chain[-1]
    for stage, reader in pairwise(chain):
        if _missed(stage, reader, masks[stage.name], label, spacing, target=evaluated.sampling.target):
            return stage.name
    return evaluated.name


def _missed(
    stage: Stage,
    reader: Stage,
    mask: np.ndarray,
    label: np.ndarray,
    spacing: tuple[float, float, float],
    *,
    target: str,
) -> bool:
    """Return whether ``reader``, the stage that looks around the mask of ``stage``, cannot find the target there."""
    if not stage.segments_pancreas and volume_ml(mask, spacing) < MIN_TUMOUR_ML:
        return True
    box = mask_box(mask, spacing, reader.sampling)
    if box is None:
        return True
    for structure in {stage.sampling.target, target}:
        reference = target_mask(label, structure) > 0
        if np.count_nonzero(reference[box.slices]) < LEAST_IN_BOX * np.count_nonzero(reference):
            return True
    if stage.segments_pancreas and not reader.segments_pancreas:
        tumour = target_mask(label, "tumour") > 0
        return bool(np.count_nonzero(mask & tumour) < LEAST_INSIDE * np.count_nonzero(tumour))
    return False
