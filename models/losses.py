"""The loss terms as pure functions, and DualTaskLoss, their weighted sum."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from models.contrast import RING_MM, draw_anchors, nt_xent
from models.dual_task_net import DualTaskOutput
from models.local_errors import distance_error, union_divergence
from models.processes import mean_of_chosen, rows_of_all
from models.signed_distance import STEEPNESS, TAU_MM, distance_to_mask, mask_to_distance, scale_steepness
from models.tissue_contrast import Anchors, TissueCells, contrast_tissues, draw_tissue_anchors, mean_cosine, remember

T = TypeVar("T")

ABSENCE_ML = 5.0  # the predicted volume from which on the absence loss bends from a line to a logarithm
SLICE_MIN_VOXELS = 10  # a slice is positive if it holds more target voxels than this
# Terms that compare two predictions. Their weight rises during training, because predictions agree most easily if both
# are empty.
RAMPED = ("consistency", "consistency_cosine", "sdf_consistency", "agreement", "union_consistency", "guided_transform")
# Terms of the distance head. It waits until the features tell the target from its surroundings. Before that, it could
# only learn that most voxels lie far outside: it would become 1 everywhere, where T has no slope and tanh hardly any.
DELAYED = ("sdf", "transform", "sdf_consistency", "agreement", "guided_transform")
GUIDED = ("union_consistency", "guided_transform")  # terms that compare a random view with the plain one, as a guide
# The gradient that a term should have at least on the shared layers, as a share of that of Dice. Below it, the term
# changes nothing that could be measured, and counts as absent.
LEAST_SHARE = 0.05
MOST_COSINE = 0.9  # of two anchors of the contrast of tissues; above, it cannot tell cells apart and counts as absent
NOT_GATED = ("dice", "bce")  # plain segmentation: what the others are compared with


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms. A term of weight 0 is not computed.

    Here y is the mask, phi its signed distance, p the predicted probability, d the predicted signed distance, T the
    transform of a distance to a mask and R that of a mask to a distance (see ``models.signed_distance``).

    ``reciprocal`` and ``agreement`` are the reciprocal direction between the two tasks, which lets each head be
    supervised in the other's space. They are off by default in every stage; their effect has not been measured yet.

    Attributes:
        dice: Dice loss of p and y.
        bce: Binary cross-entropy of p and y.
        absence: log(1 + V / 5 ml) of the predicted volume V where y is empty.
        contrast: NT-Xent loss of the embeddings inside the target and around it.
        sdf: Mean of |d - phi|, see ``distance_error``.
        transform: Dice loss of T(d) and y.
        reciprocal: Mean of |R(p) - phi|, see ``distance_error``.
        agreement: Mean of (T(d) - p)^2.
        consistency: Mean squared difference of p between two views.
        consistency_cosine: 1 - cosine similarity of p between two views.
        sdf_consistency: Mean squared difference of d between two views.
        slice: Binary cross-entropy of the slice logits.
        deep: Dice and cross-entropy of the logits on the coarser grids of the decoder, two thirds of it at 1/2 and one
            third at 1/4 (deep supervision).
        tissue_contrast: Contrast of target, gland, their surroundings and bright tissue (``models.tissue_contrast``).
        union_consistency: Symmetric divergence of p between the random view and its guide, where either sees a target.
        guided_transform: Dice loss of p of the random view and T(d) of its guide.
    """

    dice: float = 1.0
    bce: float = 1.0
    absence: float = 0.0
    contrast: float = 0.0
    sdf: float = 0.0
    transform: float = 0.0
    reciprocal: float = 0.0
    agreement: float = 0.0
    consistency: float = 0.0
    consistency_cosine: float = 0.0
    sdf_consistency: float = 0.0
    slice: float = 0.0
    deep: float = 0.0
    tissue_contrast: float = field(default=0.0, metadata={"added": True})
    union_consistency: float = field(default=0.0, metadata={"added": True})
    guided_transform: float = field(default=0.0, metadata={"added": True})

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the terms whose weight is not 0."""
        return tuple(term.name for term in fields(self) if getattr(self, term.name))


def dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """Compute the soft Dice loss, 1 - (2 sum(p y) + 1e-6) / (sum p + sum y + 1e-6), averaged over the samples.

    Samples whose mask is empty are left out: their loss would be 1 with a gradient that vanishes, except near an empty
    prediction, where it explodes. If all are, the loss is 0.

    Args:
        probability: p in [0, 1], shape (B, 1, D, H, W).
        mask: y, 0 or 1, same shape.
    """
    p, y = probability.flatten(1), mask.flatten(1)
    loss = 1 - (2 * (p * y).sum(1) + 1e-6) / (p.sum(1) + y.sum(1) + 1e-6)
    return mean_of_chosen(loss, (y.sum(1) > 0).float())


def absence_loss(probability: Tensor, mask: Tensor, spacing: Tensor) -> Tensor:
    """Compute log(1 + V / 5 ml), where V is the predicted volume, averaged over the samples whose mask is empty.

    It takes the place of the Dice loss where there is no target. A smoothed Dice loss, V / (V + c), is almost flat at
    the volume of a tumour, so that it would not remove a false one. Without an empty mask it is 0.

    Args:
        probability: p in [0, 1], shape (B, 1, D, H, W).
        mask: y, 0 or 1, same shape.
        spacing: (B, 3), (z, y, x) in mm, on the CPU.
    """
    voxel_ml = (spacing.prod(dim=1) / 1000).to(probability.device, non_blocking=True)
    volume = probability.flatten(1).sum(1) * voxel_ml
    return mean_of_chosen(torch.log1p(volume / ABSENCE_ML), (mask.flatten(1).sum(1) == 0).float())


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Compute the sum of ``dice_loss`` and the binary cross-entropy of logits and a mask, both (B, 1, D, H, W)."""
    return dice_loss(torch.sigmoid(logits), mask) + F.binary_cross_entropy_with_logits(logits, mask)


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """Compute 1 - cosine similarity of the flattened samples, averaged over the batch."""
    return 1 - F.cosine_similarity(first.flatten(1), second.flatten(1), dim=1).mean()


def slice_labels(mask: Tensor) -> Tensor:
    """Label every slice of a mask (B, 1, D, H, W) with 1 if it holds more than 10 target voxels, else 0: (B, D)."""
    return (mask.sum(dim=(1, 3, 4)) > SLICE_MIN_VOXELS).float()


def sum_of(weighted: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """Add up weighted terms, one after the other; 0 without any."""
    return sum(weighted.values(), torch.zeros((), device=device))


def ramp_up(progress: float, length: float) -> float:
    """Compute the factor of a ramped weight, exp(-5 (1 - progress / length)^2), and 1 from ``length`` on.

    Args:
        progress: Completed share of the training, in [0, 1].
        length: Share of the training over which the weight rises; 0 for no ramp.

    References:
        Laine and Aila, Temporal ensembling for semi-supervised learning, ICLR 2017.
    """
    return math.exp(-5 * (1 - progress / length) ** 2) if progress < length else 1.0


class DualTaskLoss:
    """Weighted sum of the loss terms of a stage.

    Args:
        weights: Weight of each term.
        min_cells: Cells of the bottom grid that a slice needs to give an anchor of the contrast.
        ring_mm: Largest width in mm of the ring around the target that gives the negative anchors.
        tau: Truncation distance in mm, the unit of the signed distance.
        ramp: Share of the training over which the weights of the terms in RAMPED rise, and after half of which those in
            DELAYED set in; 0 for neither.
        steepness: k of the transform T at voxels of 0.9 mm, for distances in units of tau.
        regression: What an error of the distance is averaged over, one of REGRESSIONS.

    Attributes:
        memory: Anchors of earlier steps for the contrast of tissues, which every call adds to; None before the first
            one. It is a part of the state of a training.
    """

    def __init__(
        self,
        weights: LossWeights,
        *,
        min_cells: int = 5,
        ring_mm: float = RING_MM,
        tau: float = TAU_MM,
        ramp: float = 1.0,
        steepness: float = STEEPNESS,
        regression: str = "box",
    ) -> None:
        self.weights, self.min_cells, self.ring_mm = weights, min_cells, ring_mm
        self.tau, self.ramp, self.steepness, self.regression = tau, ramp, steepness, regression
        self.memory: Anchors | None = None

    def __call__(
        self,
        output: DualTaskOutput,
        mask: Tensor,
        phi: Tensor | None,
        spacing: Tensor,
        generators: Sequence[Generator],
        progress: float = 1.0,
        cells: TissueCells | None = None,
        guide: DualTaskOutput | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a batch.

        Arguments and errors are those of ``weighted_terms``.

        Returns:
            The loss, a scalar, and its terms as ``weighted_terms`` gives them.
        """
        weighted, terms = self.weighted_terms(output, mask, phi, spacing, generators, progress, cells, guide)
        return sum_of(weighted, mask.device), terms

    def weighted_terms(
        self,
        output: DualTaskOutput,
        mask: Tensor,
        phi: Tensor | None,
        spacing: Tensor,
        generators: Sequence[Generator],
        progress: float = 1.0,
        cells: TissueCells | None = None,
        guide: DualTaskOutput | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute the terms of the loss of a batch.

        Args:
            output: Output of the network for V views of B samples, ordered view after view (V * B rows).
            mask: Binary mask, shape (B, 1, D, H, W).
            phi: Signed distance of the mask, same shape; None if neither ``sdf`` nor ``reciprocal`` is active.
            spacing: Voxel spacing (z, y, x) in mm, shape (B, 3), on the CPU.
            generators: Source of the random draws of the anchors of each sample, on the CPU.
            progress: Completed share of the training, in [0, 1].
            cells: Tissues and centres of the boxes; None if ``tissue_contrast`` is not active.
            guide: Output of a teacher for the first view of the B samples, without gradient, which guides the second
                one; None for that of the network itself. Only terms of GUIDED read it.

        Returns:
            The terms that act by name, times their weights, whose sum is the loss; and every active term, unweighted
            and without gradient. ``contrast`` is accompanied by ``contrast_skipped``, which is 1 if one of the two
            groups had no anchor, else 0; ``tissue_contrast`` by ``tissue_cosine``, the mean cosine similarity of two
            anchors.

        Raises:
            ValueError: If an active term needs a head, a distance or a second view that is missing.
        """
        views = len(output.seg) // len(mask)
        mask = mask.float().repeat(views, 1, 1, 1, 1)
        phi = None if phi is None else phi.repeat(views, 1, 1, 1, 1)
        spacing = spacing.repeat(views, 1)
        terms = self._segmentation_terms(output.seg.float(), mask, spacing, views)
        if output.sdf is not None:
            terms |= self._distance_terms(output.seg, output.sdf, mask, phi, spacing, views)
        if {*GUIDED} & {*self.weights.active}:
            terms |= self._guided_terms(output, guide or without_gradient(output), spacing, views)
        if self.weights.contrast:
            embedding = _required(output.embedding, "contrast", "the head 'embedding'")
            anchors = draw_anchors(embedding, mask, spacing, self.min_cells, [*generators] * views, self.ring_mm)
            positive, negative, drawn = map(rows_of_all, (anchors.positive, anchors.negative, anchors.drawn.T))
            terms["contrast"] = nt_xent(positive, negative, drawn.T)
            terms["contrast_skipped"] = 1 - drawn.any(dim=0).all().float()
        if self.weights.slice:
            logits = _required(output.slice, "slice", "the head 'slice'")
            terms["slice"] = F.binary_cross_entropy_with_logits(logits.float(), slice_labels(mask))
        if self.weights.deep:
            half, quarter = (
                segmentation_loss(logits.float(), F.avg_pool3d(mask, step))
                for logits, step in zip(_required(output.deep, "deep", "the head 'deep'"), (2, 4), strict=True)
            )
            terms["deep"] = (2 * half + quarter) / 3
        if self.weights.tissue_contrast:
            projection = _required(output.projection, "tissue_contrast", "the head 'projection'")
            found = _required(cells, "tissue_contrast", "the tissues of the boxes")
            tissue_anchors = draw_tissue_anchors(projection, found, generators)
            of_all = tissue_anchors.of_all()
            terms["tissue_contrast"] = contrast_tissues(of_all, self.memory)
            terms["tissue_cosine"] = mean_cosine(of_all)
            self.memory = remember(tissue_anchors, self.memory)
        weighted = {}
        for name in self.weights.active:
            rise = ramp_up(progress, self.ramp) if name in RAMPED else 1.0
            term = _required(terms.get(name), name, "the head 'sdf'")
            if name not in DELAYED or progress >= self.ramp / 2:
                weighted[name] = getattr(self.weights, name) * rise * term
        return weighted, {name: term.detach() for name, term in terms.items()}

    def _segmentation_terms(self, logits: Tensor, mask: Tensor, spacing: Tensor, views: int) -> dict[str, Tensor]:
        weights = self.weights
        p = torch.sigmoid(logits)
        terms: dict[str, Tensor] = {}
        if weights.dice:
            terms["dice"] = dice_loss(p, mask)
        if weights.bce:
            terms["bce"] = F.binary_cross_entropy_with_logits(logits, mask)
        if weights.absence:
            terms["absence"] = absence_loss(p, mask, spacing)
        if weights.consistency:
            terms["consistency"] = F.mse_loss(*_two_views(p, views))
        if weights.consistency_cosine:
            terms["consistency_cosine"] = cosine_distance(*_two_views(p, views))
        return terms

    def _guided_terms(
        self, output: DualTaskOutput, guide: DualTaskOutput, spacing: Tensor, views: int
    ) -> dict[str, Tensor]:
        _, logits = _two_views(output.seg.float(), views)
        boxes, terms = len(logits), {}
        if self.weights.union_consistency:
            terms["union_consistency"] = union_divergence(logits, guide.seg[:boxes].float(), spacing[:boxes])
        if self.weights.guided_transform:
            sdf = _required(guide.sdf, "guided_transform", "the head 'sdf'")[:boxes]
            target = distance_to_mask(torch.tanh(sdf.float()), scale_steepness(spacing[:boxes], self.steepness))
            seen = (target.amax((1, 2, 3, 4), keepdim=True) > 0.5).float()  # else the guide sees no target
            terms["guided_transform"] = dice_loss(torch.sigmoid(logits), target * seen)
        return terms

    def _distance_terms(
        self,
        seg: Tensor,
        sdf: Tensor,
        mask: Tensor,
        phi: Tensor | None,
        spacing: Tensor,
        views: int,
    ) -> dict[str, Tensor]:
        weights = self.weights
        d, p = torch.tanh(sdf.float()), torch.sigmoid(seg.float())
        k = scale_steepness(spacing, self.steepness)
        terms: dict[str, Tensor] = {}
        if weights.sdf:
            terms["sdf"] = distance_error(d, _required(phi, "sdf", "the signed distance phi"), self.regression)
        if weights.transform:
            terms["transform"] = dice_loss(distance_to_mask(d, k), mask)
        if weights.reciprocal:
            target = _required(phi, "reciprocal", "the signed distance phi")
            terms["reciprocal"] = distance_error(mask_to_distance(p, spacing, self.tau), target, self.regression)
        if weights.agreement:
            terms["agreement"] = F.mse_loss(distance_to_mask(d, k), p)
        if weights.sdf_consistency:
            terms["sdf_consistency"] = F.mse_loss(*_two_views(d, views))
        return terms


def without_gradient(output: DualTaskOutput) -> DualTaskOutput:
    """Return mask and distance of an output, which further steps take as given."""
    return DualTaskOutput(output.seg.detach(), None if output.sdf is None else output.sdf.detach(), None, None)


def _two_views(x: Tensor, views: int) -> tuple[Tensor, Tensor]:
    """Split (2 B, ...) into its two views of B samples each."""
    if views != 2:
        raise ValueError(f"the consistency terms compare two views; the output holds {views}")
    first, second = x.chunk(2)
    return first, second


def _required(value: T | None, term: str, needed: str) -> T:
    if value is None:
        raise ValueError(f"the loss term {term!r} needs {needed}")
    return value
