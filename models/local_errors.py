"""Errors that are averaged where there is something to learn, as a box is background nearly everywhere.

A lesion fills a 200th of a box. In a mean over the box, it and the voxels around it count for nearly nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.contrast import dilate
from models.processes import mean_of_chosen

REGRESSIONS = ("box", "band")  # over what an error of the distance is averaged
FAR_WEIGHT = 0.1  # of the voxels beyond the band, where phi is -1 or 1
UNION_MM = 5.0  # by which the union of two predictions is dilated


def distance_error(distance: Tensor, phi: Tensor, over: str = "box") -> Tensor:
    """Compute the mean of |d - phi|.

    Args:
        distance: d, shape (B, 1, D, H, W).
        phi: Signed distance of the mask in units of the truncation distance, same shape.
        over: "box" for the mean over all voxels, or "band" for the mean over the band |phi| < 1 plus FAR_WEIGHT times
            that over the rest, both averaged over the samples that have such voxels.
    """
    if over == "box":
        return F.l1_loss(distance, phi)
    error, near = (distance - phi).abs().flatten(1), (phi.abs() < 1).float().flatten(1)

    def mean_over(region: Tensor) -> Tensor:
        voxels = region.sum(1)
        return mean_of_chosen((error * region).sum(1) / voxels.clamp(min=1), (voxels > 0).float())

    return mean_over(near) + FAR_WEIGHT * mean_over(1 - near)


def union_divergence(logits: Tensor, guide: Tensor, spacing: Tensor) -> Tensor:
    """Compute the symmetric divergence of two predictions in the dilated union of their masks.

    In a voxel it is KL(p, q) + KL(q, p) = (p - q) (s - t) for p = sigmoid(s) and q = sigmoid(t). It is averaged over
    the voxels within UNION_MM of either mask, p > 0.5 or q > 0.5, and over the samples that have such voxels. Without
    any it is 0.

    Args:
        logits: s, shape (B, 1, D, H, W).
        guide: t, same shape.
        spacing: Voxel spacing (z, y, x) in mm, shape (B, 3), on the CPU.
    """
    widths = [[max(1, round(UNION_MM / s)) for s in mm] for mm in spacing.tolist()]
    either = ((logits > 0) | (guide > 0)).float()
    region = torch.stack([dilate(mask, width) for mask, width in zip(either, widths, strict=True)]).flatten(1)
    divergence = ((torch.sigmoid(logits) - torch.sigmoid(guide)) * (logits - guide)).flatten(1)
    voxels = region.sum(1)
    return mean_of_chosen((divergence * region).sum(1) / voxels.clamp(min=1), (voxels > 0).float())
