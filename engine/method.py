"""How a stage learns: its loss terms, its views and the transform between its two tasks."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace

from torch import Tensor

from data.common.errors import InputError
from models.losses import RAMPED, LossWeights
from models.signed_distance import STEEPNESS, per_case_distance, signed_distance
from models.views import FAMILIES

DISTANCES = ("truncated_mm", "per_case")
# The terms that each part of the method brings; those of the plain segmentation belong to every variant.
_SEGMENTATION = ("dice", "bce")
METHOD_PARTS = {
    "contrast": ("contrast",),
    "views": ("consistency", "consistency_cosine", "sdf_consistency"),
    "sdf": ("sdf", "transform", "reciprocal", "agreement"),
}
# The head of the network that a term needs.
_HEAD = {"contrast": "embedding", "slice": "slice", "sdf_consistency": "sdf"} | dict.fromkeys(
    METHOD_PARTS["sdf"], "sdf"
)


@dataclass(frozen=True)
class Method:
    """What distinguishes one variant of a stage from another; a checkpoint remembers it. ``help`` is for the user."""

    weights: LossWeights
    views: str = field(
        default="randconv", metadata={"help": "how the views of an image are made", "choices": ("none", *FAMILIES)}
    )
    distance: str = field(
        default="truncated_mm", metadata={"help": "the target of the regression head", "choices": DISTANCES}
    )
    steepness: float = field(
        default=STEEPNESS, metadata={"help": "k of the transform T(d) = sigmoid(-k d); inf cuts off, without gradient"}
    )
    ramp: float = field(
        default=0.5, metadata={"help": "share of the training over which transform and consistency gain their weight"}
    )

    def __post_init__(self) -> None:
        """Raises InputError where two settings contradict each other."""
        if not self.steepness > 0:
            raise InputError(f"--steepness {self.steepness}: must be positive")
        if not 0 <= self.ramp < math.inf:
            raise InputError(f"--ramp {self.ramp}: must be zero or more")
        if not self.weights.active:
            raise InputError("--weight: every loss term is 0, so there is nothing to learn; leave one")
        if self.distance == "per_case" and self.weights.reciprocal:
            raise InputError("--distance per_case: the loss term reciprocal is in mm; add --weight reciprocal=0")
        lonely = [term for term in METHOD_PARTS["views"] if getattr(self.weights, term)]
        if self.views == "none" and lonely:
            raise InputError(f"--views none: the loss term {lonely[0]} compares two views; add --weight {lonely[0]}=0")

    @property
    def heads(self) -> tuple[str, ...]:
        """Those that the network needs: no head is built that no term trains."""
        return ("seg", *sorted({_HEAD[term] for term in self.weights.active if term in _HEAD}))

    @property
    def effective(self) -> "Method":
        """The same with every setting that nothing reads at its default: methods that compute the same are equal."""
        unread = [] if "sdf" in self.heads else ["distance", "steepness"]
        unread += [] if {*RAMPED} & {*self.weights.active} else ["ramp"]
        return replace(self, **{f.name: f.default for f in fields(Method) if f.name in unread})

    def distance_target(self, mask: Tensor, spacing: Tensor) -> Tensor | None:
        """What the regression head is to say: (B, 1, D, H, W) of ``mask`` likewise and (B, 3) mm; None without it."""
        if "sdf" not in self.heads:
            return None
        return per_case_distance(mask) if self.distance == "per_case" else signed_distance(mask, spacing)

    def only(self, *parts: str) -> "Method":
        """Plain segmentation with these of the METHOD_PARTS as this method has them."""
        terms = {*_SEGMENTATION, *(term for part in parts for term in METHOD_PARTS[part])}
        if "sdf" not in parts:
            terms -= {"sdf_consistency"}
        kept = {f.name: getattr(self.weights, f.name) if f.name in terms else 0.0 for f in fields(LossWeights)}
        return replace(self, weights=LossWeights(**kept), views=self.views if "views" in parts else "none")

    def changed(self, weights: Sequence[str], **settings: str | float) -> "Method":
        """With single weights, ``["sdf=0.5", "contrast=0"]``, and other settings changed.

        Raises InputError for an unknown term, a weight that is no number >= 0, or settings that contradict each other.
        """
        known = {f.name for f in fields(LossWeights)}
        numbers = {}
        for change in weights:
            name, _, value = change.partition("=")
            try:
                numbers[name] = float(value)
            except ValueError:
                numbers[name] = -1.0
            if name not in known or not 0 <= numbers[name] < math.inf:
                raise InputError(f"--weight {change}: write TERM=NUMBER with a TERM of {', '.join(sorted(known))}")
        return replace(self, weights=replace(self.weights, **numbers), **settings)

    def to_record(self) -> dict:
        """As plain values, for a checkpoint."""
        return asdict(self)

    @staticmethod
    def from_record(record: dict) -> "Method":
        return Method(**{**record, "weights": LossWeights(**record["weights"])})
