"""What is found around a finding of the stage before has to be found around the pancreas, too."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data.common.memory import zeros
from data.samples import Sampling
from data.scans.boxes import Box
from data.scans.grid import volume_ml
from engine.infer.components import keep_components
from engine.infer.rounds import segment_in_rounds

LEAST_CONFIRMED = 0.45  # share of a component that has to be found in the second box; docs/experiments.md


class Finding(NamedTuple):
    """What a stage finds in a scan.

    Attributes:
        mask: What counts, boolean, shape (D, H, W).
        box: Where it was seen.
        left_out: What was found in this box and not confirmed, boolean, shape (D, H, W).
        left_out_ml: Volume of everything that was not confirmed, wherever the stage looked.
    """

    mask: np.ndarray
    box: Box
    left_out: np.ndarray
    left_out_ml: float


def segment_confirmed(
    segment: Callable[[Box], np.ndarray],
    box: Box,
    around: Box | None,
    spacing: tuple[float, float, float],
    sampling: Sampling,
) -> Finding:
    """Segment in rounds, and keep the components of which enough is found around the pancreas, too.

    The middle of the first box has been taken for a tumour by the stage before, and a network believes it easily: the
    tumours that it has learned from lay there. The box around the pancreas suggests no place. If nothing is left, the
    stage before was wrong, and the stage looks around the pancreas as if it had not been told where to look.

    Args:
        segment: Returns the mask of the whole scan, shape (D, H, W), that is found in a box.
        box: In which to look first.
        around: The box around the pancreas; None if nothing has to be confirmed.
        spacing: Voxel spacing (z, y, x) in mm.
        sampling: Of the stage.
    """
    if around is None:
        mask, box = segment_in_rounds(segment, box, spacing, sampling)
        return Finding(mask, box, zeros(mask.shape, bool), 0.0)

    @functools.cache
    def found_around() -> np.ndarray:
        return segment(around)

    def look(where: Box) -> np.ndarray:
        return found_around() if where == around else segment(where)

    ever_found: np.ndarray | None = None
    for first in dict.fromkeys((box, around)):
        found, box = segment_in_rounds(look, first, spacing, sampling)
        mask = found if box == around else keep_components(found, found_around(), inside=LEAST_CONFIRMED)
        ever_found = found if ever_found is None else ever_found | found
        if mask.any():
            break
    return Finding(mask, box, found & ~mask, volume_ml(ever_found & ~mask, spacing))
