"""Choose the best epoch and the binarisation thresholds on the validation cases of the training centres.

Both are chosen by masks that are made as in use: in the box of the reference with the margin of inference, tiled,
averaged over the flips of the training, on the voxels of the case, without small components, those outside of the
pancreas and those that are not confirmed, and in as many rounds.

The Dice of a case without a tumour is 1 if no tumour is found in it, else 0. All such cases together have the weight
that they have in the steps of the training, however many there are. In a plain mean over many healthy patients, an
untrained network that finds nothing would beat one that finds most tumours.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from data.cases.case import Case
from data.cases.labels import target_mask
from data.common.memory import zeros
from data.samples import pancreas_box, reference_box
from data.scans.boxes import Box
from data.scans.grid import volume_ml
from engine.infer.box import READOUTS, Flip, box_probability
from engine.infer.cascade import select_organ
from engine.infer.components import keep_components
from engine.infer.confirmation import segment_confirmed
from engine.processes import of_all, own_share
from engine.stages import MIN_TUMOUR_ML, Stage

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))  # candidates for the binarisation
EPOCH_THRESHOLDS = THRESHOLDS[1::4]  # by which epochs are ranked: labelling components takes longer than the network
AS_GOOD = 0.005  # thresholds within this mean Dice of the best cannot be distinguished on a few cases


def validation_dice(
    net: nn.Module,
    stage: Stage,
    cases: Sequence[Case],
    device: torch.device,
    *,
    flips: Sequence[Flip],
    negatives: float = 0.0,
) -> float:
    """Return the mean Dice over the validation cases at the threshold of EPOCH_THRESHOLDS that is best for it.

    Args:
        net: Is set to evaluation mode.
        stage: Says what the network sees.
        cases: Validation cases, at least one with the target.
        device: Where ``net`` is.
        flips: As in ``box_probability``.
        negatives: As in ``mean_dice``.
    """
    means = mean_dice(net, stage, cases, device, negatives=negatives, thresholds=EPOCH_THRESHOLDS, flips=flips)
    return float(means.max())


def choose_thresholds(
    net: nn.Module,
    stage: Stage,
    cases: Sequence[Case],
    device: torch.device,
    *,
    flips: Sequence[Flip],
    negatives: float = 0.0,
) -> dict[str, float]:
    """Return the threshold of each readout that the network has the heads for, by its name in READOUTS."""
    names = [name for name, readout in READOUTS.items() if readout.heads <= {*stage.method.heads}]
    return {
        name: choose_threshold(net, stage, cases, device, flips=flips, readout=name, negatives=negatives)
        for name in names
    }


def choose_threshold(
    net: nn.Module,
    stage: Stage,
    cases: Sequence[Case],
    device: torch.device,
    *,
    flips: Sequence[Flip],
    readout: str = "segmentation",
    negatives: float = 0.0,
) -> float:
    """Choose the threshold of best mean Dice over the validation cases.

    Of all thresholds that are as good as the best, the one nearest to 0.5 is taken.

    Args:
        net: Is set to evaluation mode.
        stage: Says what the network sees.
        cases: Validation cases, at least one with the target; without any the threshold is 0.5.
        device: Where ``net`` is.
        readout: Name in READOUTS.
        flips: As in ``box_probability``.
        negatives: As in ``mean_dice``.
    """
    if not cases:
        return 0.5
    means = mean_dice(net, stage, cases, device, negatives=negatives, readout=readout, flips=flips)
    good = [t for t, mean in zip(THRESHOLDS, means, strict=True) if mean >= means.max() - AS_GOOD]
    return min(good, key=lambda threshold: abs(threshold - 0.5))


def mean_dice(
    net: nn.Module,
    stage: Stage,
    cases: Sequence[Case],
    device: torch.device,
    *,
    flips: Sequence[Flip],
    negatives: float = 0.0,
    readout: str = "segmentation",
    thresholds: Sequence[float] = THRESHOLDS,
) -> np.ndarray:
    """Segment cases as in use and return their mean ``dice`` at each threshold.

    Args:
        net: Is set to evaluation mode.
        stage: Says what the network sees.
        cases: At least one with the target; the others have the pancreas.
        device: Where ``net`` is.
        negatives: Weight in the mean, in [0, 1), that the cases without the target have together, if there are any.
        readout: Name in READOUTS.
        thresholds: In ascending order.
        flips: As in ``box_probability``.
    """
    net.eval()
    curves: list[tuple[bool, list[float]]] = []  # whether a case has the target, and its Dice at each threshold
    for case in own_share([case for case in cases if negatives or case.target_box(stage.sampling.target)]):
        reference, box = target_mask(case.label(), stage.sampling.target) > 0, reference_box(case, stage.sampling)
        segment = _at_threshold(net, stage, case, device, readout, flips)
        around = pancreas_box(case, stage.sampling) if stage.confirms(negatives) else None
        curve = []
        for threshold in thresholds:
            look = functools.partial(segment, threshold)
            found = segment_confirmed(look, box, around, case.spacing, stage.sampling)
            curve.append(dice(found.mask, reference, case.spacing))
        curves.append((bool(reference.any()), curve))
    with_target, without = ([curve for has, curve in of_all(curves) if has == wanted] for wanted in (True, False))
    mean = np.mean(with_target, axis=0)
    return (1 - negatives) * mean + negatives * np.mean(without, axis=0) if without else mean


def _at_threshold(
    net: nn.Module, stage: Stage, case: Case, device: torch.device, readout: str, flips: Sequence[Flip]
) -> Callable[[float, Box], np.ndarray]:
    """Return a function that segments a case in a box at a threshold; it computes every box only once."""

    @functools.cache
    def probability(box: Box) -> np.ndarray:
        image = case.image()[box.slices]
        return box_probability(net, image, case.spacing, stage=stage, device=device, readout=readout, flips=flips)

    organ = select_organ(stage, {"pancreas_fine": case.label() > 0})

    def segment(threshold: float, box: Box) -> np.ndarray:
        mask = zeros(case.shape, bool)
        within = None if organ is None else organ[box.slices]
        keep_components(probability(box) > threshold, within, out=mask[box.slices])
        return mask

    return segment


def dice(mask: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> float:
    """Return the Dice of two boolean masks of the same shape, with voxels of ``spacing`` (z, y, x) in mm.

    If the reference is empty it is 1 for a mask below ``MIN_TUMOUR_ML``, which counts as none, and 0 for a larger one.
    """
    wanted = int(np.count_nonzero(reference))
    if not wanted:
        return float(volume_ml(mask, spacing) < MIN_TUMOUR_ML)
    return 2 * int(np.count_nonzero(mask & reference)) / (wanted + int(np.count_nonzero(mask)))
