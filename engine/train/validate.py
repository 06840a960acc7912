"""Choose the best epoch and the binarisation thresholds on the validation cases of the training centres."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data.augment import make_batch
from data.cases.case import Case
from data.cases.labels import target_mask
from data.samples import BoxDataset, reference_box
from engine.device import autocast
from engine.infer.box import READOUTS, box_probability
from engine.stages import Stage
from models.dual_task_net import segmentation_probability

THRESHOLDS = torch.arange(5, 100, 5) / 100  # candidates for the binarisation
AS_GOOD = 0.005  # thresholds within this mean Dice of the best cannot be distinguished on a few cases


@torch.inference_mode()
def validation_dice(net: nn.Module, boxes: BoxDataset, device: torch.device) -> float:
    """Return the mean Dice over the validation cases at the threshold that is best for it.

    The network sees the boxes of the references once each, without flips.

    Args:
        net: Is set to evaluation mode.
        boxes: Of the validation cases, at least one, without jitter.
        device: Where ``net`` is.
    """
    net.eval()
    curves = []
    for index in range(len(boxes)):
        batch = make_batch([boxes[0, index]], device, hu_window=boxes.sampling.hu_window)
        with autocast(device):
            output = net(batch.image.contiguous(memory_format=torch.channels_last_3d))
        curves.append(dice_by_threshold(segmentation_probability(output), batch.mask))
    return float(torch.stack(curves).mean(dim=0).max())


def choose_thresholds(net: nn.Module, stage: Stage, cases: Sequence[Case], device: torch.device) -> dict[str, float]:
    """Return the threshold of each readout that the network has the heads for, by its name in READOUTS."""
    names = [name for name, readout in READOUTS.items() if readout.heads <= {*stage.method.heads}]
    return {name: choose_threshold(net, stage, cases, device, name) for name in names}


def choose_threshold(
    net: nn.Module, stage: Stage, cases: Sequence[Case], device: torch.device, readout: str = "segmentation"
) -> float:
    """Choose the threshold of best mean Dice over the validation cases, in the boxes of their references.

    Probabilities are averaged over the eight flips as at inference, which makes them less extreme than those of a
    single pass. Of all thresholds that are as good as the best, the one nearest to 0.5 is taken.

    Args:
        net: Is set to evaluation mode.
        stage: Says what the network sees.
        cases: Validation cases; without any the threshold is 0.5.
        device: Where ``net`` is.
        readout: Name in READOUTS.
    """
    net.eval()
    curves = []
    for case in cases:
        box = reference_box(case, stage.sampling, None)
        probability = box_probability(
            net, case.image()[box.slices], case.spacing, stage=stage, device=device, readout=readout
        )
        mask = target_mask(case.label()[box.slices], stage.sampling.target)
        curves.append(dice_by_threshold(torch.from_numpy(probability), torch.from_numpy(mask)))
    if not curves:
        return 0.5
    means = torch.stack(curves).mean(dim=0)
    good = THRESHOLDS[means >= means.max() - AS_GOOD]
    return round(float(good[(good - 0.5).abs().argmin()]), 2)


def dice_by_threshold(probability: Tensor, mask: Tensor) -> Tensor:
    """Return the Dice of ``probability > t`` against a binary mask for every t of THRESHOLDS.

    Args:
        probability: Any shape.
        mask: Of the same shape and on the same device.

    Returns:
        (len(THRESHOLDS),), on the CPU.
    """
    thresholds = THRESHOLDS.to(probability.device)
    # A histogram instead of a comparison per threshold: bucket i holds what exceeds exactly the first i thresholds.
    buckets = torch.bucketize(probability.flatten(), thresholds)
    counts = [torch.bincount(b, minlength=len(thresholds) + 1) for b in (buckets, buckets[mask.flatten() > 0])]
    predicted, hit = (c.flip(0).cumsum(0).flip(0)[1:] for c in counts)
    return (2 * hit / (predicted + (mask > 0).sum()).clamp(min=1)).cpu()
