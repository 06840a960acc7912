"""Feature-space contrast: anchors inside and just outside the target, pulled together and apart by NT-Xent."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from models.dual_task_net import REDUCTION

TEMPERATURE = 0.05
RING_BOX = (10, 20)  # voxels in-plane of the box that dilates the target, drawn per sample; 3 fewer along z


class Anchors(NamedTuple):
    """Embeddings of the anchors, (P, C) inside the target and (N, C) in the ring around it; either may be empty."""

    positive: Tensor
    negative: Tensor


def draw_anchors(embedding: Tensor, mask: Tensor, min_cells: int, generator: Generator) -> Anchors:
    """At most one positive and one negative anchor per slice of the bottom grid, over all samples.

    A slice counts when at least ``min_cells`` of its cells belong to the target (or to the ring for negatives);
    when no slice of a sample does, the minimum drops step by step to 1. The anchor is a random cell of the slice's
    ridge: the cells at least as deep in the region as all their neighbours. Every filled slice has such cells,
    which a skeleton of a region two cells across has not.

    Args:
        embedding: (B, C, D/8, H/8, W/8). mask: (B, 1, D, H, W), binary.
        generator: on the CPU.
    """
    positive, negative = [], []
    for features, target in zip(embedding, mask, strict=True):
        ring = _dilate(target, int(torch.randint(RING_BOX[0], RING_BOX[1] + 1, (), generator=generator))) - target
        for region, anchors in ((target, positive), (ring, negative)):
            anchors.append(_pick(features, _ridge(_cells(region), min_cells), generator))
    return Anchors(torch.cat(positive), torch.cat(negative))


def nt_xent(positive: Tensor, negative: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """NT-Xent (Chen et al., ICML 2020) of two groups: the members of a group attract, the groups repel.

    For every ordered pair (i, j) of one group: ``-log(e_ij / (e_ij + sum of e_ik over the other group))`` with
    ``e = exp(cosine / temperature)``; the mean over all such pairs.

    Args: (P, C) and (N, C), with P + N such that at least one group has two members, else 0 is returned.
    """
    rows = F.normalize(torch.cat([positive, negative]).float(), dim=1)
    group = torch.arange(len(rows), device=rows.device) >= len(positive)
    similarity = rows @ rows.T / temperature
    same = group[:, None] == group[None, :]
    other_group = torch.logsumexp(similarity.masked_fill(same, -torch.inf), dim=1, keepdim=True)
    pair_loss = F.softplus(other_group - similarity)  # -log(e_ij / (e_ij + sum)), stable
    pairs = same & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return pair_loss[pairs].mean() if pairs.any() else rows.sum() * 0


def _cells(region: Tensor) -> Tensor:
    """(1, D, H, W) voxels -> (D/8, H/8, W/8) bool: cells at least half full, or the fullest where none is."""
    share = F.avg_pool3d(region.float(), REDUCTION)[0]
    return (share >= share.amax().clamp(max=0.5)) & (share > 0)


def _ridge(cells: Tensor, min_cells: int) -> Tensor:
    """The ridge of every slice that counts, (D/8, H/8, W/8) bool."""
    per_slice = cells.sum(dim=(1, 2), keepdim=True)
    minimum = per_slice.amax().clamp(1, min_cells)
    shell = cells.float()[None]
    depth = shell.clone()
    for _ in range(max(cells.shape[1:]) // 2):  # depth in cells, 8-connected, the border being outside
        shell = 1 - F.max_pool2d(F.pad(1 - shell, (1, 1, 1, 1), value=1.0), 3, stride=1)
        depth += shell
    deepest_around = F.max_pool2d(depth, 3, stride=1, padding=1)
    return cells & (depth >= deepest_around)[0] & (per_slice >= minimum)


def _pick(features: Tensor, candidates: Tensor, generator: Generator) -> Tensor:
    """One random candidate cell per slice: (slices with candidates, C)."""
    score = torch.rand(candidates.shape, generator=generator).to(candidates.device)
    score = score.masked_fill(~candidates, -1).flatten(1)  # (D/8, cells)
    best, cell = score.max(dim=1)
    slices = torch.nonzero(best >= 0).squeeze(1)
    return features.flatten(2)[:, slices, cell[slices]].T


def _dilate(mask: Tensor, box: int) -> Tensor:
    """Dilation of (1, D, H, W) by a box of ``box`` voxels in-plane and 3 fewer along z."""
    size = (box - 3, box, box)
    before = [(n - 1) // 2 for n in size]
    pad = [side for n, b in zip(reversed(size), reversed(before), strict=True) for side in (b, n - 1 - b)]
    # A box dilation separates; one axis at a time costs 3 n comparisons a voxel in place of n^3.
    dilated = F.pad(mask.float(), pad)
    for axis, n in enumerate(size):
        kernel = [1, 1, 1]
        kernel[axis] = n
        dilated = F.max_pool3d(dilated, kernel, stride=1)
    return dilated
