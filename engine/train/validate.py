"""Choose the best epoch and the binarisation thresholds on the validation cases of the training centres.

Both are chosen by masks that are made as in use: in the box of the reference with the margin of inference, tiled,
averaged over the eight flips, on the voxels of the case, and without small components. Only the repeated rounds of
tumour fine are left out; they would have to be computed for every threshold.

A case without a tumour counts like any other: its Dice is 1 if no tumour is found in it, else 0. So what is chosen is
best for a patient drawn from those of the training centres, who has a tumour as often as they have.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from data.cases.case import Case
from data.cases.labels import target_mask
from data.samples import reference_box
from data.scans.grid import volume_ml
from engine.infer.box import READOUTS, box_probability, keep_large_components
from engine.stages import MIN_TUMOUR_ML, Stage

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))  # candidates for the binarisation
EPOCH_THRESHOLDS = THRESHOLDS[1::4]  # by which epochs are ranked: labelling components takes longer than the network
AS_GOOD = 0.005  # thresholds within this mean Dice of the best cannot be distinguished on a few cases


def validation_dice(net: nn.Module, stage: Stage, cases: Sequence[Case], device: torch.device) -> float:
    """Return the mean Dice over the validation cases at the threshold of EPOCH_THRESHOLDS that is best for it.

    Args:
        net: Is set to evaluation mode.
        stage: Says what the network sees.
        cases: Validation cases, at least one.
        device: Where ``net`` is.
    """
    return float(mean_dice(net, stage, cases, device, thresholds=EPOCH_THRESHOLDS).max())


def choose_thresholds(net: nn.Module, stage: Stage, cases: Sequence[Case], device: torch.device) -> dict[str, float]:
    """Return the threshold of each readout that the network has the heads for, by its name in READOUTS."""
    names = [name for name, readout in READOUTS.items() if readout.heads <= {*stage.method.heads}]
    return {name: choose_threshold(net, stage, cases, device, name) for name in names}


def choose_threshold(
    net: nn.Module, stage: Stage, cases: Sequence[Case], device: torch.device, readout: str = "segmentation"
) -> float:
    """Choose the threshold of best mean Dice over the validation cases.

    Of all thresholds that are as good as the best, the one nearest to 0.5 is taken.

    Args:
        net: Is set to evaluation mode.
        stage: Says what the network sees.
        cases: Validation cases; without any the threshold is 0.5.
        device: Where ``net`` is.
        readout: Name in READOUTS.
    """
    if not cases:
        return 0.5
    means = mean_dice(net, stage, cases, device, readout=readout)
    good = [t for t, mean in zip(THRESHOLDS, means, strict=True) if mean >= means.max() - AS_GOOD]
    return min(good, key=lambda threshold: abs(threshold - 0.5))


def mean_dice(
    net: nn.Module,
    stage: Stage,
    cases: Sequence[Case],
    device: torch.device,
    *,
    readout: str = "segmentation",
    thresholds: Sequence[float] = THRESHOLDS,
) -> np.ndarray:
    """Segment cases as in use and return their mean Dice at each threshold; ``dice`` says what an empty reference has.

    Args:
        net: Is set to evaluation mode.
        stage: Says what the network sees.
        cases: With the pancreas, at least one.
        device: Where ``net`` is.
        readout: Name in READOUTS.
        thresholds: In ascending order.
    """
    net.eval()
    curves = []
    for case in cases:
        box = reference_box(case, stage.sampling)
        reference = target_mask(case.label()[box.slices], stage.sampling.target) > 0
        probability = box_probability(
            net, case.image()[box.slices], case.spacing, stage=stage, device=device, readout=readout
        )
        curves.append([dice(keep_large_components(probability > t), reference, case.spacing) for t in thresholds])
    return np.mean(curves, axis=0)


def dice(mask: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> float:
    """Return the Dice of two boolean masks of the same shape, with voxels of ``spacing`` (z, y, x) in mm.

    If the reference is empty it is 1 for a mask below ``MIN_TUMOUR_ML``, which counts as none, and 0 for a larger one.
    """
    wanted = int(np.count_nonzero(reference))
    if not wanted:
        return float(volume_ml(mask, spacing) < MIN_TUMOUR_ML)
    return 2 * int(np.count_nonzero(mask & reference)) / (wanted + int(np.count_nonzero(mask)))
