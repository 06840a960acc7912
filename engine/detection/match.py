"""Which lesion candidates of a scan hit a lesion of its reference, as PI-CAI defines it.

The lesions of a scan are the 26-connected components of its reference; a scan is positive if it has any. A candidate
can hit a lesion if their intersection over union is at least ``MIN_IOU``. Candidates and lesions are assigned one to
one so that as many as possible are hits, and of these assignments the one with the largest sum of the overlaps counts.
A candidate that overlaps no lesion enough is a false positive; one that overlaps a lesion enough, but is not assigned
to it, counts neither way.

References:
    Saha et al., Lancet Oncology 25, 2024, 879-887; github.com/DIAGNijmegen/picai_eval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from data.scans.boxes import bounding_box
from data.scans.components import label_components
from data.scans.grid import ball_diameter

MIN_IOU = 0.1


@dataclass(frozen=True)
class Lesion:
    """A lesion of a reference.

    Attributes:
        diameter_mm: Diameter of the ball of the same volume.
        confidence: That of the candidate that hits it; 0 if none does.
        iou: Intersection over union with that candidate; 0 if none hits it.
    """

    diameter_mm: float
    confidence: float = 0.0
    iou: float = 0.0


@dataclass(frozen=True)
class ScanDetection:
    """What was detected in a scan.

    Attributes:
        case: Name of the case.
        centre: Its centre.
        patient: The patient, distinguished from those of all other centres.
        score: The tumour score.
        lesions: The lesions of its reference; none if it is negative.
        false_positives: The confidences of the candidates that overlap no lesion enough.
    """

    case: str
    centre: str
    patient: str
    score: float
    lesions: tuple[Lesion, ...]
    false_positives: tuple[float, ...]

    @property
    def hits(self) -> tuple[Lesion, ...]:
        """The lesions that a candidate hits."""
        return tuple(lesion for lesion in self.lesions if lesion.iou > 0)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON can store them."""
        return asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> "ScanDetection":
        """Invert ``to_json``.

        Raises:
            TypeError: If the fields are others.
            KeyError: If a field is missing.
        """
        lesions = tuple(Lesion(**lesion) for lesion in fields["lesions"])
        return ScanDetection(**{**fields, "lesions": lesions, "false_positives": tuple(fields["false_positives"])})


class Hits(NamedTuple):
    """Which candidates of a scan hit which lesions.

    Attributes:
        lesions: The lesions of the reference.
        false_positives: The confidences of the candidates that overlap no lesion enough.
    """

    lesions: tuple[Lesion, ...]
    false_positives: tuple[float, ...]


def match_candidates(
    confidences: Sequence[float], numbers: np.ndarray, reference: np.ndarray, spacing: Sequence[float]
) -> Hits:
    """Assign the candidates of a scan to the lesions of its reference.

    Args:
        confidences: Of the candidates, in the order of their numbers.
        numbers: The number of every voxel's candidate, from 1 on, and 0 elsewhere; shape (D, H, W).
        reference: Mask of the tumours, of the same shape.
        spacing: Voxel spacing (z, y, x) in mm.
    """
    box = bounding_box(reference)
    if box is None:
        return Hits((), tuple(confidences))
    labels, count = label_components(reference[box.slices] != 0)
    wanted = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    # Plane by plane, because np.bincount converts its input to eight bytes per voxel.
    found = np.zeros(len(confidences) + 1, np.int64)
    for plane in numbers:
        found += np.bincount(plane.ravel(), minlength=len(found))
    found = found[1:]
    both = labels.astype(np.int64) * (len(confidences) + 1) + numbers[box.slices]
    common = np.bincount(both.ravel(), minlength=(count + 1) * (len(confidences) + 1))
    common = common.reshape(count + 1, -1)[1:, 1:]  # (lesions, candidates)
    iou = common / np.maximum(1, wanted[:, None] + found - common)
    enough = iou >= MIN_IOU
    # A hit counts more than any overlap, which is at most 1 for each pair.
    pairs = zip(*linear_sum_assignment(np.where(enough, iou + 1, 0), maximize=True), strict=True)
    hit = {int(lesion): int(candidate) for lesion, candidate in pairs if enough[lesion, candidate]}
    diameters = ball_diameter(wanted * float(np.prod(spacing)) / 1000)
    lesions = tuple(
        Lesion(float(diameter), confidences[hit[n]], float(iou[n, hit[n]])) if n in hit else Lesion(float(diameter))
        for n, diameter in enumerate(diameters)
    )
    unjustified = np.flatnonzero(~enough.any(axis=0)).tolist()
    return Hits(lesions, tuple(confidences[n] for n in unjustified))
