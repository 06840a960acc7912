"""Feature-space contrast: anchors inside the target and in the ring around it, separated by the NT-Xent loss."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from models.dual_task_net import REDUCTION

TEMPERATURE = 0.05
RING_MM = 8.0  # the published ring is 5 to 10 voxels of about 0.8 mm wide


class Anchors(NamedTuple):
    """Embeddings of the anchors; every slice of the bottom grid of every sample has a place for one of each group.

    The number of places does not depend on what is drawn, so a GPU that draws them keeps nobody waiting.

    Attributes:
        positive: Those inside the target, shape (S, C) for S slices.
        negative: Those in the ring around it, shape (S, C).
        drawn: Which places hold an anchor, first of the positive and then of the negative ones, bool (2, S).
    """

    positive: Tensor
    negative: Tensor
    drawn: Tensor


def draw_anchors(
    embedding: Tensor,
    mask: Tensor,
    spacing: Tensor,
    min_cells: int,
    generators: Sequence[Generator],
    ring_mm: float = RING_MM,
) -> Anchors:
    """Draw at most one positive and one negative anchor per slice of the bottom grid, over all samples.

    Positive anchors lie in the target, negative ones in the ring around it, whose width is drawn between half of
    ``ring_mm`` and the whole of it. A slice takes part if at least ``min_cells`` of its cells belong to the region; if
    no slice of a sample has as many, the slices with the most cells do. The anchor is a random cell of the slice's
    ridge (see ``ridge``).

    Args:
        embedding: Bottom features, shape (B, C, D/8, H/8, W/8).
        mask: Binary mask, shape (B, 1, D, H, W).
        spacing: Voxel spacing (z, y, x) in mm, shape (B, 3), on the CPU.
        min_cells: Cells of the region that a slice needs.
        generators: Source of the random draws of each sample, on the CPU.
        ring_mm: Largest width of the ring in mm.
    """
    shares, scores = [], []
    for target, mm, generator in zip(mask, spacing.tolist(), generators, strict=True):
        width = ring_mm * (0.5 + 0.5 * float(torch.rand((), generator=generator)))
        ring = dilate(target, [max(1, round(width / s)) for s in mm]) - target
        shares.append(F.avg_pool3d(torch.cat([target, ring]).float(), REDUCTION))  # (2, D/8, H/8, W/8)
        scores.append(torch.rand(shares[-1].shape, generator=generator))
    share = torch.stack(shares, dim=1)  # (2, B, D/8, H/8, W/8), target and ring
    # A cell is occupied if at least half of it is; in a region smaller than that, the fullest cells are.
    cells = (share >= share.amax((2, 3, 4), keepdim=True).clamp(max=0.5)) & (share > 0)
    per_slice = cells.sum((3, 4), keepdim=True)
    enough = per_slice >= per_slice.amax(2, keepdim=True).clamp(1, min_cells)
    candidates = ridge(cells.flatten(0, 2)).view(cells.shape) & enough
    # The candidate with the highest random score of each slice is its anchor.
    score = torch.stack(scores, dim=1).to(mask.device, non_blocking=True)
    best, cell = score.masked_fill(~candidates, -1).flatten(3).max(dim=3)  # (2, B, D/8)
    rows = embedding.permute(0, 2, 3, 4, 1).flatten(2, 3)  # (B, D/8, cells of a slice, C)
    chosen = rows.expand(2, *rows.shape).gather(3, cell[..., None, None].expand(*cell.shape, 1, rows.shape[3]))
    positive, negative = chosen.flatten(1, 3)  # (S, C) each
    return Anchors(positive, negative, (best >= 0).flatten(1))


def ridge(region: Tensor) -> Tensor:
    """Find the ridge of every slice: the cells at least as deep in the region as their eight neighbours.

    The depth of a cell is its chessboard distance to the outside, where the border of the slice counts as outside. The
    squares of these half-widths centred on the ridge cells cover exactly the region, so the ridge is its medial axis in
    the chessboard metric. Every slice that holds a part of the region has a ridge cell, whereas a skeleton of a region
    of a few cells is often empty in most of its slices.

    Args:
        region: Boolean region, shape (D, H, W).

    Returns:
        Boolean mask of the ridge cells, shape (D, H, W).
    """
    shell = region.float()[None]
    depth = shell.clone()
    for _ in range(max(region.shape[1:]) // 2):  # erode by one cell at a time
        shell = 1 - F.max_pool2d(F.pad(1 - shell, (1, 1, 1, 1), value=1.0), 3, stride=1)
        depth += shell
    deepest_around = F.max_pool2d(depth, 3, stride=1, padding=1)
    return region & (depth >= deepest_around)[0]


def nt_xent(
    positive: Tensor, negative: Tensor, drawn: Tensor | None = None, temperature: float = TEMPERATURE
) -> Tensor:
    """Compute the NT-Xent loss of two groups: members of one group attract each other, the groups repel.

    The loss is the mean over all ordered pairs (i, j) within a group of ``-log(e_ij / (e_ij + sum over the other group
    of e_ik))`` with ``e = exp(cosine similarity / temperature)``.

    Args:
        positive: Embeddings of the first group, shape (P, C).
        negative: Embeddings of the second group, shape (N, C).
        drawn: Which rows are members of their group, bool, P + N values in any shape; None for all of them.
        temperature: Divisor of the cosine similarities.

    Returns:
        The loss, a scalar in float32; 0 if a group is empty, or if neither has two members.

    References:
        Chen et al., A simple framework for contrastive learning of visual representations, ICML 2020.
    """
    rows = F.normalize(torch.cat([positive, negative]).float(), dim=1)
    member = torch.ones(len(rows), dtype=torch.bool, device=rows.device) if drawn is None else drawn.flatten()
    group = torch.arange(len(rows), device=rows.device) >= len(positive)
    similarity = rows @ rows.T / temperature
    same = group[:, None] == group[None, :]
    # A finite number instead of minus infinity, whose gradient is not defined for an empty group.
    apart = similarity.masked_fill(same | ~member, torch.finfo(similarity.dtype).min)
    other_group = torch.logsumexp(apart, dim=1, keepdim=True)
    pair_loss = F.softplus(other_group - similarity)  # -log(e_ij / (e_ij + sum)), numerically stable
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    pairs = same & ~itself & member & member[:, None]
    return (pair_loss * pairs).sum() / pairs.sum().clamp(min=1)


def dilate(mask: Tensor, voxels: Sequence[int]) -> Tensor:
    """Dilate a mask (1, D, H, W) by so many voxels to either side along each axis."""
    dilated = mask.float()
    # Dilation by a box is separable: one axis at a time costs 3 n comparisons per voxel instead of n^3.
    for axis, n in enumerate(voxels):
        kernel, pad = [1, 1, 1], [0, 0, 0]
        kernel[axis], pad[axis] = 2 * n + 1, n
        dilated = F.max_pool3d(dilated, kernel, stride=1, padding=pad)
    return dilated
