"""How a stage learns: its loss terms, its views and the transform between its two tasks."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from torch import Tensor

from data.common.errors import InputError
from data.common.settings import change_settings
from models.contrast import RING_MM
from models.dual_task_net import HEAD_INPUTS
from models.local_errors import REGRESSIONS
from models.losses import DELAYED, GUIDED, RAMPED, DualTaskLoss, LossWeights
from models.signed_distance import STEEPNESS, TAU_MM, per_case_distance, signed_distance
from models.views import FAMILIES, SINGLE

DISTANCES = ("truncated_mm", "per_case")
# The loss terms that each part of the method brings. Those of plain segmentation belong to every variant.
_SEGMENTATION = ("dice", "bce", "absence")
METHOD_PARTS = {
    "contrast": ("contrast", "tissue_contrast"),
    "views": ("consistency", "consistency_cosine", "sdf_consistency", "union_consistency", "guided_transform"),
    "sdf": ("sdf", "transform", "reciprocal", "agreement"),
}
_SDF_TERMS = dict.fromkeys(METHOD_PARTS["sdf"], "sdf")
_HEAD_OF_TERM = {
    "contrast": "embedding",
    "tissue_contrast": "projection",
    "slice": "slice",
    "deep": "deep",
    "sdf_consistency": "sdf",
    "guided_transform": "sdf",
} | _SDF_TERMS


@dataclass(frozen=True)
class Method:
    """What distinguishes one variant of a stage from another. A checkpoint keeps it.

    Raises:
        InputError: If two settings contradict each other.
    """

    weights: LossWeights
    views: str = field(
        default="randconv",
        metadata={
            "help": "how the two views of an image are made; none: the image only; twice: the image only, but of every "
            "box in two augmentations, for a comparison at equal cost",
            "choices": (*SINGLE, *FAMILIES),
        },
    )
    distance: str = field(
        default="truncated_mm", metadata={"help": "target of the distance head", "choices": DISTANCES}
    )
    steepness: float = field(
        default=STEEPNESS,
        metadata={
            "help": "k of the transform T(d) = sigmoid(-k d) at a tau of 10 mm; inf thresholds d and passes no gradient"
        },
    )
    ramp: float = field(
        default=0.5,
        metadata={
            "help": "share of the training over which agreement and the consistency terms gain their weight; the terms "
            "of the distance head set in after half of it"
        },
    )
    min_anchor_cells: int = field(
        default=5, metadata={"help": "cells of the 1/8 grid that a slice needs to provide an anchor of the contrast"}
    )
    ring_mm: float = field(
        default=RING_MM,
        metadata={"help": "largest width in mm of the ring around the target from which the contrast draws anchors"},
    )

    head_input: str = field(
        default="normalised",
        metadata={
            "help": "what the heads of mask and distance read: normalised features, or raw ones as published",
            "choices": HEAD_INPUTS,
        },
    )
    tau_mm: float = field(
        default=TAU_MM,
        metadata={"added": True, "help": "distance in mm at which the target of the distance head is truncated"},
    )
    regression: str = field(
        default="box",
        metadata={
            "added": True,
            "help": "what the errors of the distance are averaged over: the whole box, or the band within tau of the "
            "boundary, with a tenth of the rest",
            "choices": REGRESSIONS,
        },
    )

    def __post_init__(self) -> None:
        if not self.steepness > 0:
            raise InputError(f"--steepness {self.steepness}", "not a positive number", "give a number above 0, or inf")
        if not 0 <= self.ramp < math.inf:
            raise InputError(f"--ramp {self.ramp}", "not a share of the training", "give zero or more")
        if self.min_anchor_cells < 1:
            raise InputError(f"--min-anchor-cells {self.min_anchor_cells}", "too few", "give 1 or more")
        if not 0 < self.ring_mm < math.inf:
            raise InputError(f"--ring-mm {self.ring_mm}", "not a positive number", "give a width in mm")
        if not 0 < self.tau_mm < math.inf:
            raise InputError(f"--tau-mm {self.tau_mm}", "not a positive number", "give a distance in mm")
        if self.distance == "per_case" and self.regression == "band":
            problem = "has no truncation, and so no band"
            raise InputError("--distance per_case", problem, "use it with --regression box")
        for f in fields(self.weights):
            weight = getattr(self.weights, f.name)
            if not 0 <= weight < math.inf:
                raise InputError(f"--weight {f.name}={weight:g}", "not a weight", "give zero or more")
        if not self.weights.active:
            raise InputError("--weight", "every loss term is 0, so there is nothing to learn", "leave at least one")
        if self.distance == "per_case" and self.weights.reciprocal:
            raise InputError("--distance per_case", "the loss term reciprocal is in mm", "add --weight reciprocal=0")
        two_views = [term for term in METHOD_PARTS["views"] if getattr(self.weights, term)]
        if self.views in SINGLE and two_views:
            problem = f"the loss term {two_views[0]} compares two views"
            raise InputError(f"--views {self.views}", problem, f"add --weight {two_views[0]}=0")
        guided = [term for term in GUIDED if getattr(self.weights, term)]
        if guided and not FAMILIES[self.views].plain:
            problem = f"the loss term {guided[0]} is guided by the plain image, which is none of its views"
            raise InputError(f"--views {self.views}", problem, f"add --weight {guided[0]}=0")

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that the network needs; heads without a loss term are not built."""
        return ("seg", *sorted({_HEAD_OF_TERM[term] for term in self.weights.active if term in _HEAD_OF_TERM}))

    def unread_heads(self, terms: Collection[str]) -> set[str]:
        """Return the heads besides "seg" that none of these loss terms reads."""
        return {*self.heads} - {"seg", *(_HEAD_OF_TERM.get(term) for term in terms)}

    @property
    def effective(self) -> "Method":
        """The same method with unused settings at their defaults, so that methods that compute the same are equal."""
        unread = [] if "sdf" in self.heads else ["distance", "steepness"]
        unread += [] if "sdf" in self.heads and self.distance != "per_case" else ["tau_mm"]
        unread += [] if self.weights.sdf or self.weights.reciprocal else ["regression"]
        unread += [] if {*RAMPED, *DELAYED} & {*self.weights.active} else ["ramp"]
        unread += [] if self.weights.contrast else ["min_anchor_cells"]
        unread += [] if self.weights.contrast or self.weights.tissue_contrast else ["ring_mm"]
        defaults: dict[str, Any] = {f.name: f.default for f in fields(Method) if f.name in unread}
        return replace(self, **defaults)

    @property
    def needs_pancreas(self) -> bool:
        """Whether a step has to know the pancreas besides its target."""
        return self.weights.tissue_contrast > 0 or (self.views not in SINGLE and FAMILIES[self.views].reads_masks)

    @property
    def copies(self) -> int:
        """In how many augmentations a step sees every box."""
        return 2 if self.views == "twice" else 1

    @property
    def images(self) -> int:
        """How many images of each box the network sees in a step."""
        return self.copies if self.views in SINGLE else 2

    @property
    def is_guided(self) -> bool:
        """Whether a step compares the random view with the plain one as a guide."""
        return bool({*GUIDED} & {*self.weights.active})

    @property
    def scaled_steepness(self) -> float:
        """The k of T at voxels of 0.9 mm for distances in units of ``tau_mm``, so that T is as steep in mm."""
        return self.steepness * self.tau_mm / TAU_MM

    def distance_target(self, mask: Tensor, spacing: Tensor) -> Tensor | None:
        """Return the target of the distance head, or None for a method without that head.

        Args:
            mask: Binary mask, (B, 1, D, H, W).
            spacing: (B, 3), (z, y, x) in mm.

        Returns:
            Signed distance in [-1, 1], (B, 1, D, H, W).
        """
        if "sdf" not in self.heads:
            return None
        return per_case_distance(mask) if self.distance == "per_case" else signed_distance(mask, spacing, self.tau_mm)

    def build_loss(self) -> DualTaskLoss:
        """Build the loss."""
        return DualTaskLoss(
            self.weights,
            min_cells=self.min_anchor_cells,
            ring_mm=self.ring_mm,
            tau=self.tau_mm,
            ramp=self.ramp,
            steepness=self.scaled_steepness,
            regression=self.regression,
        )

    def only(self, *parts: str) -> "Method":
        """Return plain segmentation with these of the METHOD_PARTS, weighted as in this method."""
        terms = {*_SEGMENTATION, *(term for part in parts for term in METHOD_PARTS[part])}
        if "sdf" not in parts:
            terms -= {"sdf_consistency", "guided_transform"}
        weights = {f.name: getattr(self.weights, f.name) if f.name in terms else 0.0 for f in fields(LossWeights)}
        return replace(self, weights=LossWeights(**weights), views=self.views if "views" in parts else "none")

    def without(self, part: str) -> "Method":
        """Return the method without one of the METHOD_PARTS, at the same cost: for two views, two augmentations."""
        left_out = METHOD_PARTS[part]
        if part == "sdf":
            left_out += tuple(term for term in self.weights.active if _HEAD_OF_TERM.get(term) == "sdf")
        weights = replace(self.weights, **dict.fromkeys(left_out, 0.0))
        return replace(self, weights=weights, views="twice" if part == "views" else self.views)

    def changed(self, weights: Sequence[str], settings: Mapping[str, Any] | None = None) -> "Method":
        """Return the method with single weights changed, such as ``["sdf=0.5"]``, and with other settings by name.

        Raises:
            InputError: If a term is unknown, a weight is not a number, or the settings contradict each other.
        """
        return replace(self, weights=change_settings(self.weights, weights, "--weight"), **(settings or {}))

    def to_record(self) -> dict[str, Any]:
        """Return the method as plain values; ``data.common.settings.from_record`` reads them back."""
        return asdict(self)
