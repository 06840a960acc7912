"""Each term of the loss as a pure function, and DualTaskLoss, which weighs them and names each."""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from models.contrast import draw_anchors, nt_xent
from models.dual_task_net import DualTaskOutput
from models.signed_distance import STEEPNESS, TAU_MM, distance_to_mask, mask_to_distance, steepness_on

SLICE_MIN_VOXELS = 10  # a slice is positive when it holds more target voxels than this
# Terms that do harm at full weight from the first step. Views that agree on nothing agree. T of a distance that is not
# learned yet is saturated: its slope is nil nearly everywhere and steep where it happens to cross zero.
RAMPED = ("transform", "consistency", "consistency_cosine", "sdf_consistency", "agreement")


@dataclass(frozen=True)
class LossWeights:
    """The weight of each term; a term of weight 0 is not computed.

    dice, bce: p against y. contrast: NT-Xent of the embeddings. sdf: |d - phi|. transform: Dice of T(d) against y.
    reciprocal: |R(p) - phi|. agreement: (T(d) - p)^2. consistency: MSE of p between two views.
    consistency_cosine: 1 - cosine of p between two views. sdf_consistency: MSE of d between two views.
    slice: BCE of the slice logits.
    """

    dice: float = 1.0
    bce: float = 1.0
    contrast: float = 0.0
    sdf: float = 0.0
    transform: float = 0.0
    reciprocal: float = 0.0
    agreement: float = 0.0
    consistency: float = 0.0
    consistency_cosine: float = 0.0
    sdf_consistency: float = 0.0
    slice: float = 0.0

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the terms that are computed."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name))


def dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """1 - mean over the batch of (2 sum(p y) + 1e-6) / (sum p + sum y + 1e-6); both (B, 1, D, H, W)."""
    p, y = probability.flatten(1), mask.flatten(1)
    return 1 - ((2 * (p * y).sum(1) + 1e-6) / (p.sum(1) + y.sum(1) + 1e-6)).mean()


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """1 - cosine similarity of the flattened samples, mean over the batch."""
    return 1 - F.cosine_similarity(first.flatten(1), second.flatten(1), dim=1).mean()


def slice_labels(mask: Tensor) -> Tensor:
    """(B, 1, D, H, W) -> (B, D): 1 where a slice holds more than 10 target voxels."""
    return (mask.sum(dim=(1, 3, 4)) > SLICE_MIN_VOXELS).float()


def ramp_up(progress: float, length: float) -> float:
    """exp(-5 (1 - t)^2) with t = progress / length, 1 from ``length`` on (Laine and Aila, ICLR 2017)."""
    return math.exp(-5 * (1 - progress / length) ** 2) if progress < length else 1.0


class DualTaskLoss:
    """The weighed sum of the terms of a stage.

    The weight of the terms in RAMPED rises over the training.

    Args:
        weights: which terms, how much.
        min_cells: cells a bottom slice needs to give an anchor.
        tau: mm, unit of the signed distance.
        ramp: share of the training over which the weight of the RAMPED terms rises; 0 for none.
        steepness: k of the transform T for voxels of 0.9 mm.
    """

    def __init__(
        self,
        weights: LossWeights,
        *,
        min_cells: int = 5,
        tau: float = TAU_MM,
        ramp: float = 1.0,
        steepness: float = STEEPNESS,
    ):
        self.weights, self.min_cells, self.tau, self.ramp, self.steepness = weights, min_cells, tau, ramp, steepness

    def __call__(
        self,
        output: DualTaskOutput,
        mask: Tensor,
        phi: Tensor | None,
        spacing: Tensor,
        generator: Generator,
        progress: float = 1.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and each unweighted term by name.

        Args:
            output: of V views of B samples, view after view, V * B in all.
            mask: (B, 1, D, H, W) binary. phi: its signed distance, same shape; None where no term needs it.
            spacing: (B, 3) mm of the tensors.
            generator: on the CPU, draws the anchors.
            progress: share of the training that is done, in [0, 1].

        The terms hold ``contrast_skipped`` (0 or 1) beside ``contrast``.
        """
        views = len(output.seg) // len(mask)
        mask = mask.float().repeat(views, 1, 1, 1, 1)
        phi = None if phi is None else phi.repeat(views, 1, 1, 1, 1)
        terms: dict[str, Tensor] = {}
        terms |= self._segmentation_terms(output.seg.float(), mask, views)
        if output.sdf is not None:
            terms |= self._distance_terms(output, mask, phi, spacing.repeat(views, 1), views)
        if self.weights.contrast:
            terms |= self._contrast_terms(output.embedding, mask, generator)
        if self.weights.slice:
            terms["slice"] = F.binary_cross_entropy_with_logits(output.slice.float(), slice_labels(mask))
        total = sum(self._weight(name, progress) * terms[name] for name in self.weights.active if name in terms)
        return total, {name: term.detach() for name, term in terms.items()}

    def _weight(self, name: str, progress: float) -> float:
        rise = ramp_up(progress, self.ramp) if name in RAMPED else 1.0
        return getattr(self.weights, name) * rise

    def _segmentation_terms(self, logits: Tensor, mask: Tensor, views: int) -> dict[str, Tensor]:
        p = torch.sigmoid(logits)
        compute = {
            "dice": lambda: dice_loss(p, mask),
            "bce": lambda: F.binary_cross_entropy_with_logits(logits, mask),
            "consistency": lambda: F.mse_loss(*p.chunk(views)),
            "consistency_cosine": lambda: cosine_distance(*p.chunk(views)),
        }
        return self._compute(compute)

    def _distance_terms(
        self, output: DualTaskOutput, mask: Tensor, phi: Tensor, spacing: Tensor, views: int
    ) -> dict[str, Tensor]:
        d = torch.tanh(output.sdf.float())
        p = torch.sigmoid(output.seg.float())
        k = steepness_on(spacing, self.steepness)
        compute = {
            "sdf": lambda: F.l1_loss(d, phi),
            "transform": lambda: dice_loss(distance_to_mask(d, k), mask),
            "reciprocal": lambda: F.l1_loss(mask_to_distance(p, spacing, self.tau), phi),
            "agreement": lambda: F.mse_loss(distance_to_mask(d, k), p),
            "sdf_consistency": lambda: F.mse_loss(*d.chunk(views)),
        }
        return self._compute(compute)

    def _contrast_terms(self, embedding: Tensor, mask: Tensor, generator: Generator) -> dict[str, Tensor]:
        anchors = draw_anchors(embedding, mask, self.min_cells, generator)
        skipped = len(anchors.positive) == 0 or len(anchors.negative) == 0
        loss = embedding.sum() * 0 if skipped else nt_xent(*anchors)
        return {"contrast": loss, "contrast_skipped": torch.tensor(float(skipped))}

    def _compute(self, terms: dict) -> dict[str, Tensor]:
        return {name: term() for name, term in terms.items() if getattr(self.weights, name)}
