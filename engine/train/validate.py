"""What is decided on the validation part of the training centres: the best epoch and the threshold."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data.augment import make_batch
from data.cases.labels import target_mask
from data.cases.store import Case
from data.samples import BoxDataset, reference_box
from engine.device import autocast
from engine.infer.box import READOUTS, box_probability
from engine.stages import Stage
from models.dual_task_net import segmentation_probability

THRESHOLDS = torch.arange(5, 100, 5) / 100  # candidates for the binarisation
AS_GOOD = 0.005  # thresholds whose mean Dice is this close to the best are not told apart


@torch.inference_mode()
def validation_dice(net: nn.Module, boxes: BoxDataset, device: torch.device) -> float:
    """Mean Dice over the validation cases in the boxes of their reference, one pass each, at the best threshold.

    nan where a split has no validation case.
    """
    net.eval()
    curves = []
    for index in range(len(boxes)):
        batch = make_batch([boxes[0, index]], device, None)
        with autocast(device):
            output = net(batch.image.contiguous(memory_format=torch.channels_last_3d))
        curves.append(dice_by_threshold(segmentation_probability(output), batch.mask))
    return float(torch.stack(curves).mean(dim=0).max()) if curves else math.nan


def choose_thresholds(net: nn.Module, stage: Stage, cases: Sequence[Case], device: torch.device) -> dict[str, float]:
    """The threshold for each readout of the network: by name of those in ``engine.infer.box.READOUTS`` that it has."""
    names = [name for name, readout in READOUTS.items() if readout.heads <= {*stage.method.heads}]
    return {name: choose_threshold(net, stage, cases, device, name) for name in names}


def choose_threshold(
    net: nn.Module, stage: Stage, cases: Sequence[Case], device: torch.device, readout: str = "segmentation"
) -> float:
    """The threshold for inference: that of best mean Dice over the validation cases, in the boxes of their reference.

    The probabilities are averaged over the flips as in inference, which makes them less extreme than a single pass.
    Of thresholds as good as the best, the one nearest to 0.5, as a few cases cannot tell them apart; 0.5 without
    cases.
    """
    net.eval()
    curves = []
    for case in cases:
        box = reference_box(case, stage.sampling, None)
        probability = box_probability(net, case.image()[box.slices], case.spacing, stage, device, readout)
        mask = target_mask(case.label()[box.slices], stage.sampling.target)
        curves.append(dice_by_threshold(torch.from_numpy(probability), torch.from_numpy(mask)))
    if not curves:
        return 0.5
    means = torch.stack(curves).mean(dim=0)
    good = THRESHOLDS[means >= means.max() - AS_GOOD]
    return round(float(good[(good - 0.5).abs().argmin()]), 2)


def dice_by_threshold(probability: Tensor, mask: Tensor) -> Tensor:
    """Dice of ``probability > t`` against a binary mask of the same shape for every t of THRESHOLDS, on the CPU."""
    thresholds = THRESHOLDS.to(probability.device)
    # Histogram instead of a comparison per threshold: bucket i holds what exceeds exactly the first i thresholds.
    buckets = torch.bucketize(probability.flatten(), thresholds)
    counts = [torch.bincount(b, minlength=len(thresholds) + 1) for b in (buckets, buckets[mask.flatten() > 0])]
    predicted, hit = (c.flip(0).cumsum(0).flip(0)[1:] for c in counts)
    return (2 * hit / (predicted + (mask > 0).sum()).clamp(min=1)).cpu()
