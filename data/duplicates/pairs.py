"""Find cases that show the same scan, within a centre and across centres.

Public sets are nested: PANORAMA contains studies of MSD and NIH, and PanTS was built from both. A model may therefore
have been trained on the scans of a held-out centre under other names. Two cases count as the same scan if

- their voxels are identical, which a hash tells; or
- their bodies have the same extent in mm and the thumbnails of the whole body correlate; or
- the thumbnails of the surroundings of the pancreas correlate over the region that both scans reach. This also finds
  a cropped scan, provided that the two label maps agree on the centre of the pancreas to about 5 mm.

Stored cases are cropped, so even a scan and its own prepared case differ voxel by voxel; PROCESSED covers that.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.cases.case import Case
from data.duplicates.thumbnail import OUTSIDE, load_thumbnails

IDENTICAL, PROCESSED = "identical voxels", "the same scan"
MIN_WHOLE_CORRELATION, MIN_NEAR_CORRELATION = 0.90, 0.85
# Bodies of the same extent differ by two cells of the reduced scan or by 3 %, whichever is more.
EXTENT_TOLERANCE_MM, EXTENT_TOLERANCE_FRACTION = 10.0, 0.03
MIN_BODY_ML = 2000.0  # less than this of an abdomen does not suffice to distinguish it from another
MIN_SHARED_FRACTION = 0.15  # fraction of the 17 litres around the pancreas that both scans must reach: 2.5 litres
BLOCK_CASES = 256  # cases that are compared at a time


@dataclass(frozen=True)
class Duplicate:
    """Two cases, given by their keys, that show the same scan."""

    first: str
    second: str
    kind: str  # IDENTICAL or PROCESSED
    correlation: float  # of their thumbnails


class Match(NamedTuple):
    """Two thumbnails, given by their indices, that show the same scan."""

    first: int
    second: int
    kind: str  # IDENTICAL or PROCESSED
    correlation: float


def find_duplicates(cases: Iterable[Case], *, save: bool = True) -> list[Duplicate]:
    """Find all pairs of cases that show the same scan.

    Args:
        cases: The cases to compare with each other.
        save: Whether thumbnails that have to be made are kept in the store.

    Returns:
        The pairs, in the order of the cases.

    Raises:
        InputError: If a case is damaged.
    """
    cases = list(cases)
    matches = match_thumbnails(load_thumbnails(cases, save=save))
    return [Duplicate(cases[m.first].key, cases[m.second].key, m.kind, m.correlation) for m in matches]


def match_thumbnails(first: np.ndarray, second: np.ndarray | None = None) -> list[Match]:
    """Find all pairs of thumbnails that show the same scan.

    Args:
        first: Records of dtype THUMBNAIL, shape (n,).
        second: Records to compare them with, shape (m,); None compares those of ``first`` with each other.

    Returns:
        The pairs, sorted. Without ``second`` each pair is listed once, the lower index first.
    """
    within = second is None
    others = first if second is None else second
    matches = []
    for top in range(0, len(first), BLOCK_CASES):
        for left in range(top if within else 0, len(others), BLOCK_CASES):
            for match in _match_block(first[top : top + BLOCK_CASES], others[left : left + BLOCK_CASES]):
                i, j = top + match.first, left + match.second
                if i < j or not within:
                    matches.append(Match(i, j, match.kind, match.correlation))
    return sorted(matches)


def _match_block(first: np.ndarray, second: np.ndarray) -> Iterator[Match]:
    identical = first["voxels"].copy().view("V32") == second["voxels"].copy().view("V32").T
    correlation = np.maximum(_correlate_whole(first, second), _correlate_near(first, second))
    for i, j in np.argwhere(identical | (correlation > 0)):
        if identical[i, j]:
            yield Match(int(i), int(j), IDENTICAL, 1.0)
        else:
            yield Match(int(i), int(j), PROCESSED, round(float(correlation[i, j]), 3))


def _correlate_whole(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlate the thumbnails of whole bodies.

    Returns:
        Correlations, shape (n, m); 0 below MIN_WHOLE_CORRELATION and where the bodies differ in extent or are too
        small to compare.
    """
    a, b = (_to_contrasts(side["whole"])[0] for side in (first, second))
    norm = np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    one, other = first["extent"][:, None], second["extent"][None]
    tolerance = np.maximum(EXTENT_TOLERANCE_MM, EXTENT_TOLERANCE_FRACTION * np.maximum(one, other))
    comparable = (np.abs(one - other) <= tolerance).all(-1) & (one.prod(-1) / 1000 >= MIN_BODY_ML)
    correlation = a @ b.T / np.maximum(norm, 1e-6)
    return np.where(comparable & (correlation >= MIN_WHOLE_CORRELATION), correlation, 0)


def _correlate_near(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlate the thumbnails of the surroundings of the pancreas over the cells that both scans reach.

    Returns:
        Correlations, shape (n, m); 0 below MIN_NEAR_CORRELATION and where the scans share too few cells.
    """
    (a, in_a), (b, in_b) = (_to_contrasts(side["near"]) for side in (first, second))
    norm = np.sqrt((a * a) @ in_b.T * (in_a @ (b * b).T))
    comparable = in_a @ in_b.T >= MIN_SHARED_FRACTION * a.shape[1]
    correlation = a @ b.T / np.maximum(norm, 1e-6)
    return np.where(comparable & (correlation >= MIN_NEAR_CORRELATION), correlation, 0)


def _to_contrasts(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the contrasts, 0 outside the scan, and a mask of the cells inside it, each float32 (n, 32768)."""
    flat = thumbnails.reshape(len(thumbnails), -1)
    inside = flat != OUTSIDE
    return np.where(inside, flat, 0).astype(np.float32), inside.astype(np.float32)
