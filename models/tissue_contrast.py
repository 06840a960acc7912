"""Contrast of tissues on a decoder map: anchors of four tissues, which attract their own kind in other centres.

The contrast of ``models.contrast`` has at most one anchor per slice of the 1/8 grid, where a lesion is a cell or two.
Here every image gives up to ANCHORS of each tissue from the 1/2 grid, and a memory keeps some of earlier steps, so that
a lesion of one centre is compared with lesions of all others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from models.contrast import RING_MM, dilate
from models.processes import rows_of_all

TISSUES = ("target", "gland", "ring", "bright")
CELL = 2  # voxels of the input per cell, along each axis
ANCHORS = 64  # of each tissue in an image
TEMPERATURE = 0.1
BRIGHTER = 0.12  # than the mean of the gland: 40 HU of the default window, so that vessels are among it
CLIPPED = 0.98  # grey values from which on nothing is told apart: bone, or what the window clips
KEPT = 8  # anchors of each tissue in an image that are remembered
REMEMBERED = 2048  # anchors of earlier steps; 32 steps of two boxes


class TissueCells(NamedTuple):
    """What the contrast of tissues has to know of the boxes of a batch.

    Attributes:
        tissues: Which cells belong to each of TISSUES, bool, (B, 4, D/2, H/2, W/2); no cell belongs to two.
        centres: A number for the centre of each box, int64, (B,).
    """

    tissues: Tensor
    centres: Tensor


class Anchors(NamedTuple):
    """Anchors with what they are. There are as many whatever is drawn, so that a GPU keeps nobody waiting.

    Their places have the shape (V, B, 4, k), for k places of each tissue in V views of B boxes, or (N,).

    Attributes:
        rows: Projected features of unit length, (*places, C).
        tissue: Number of each one's tissue in TISSUES, int64.
        centre: Number of each one's centre, int64.
        drawn: Whether there is an anchor at this place, bool.
    """

    rows: Tensor
    tissue: Tensor
    centre: Tensor
    drawn: Tensor

    def of_all(self) -> "Anchors":
        """Return those of all processes of the training, with N places."""
        return Anchors(*(rows_of_all(part.flatten(0, 3)) for part in self))


def find_tissues(image: Tensor, target: Tensor, gland: Tensor, spacing: Tensor, ring_mm: float = RING_MM) -> Tensor:
    """Say which cells of the 1/2 grid belong to which tissue.

    - target: At least half of the cell is target; of a smaller target, the fullest cells are.
    - gland: At least half of the cell is pancreas, and nothing of it is target.
    - ring: Within ``ring_mm`` of the pancreas.
    - bright: Anywhere outside the pancreas, brighter than the gland by BRIGHTER: the vessels, as far as there is
      contrast medium in them.

    Args:
        image: Grey values in [0, 1], shape (B, 1, D, H, W).
        target: Mask of the target, 0 or 1, same shape.
        gland: Mask of the pancreas with its tumour, 0 or 1, same shape.
        spacing: Voxel spacing (z, y, x) in mm, shape (B, 3), on the CPU.
        ring_mm: Width of the ring in mm.

    Returns:
        Bool, shape (B, 4, D/2, H/2, W/2), in the order of TISSUES.
    """
    grey, in_target, in_pancreas = F.avg_pool3d(torch.cat([image, target, gland], 1), CELL).split(1, dim=1)
    is_target = (in_target >= in_target.amax((2, 3, 4), keepdim=True).clamp(max=0.5)) & (in_target > 0)
    is_gland = (in_pancreas >= 0.5) & (in_target == 0)
    outside = (in_pancreas == 0) & (in_target == 0)
    # Of a pancreas that is all target, the mean is that of the target.
    reference = torch.where(is_gland.any((2, 3, 4), keepdim=True), is_gland, in_pancreas >= 0.5).float()
    mean = (grey * reference).sum((2, 3, 4), keepdim=True) / reference.sum((2, 3, 4), keepdim=True).clamp(min=1)
    is_bright = outside & (grey > mean + BRIGHTER) & (grey < CLIPPED) & (reference.sum((2, 3, 4), keepdim=True) > 0)
    widths = [[max(1, round(ring_mm / (CELL * s))) for s in mm] for mm in spacing.tolist()]
    around = [dilate(pancreas, width) for pancreas, width in zip(in_pancreas > 0, widths, strict=True)]
    is_ring = (torch.stack(around) > 0) & outside & ~is_bright
    return torch.cat([is_target, is_gland, is_ring, is_bright], dim=1)


def draw_tissue_anchors(projection: Tensor, cells: TissueCells, generators: Sequence[Generator]) -> Anchors:
    """Draw up to ANCHORS cells of each tissue in every box; all views of a box have theirs in the same cells.

    Args:
        projection: Projected features of V views of B boxes, view after view, shape (V B, C, D/2, H/2, W/2).
        cells: Of the boxes.
        generators: Source of the random draws of each box, on the CPU.

    Returns:
        Anchors with places of the shape (V, B, 4, k).
    """
    boxes, tissues, *shape = cells.tissues.shape
    scores = torch.stack([torch.rand(shape, generator=generator) for generator in generators])
    score = scores.to(projection.device, non_blocking=True)[:, None].masked_fill(~cells.tissues, -1).flatten(2)
    best, cell = score.topk(min(ANCHORS, score.shape[2]), dim=2)  # (B, 4, k)
    features = projection.unflatten(0, (-1, boxes)).flatten(3).transpose(2, 3).float()  # (V, B, cells, C)
    where = cell.flatten(1)[None, ..., None].expand(len(features), -1, -1, features.shape[3])
    rows = F.normalize(features.gather(2, where), dim=3).unflatten(2, (tissues, -1))  # (V, B, 4, k, C)
    places = rows.shape[:-1]
    tissue = torch.arange(tissues, device=rows.device)[:, None].expand(places)
    centre = cells.centres.to(rows.device, non_blocking=True)[:, None, None].expand(places)
    return Anchors(rows, tissue, centre, (best >= 0).expand(places))


@torch.no_grad()
def remember(anchors: Anchors, memory: Anchors | None) -> Anchors:
    """Put KEPT anchors of each tissue of the first view of each box before those of earlier steps.

    Args:
        anchors: With places of the shape (V, B, 4, k).
        memory: Of the steps before, newest first; None at the start.

    Returns:
        At most REMEMBERED anchors, without gradient, which are the same in all processes.
    """
    newest = Anchors(*(part[:1, :, :, :KEPT].detach() for part in anchors)).of_all()
    if memory is None:
        return newest
    return Anchors(*(torch.cat(parts)[:REMEMBERED] for parts in zip(newest, memory, strict=True)))


def contrast_tissues(anchors: Anchors, memory: Anchors | None = None) -> Tensor:
    """Compute the contrast of anchors with each other and with a memory.

    For an anchor i, the positive ones j are those of the same tissue in other centres or, if there are none, in its
    own. The loss of a pair is ``-log(e_ij / (e_ij + sum of e_ik over the other tissues))`` with ``e = exp(cosine
    similarity / TEMPERATURE)``; it is averaged over the pairs of an anchor, over the anchors of a tissue, and over the
    tissues.

    Args:
        anchors: With N places.
        memory: With M places; None for an empty one.

    Returns:
        The loss, a scalar in float32; 0 if no anchor has a positive one, or there is one tissue only.

    References:
        Khosla et al., Supervised contrastive learning, NeurIPS 2020.
    """
    others = anchors if memory is None else Anchors(*(torch.cat(parts) for parts in zip(anchors, memory, strict=True)))
    similarity = anchors.rows @ others.rows.T / TEMPERATURE
    same = anchors.tissue[:, None] == others.tissue
    apart = similarity.masked_fill(same | ~others.drawn, torch.finfo(similarity.dtype).min)
    pair_loss = F.softplus(torch.logsumexp(apart, dim=1, keepdim=True) - similarity)
    itself = torch.eye(*similarity.shape, dtype=torch.bool, device=similarity.device)
    pairs = same & others.drawn & anchors.drawn[:, None] & ~itself
    abroad = pairs & (anchors.centre[:, None] != others.centre)
    pairs = torch.where(abroad.any(1, keepdim=True), abroad, pairs)
    count = pairs.sum(1)
    of_anchor = (pair_loss * pairs).sum(1) / count.clamp(min=1)
    tissues = torch.arange(len(TISSUES), device=count.device)
    of_tissue = ((anchors.tissue[:, None] == tissues) & (count > 0)[:, None]).to(of_anchor.dtype)  # (N, 4)
    anchors_of = of_tissue.sum(0)
    means = of_anchor @ of_tissue / anchors_of.clamp(min=1)
    return means.sum() / (anchors_of > 0).sum().clamp(min=1)


def mean_cosine(anchors: Anchors) -> Tensor:
    """Return the mean cosine similarity of two different anchors with N places; 0 if there are fewer than two."""
    count = anchors.drawn.sum()
    total = (anchors.rows.detach() * anchors.drawn[:, None]).sum(0).square().sum() - count
    return total / (count * (count - 1)).clamp(min=1)
