"""Ensembles: several networks of a stage see the same box, and the mean of their probabilities decides.

The networks are those of other splits or seeds. All see the same boxes, those of the cascade of the whole ensemble, so
that their masks can be compared: where they disagree, the result is uncertain.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from data.scans.boxes import Box
from engine.infer.box import Flip, probability_in_slabs
from engine.infer.candidates import Candidates, find_candidates
from engine.infer.components import keep_components
from engine.stages import Stage

# Above this disagreement a result gets a warning: the masks of two members have a mean Dice below 0.7.
DISAGREEMENT_LIMIT = 0.3


class Member(NamedTuple):
    """A network of an ensemble.

    Attributes:
        net: In evaluation mode, on the device of the ensemble.
        stage: With the method and the sampling that it was trained with; all members have the same sampling.
        threshold: Its own binarisation threshold.
        run: The run folder that it comes from.
        sha256: Of its checkpoint.
    """

    net: nn.Module
    stage: Stage
    threshold: float
    run: Path
    sha256: str = ""


class Opinions(NamedTuple):
    """How far the members of an ensemble agree in a box.

    Attributes:
        spread: Standard deviation of their probabilities, float32, shape of the box.
        disagreement: 1 - mean Dice of the masks of two members, in [0, 1].
    """

    spread: np.ndarray
    disagreement: float


class BoxProbability(NamedTuple):
    """The probability of the target in a box of a scan.

    Attributes:
        box: Box of the prepared image.
        values: float32 in [0, 1], shape of the box.
        opinions: How far the members of an ensemble agree; None for a single network.
    """

    box: Box
    values: np.ndarray
    opinions: Opinions | None = None

    def find_candidates(self, spacing: tuple[float, float, float], organ: np.ndarray | None) -> Candidates:
        """Find the lesion candidates in the box; their voxels are those of the box.

        Args:
            spacing: Voxel spacing (z, y, x) in mm.
            organ: Boolean mask of the pancreas in the whole scan, shape (D, H, W); None for anywhere.
        """
        return find_candidates(self.values, spacing, None if organ is None else organ[self.box.slices])


NOWHERE = BoxProbability(Box((0, 0, 0), (0, 0, 0)), np.zeros((0, 0, 0), np.float32))  # of a stage without a box


def segment_box_together(
    members: Sequence[Member],
    image: np.ndarray,
    spacing: tuple[float, float, float],
    threshold: float,
    probability: np.ndarray | None,
    *,
    device: torch.device,
    readout: str,
    flips: Sequence[Flip],
    within: np.ndarray | None,
    out: np.ndarray,
) -> Opinions | None:
    """Segment the stage's target in a box by the mean probability of several networks.

    Args:
        members: The networks.
        image: int16 HU, shape (D, H, W).
        spacing: Voxel spacing (z, y, x) in mm.
        threshold: Mean probabilities above it are foreground.
        probability: float32 array of the same shape that gets the mean probabilities; None if nobody reads them.
        device: Where the networks are.
        readout: As in ``engine.infer.box.box_probability``.
        flips: As in ``engine.infer.box.box_probability``.
        within: As in ``keep_components``.
        out: Boolean array of the same shape for the mask.

    Returns:
        How far the members agree; None without ``probability``.
    """
    slabs = [
        probability_in_slabs(m.net, image, spacing, stage=m.stage, device=device, readout=readout, flips=flips)
        for m in members
    ]
    spread = np.empty(image.shape, np.float32)
    masks = np.zeros((len(members), *image.shape), bool)
    for parts in zip(*slabs, strict=True):
        planes, values = parts[0][0], torch.stack([part for _, part in parts])
        mean = values.mean(0)
        out[planes] = (mean > threshold).cpu().numpy()
        if probability is not None:
            probability[planes] = mean.cpu().numpy()
            spread[planes] = values.std(0, correction=0).cpu().numpy()
            for mask, own, member in zip(masks, values, members, strict=True):
                mask[planes] = (own > member.threshold).cpu().numpy()
    keep_components(out, within, out=out)
    if probability is None:
        return None
    for mask in masks:
        keep_components(mask, within, out=mask)
    return Opinions(spread, disagreement(list(masks)))


def disagreement(masks: Sequence[np.ndarray]) -> float:
    """Return 1 - the mean Dice of two masks, over all pairs; two empty masks agree.

    Args:
        masks: At least two boolean masks of the same shape.
    """
    return 1 - float(np.mean([_agreement(first, second) for first, second in itertools.combinations(masks, 2)]))


def _agreement(first: np.ndarray, second: np.ndarray) -> float:
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return 2 * int(np.count_nonzero(first & second)) / total if total else 1.0
