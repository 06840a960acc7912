"""What is found around a finding of the stage before has to be found around the pancreas, too."""

from collections.abc import Callable

import numpy as np

from data.scans.boxes import Box
from engine.infer.components import keep_components

LEAST_CONFIRMED = 0.45  # share of a component that has to be found in the second box; docs/experiments.md


def confirm(mask: np.ndarray, box: Box, around: Box | None, segment: Callable[[Box], np.ndarray]) -> np.ndarray:
    """Keep the components of a mask of which enough is found in a second box, too.

    The middle of the first box has been taken for a tumour by the stage before, and a network believes it easily: the
    tumours that it has learned from lay there. The box around the pancreas suggests no place.

    Args:
        mask: What was found, boolean, shape (D, H, W); is changed.
        box: In which the first round looked.
        around: The box around the pancreas; None if nothing has to be confirmed.
        segment: Returns the mask of the whole scan, shape (D, H, W), that is found in a box.
    """
    if around is None or around == box or not mask.any():
        return mask
    return keep_components(mask, segment(around), inside=LEAST_CONFIRMED, out=mask)
