"""Lesion candidates: where a tumour is suspected, and how strongly.

A region is a 26-connected component of the voxels whose tumour probability is above ``CANDIDATE_THRESHOLD``, which is
much lower than the threshold of the mask: a candidate with a low confidence is listed, too, so that a curve over all
confidences can be drawn. The candidates of a region are the components of its voxels above ``PEAK_SHARE`` of its
highest probability in the pancreas. Without this second threshold, the faint surroundings of a lesion would belong to
its candidate and hide how well it overlaps. Candidates below the volume that counts as a tumour, or outside the
pancreas, are left out.

The confidence of a candidate is the mean of its ``TOP_SHARE`` highest probabilities, which depends less on a single
voxel than the highest one. The tumour score of a scan is the highest confidence of its candidates, and 0 without any.
"""

from typing import NamedTuple

import numpy as np

from data.scans.boxes import Index3D, bounding_box, triple
from data.scans.components import label_components
from engine.infer.components import LEAST_INSIDE
from engine.stages import MIN_TUMOUR_ML

CANDIDATE_THRESHOLD = 0.1
PEAK_SHARE = 0.5
TOP_SHARE = 0.1


class Candidate(NamedTuple):
    """A place where a tumour is suspected.

    Attributes:
        confidence: Mean of its highest probabilities, in (``CANDIDATE_THRESHOLD``, 1].
        volume_ml: Its volume.
        peak: The voxel (z, y, x) of the highest probability, in the array that was searched.
    """

    confidence: float
    volume_ml: float
    peak: Index3D


class Candidates(NamedTuple):
    """All candidates of a scan.

    Attributes:
        found: The candidates, the most suspicious first.
        numbers: The number of every voxel's candidate, from 1 on in the order of ``found``, and 0 elsewhere; shape
            (D, H, W) of the array that was searched.
    """

    found: tuple[Candidate, ...]
    numbers: np.ndarray

    @property
    def score(self) -> float:
        """The tumour score of the scan."""
        return self.found[0].confidence if self.found else 0.0


NO_CANDIDATES = Candidates((), np.zeros((0, 0, 0), np.uint32))


def find_candidates(
    probability: np.ndarray, spacing: tuple[float, float, float], within: np.ndarray | None = None
) -> Candidates:
    """Find the lesion candidates in a box of a scan.

    Args:
        probability: Probability of a tumour, shape (D, H, W).
        spacing: Voxel spacing (z, y, x) in mm.
        within: Boolean mask of the pancreas, of the same shape: components of which less than ``LEAST_INSIDE`` lies
            within it are left out. None if they may lie anywhere.
    """
    suspected = probability > CANDIDATE_THRESHOLD
    numbers = np.zeros(probability.shape, np.uint32)
    box = bounding_box(suspected)
    if box is None:
        return Candidates((), numbers)
    values = probability[box.slices]
    organ = np.ones(values.shape, bool) if within is None else within[box.slices]
    regions, count = label_components(suspected[box.slices])
    peaks = np.zeros(count + 1, np.float32)  # in the pancreas; regions that do not reach it have no candidate
    np.maximum.at(peaks, regions[organ], values[organ])
    levels = np.where(peaks > CANDIDATE_THRESHOLD, np.maximum(CANDIDATE_THRESHOLD, PEAK_SHARE * peaks), np.inf)
    components, count = label_components(values > levels.astype(np.float32)[regions])
    inside = components > 0
    # The voxels of each component one after the other, the most probable first.
    voxels, owner, confident = np.flatnonzero(inside), components[inside], values[inside]
    order = np.lexsort((-confident, owner))
    in_pancreas = organ.ravel()
    ends = np.cumsum(np.bincount(owner, minlength=count + 1)[1:])
    found: list[tuple[Candidate, int]] = []
    for number, part in enumerate(np.split(order, ends[:-1]) if count else (), start=1):
        size_ml = part.size * float(np.prod(spacing)) / 1000
        peak = np.unravel_index(voxels[part[0]], box.shape)
        in_organ = np.count_nonzero(in_pancreas[voxels[part]])
        if size_ml < MIN_TUMOUR_ML or in_organ < LEAST_INSIDE * part.size:
            continue
        top = confident[part[: int(np.ceil(TOP_SHARE * part.size))]]
        place = triple(int(a + i) for a, i in zip(box.start, peak, strict=True))
        found.append((Candidate(float(top.mean(dtype=np.float64)), size_ml, place), number))
    found.sort(key=lambda item: (-item[0].confidence, item[0].peak))
    renumbered = np.zeros(count + 1, np.uint32)
    renumbered[[number for _, number in found]] = np.arange(1, len(found) + 1)
    numbers[box.slices] = renumbered[components]
    return Candidates(tuple(candidate for candidate, _ in found), numbers)


def score_threshold_name(readout: str) -> str:
    """Return the name under which a checkpoint keeps the threshold of the tumour score, beside that of the readout."""
    return f"{readout} score"
