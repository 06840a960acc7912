"""Find pairs of thumbnails that show the same scan.

Almost all pairs show two scans, so a pair is ruled out as cheaply as possible. Two scans that cannot be compared, such
as small pieces, need no correlation. For the others, the surroundings of the pancreas are correlated over the region
that both scans reach, which depends on the pair; a lower bound of the norms over this region, from sums over cubes of
cells, rules out nearly all pairs, and only the remaining ones are correlated exactly.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data.duplicates.thumbnail import OUTSIDE, SIDE_CELLS

VERSION = 1  # to be raised whenever other pairs are found among the same thumbnails
IDENTICAL, PROCESSED = "identical voxels", "the same scan"
MIN_WHOLE_CORRELATION, MIN_NEAR_CORRELATION = 0.90, 0.85
# Bodies of the same extent differ by two cells of the reduced scan or by 3 %, whichever is more.
EXTENT_TOLERANCE_MM, EXTENT_TOLERANCE_FRACTION = 10.0, 0.03
MIN_BODY_ML = 2000.0  # less than this of an abdomen does not suffice to distinguish it from another
MIN_SHARED_FRACTION = 0.15  # fraction of the 17 litres around the pancreas that both scans must reach: 2.5 litres
RULES = (
    VERSION,
    MIN_WHOLE_CORRELATION,
    MIN_NEAR_CORRELATION,
    EXTENT_TOLERANCE_MM,
    EXTENT_TOLERANCE_FRACTION,
    MIN_BODY_ML,
    MIN_SHARED_FRACTION,
)

BLOCK_CASES = 512  # cases that are compared with as many others at a time, which takes 270 MB
MIN_SHARED_CELLS = MIN_SHARED_FRACTION * SIDE_CELLS**3
CUBE_CELLS = 4  # along each side of a cube
ROUNDING = 1e-3  # relative error of a sum in float32, generously


class Match(NamedTuple):
    """Two thumbnails, given by their indices, that show the same scan."""

    first: int
    second: int
    kind: str  # IDENTICAL or PROCESSED
    correlation: float


def match_thumbnails(first: np.ndarray, second: np.ndarray | None = None) -> list[Match]:
    """Find all pairs of thumbnails that show the same scan.

    Args:
        first: Records of dtype THUMBNAIL, shape (n,).
        second: Records to compare them with, shape (m,); None compares those of ``first`` with each other.

    Returns:
        The pairs, sorted. Without ``second`` each pair is listed once, the lower index first.
    """
    ours = _cut(first)
    theirs = ours if second is None else _cut(second)
    matches = []
    for row, sketch in enumerate(ours):
        block = _Block(sketch)
        for column in range(row if second is None else 0, len(theirs)):
            other = block if sketch is theirs[column] else _Block(theirs[column])
            for match in _match_blocks(block, other):
                i, j = row * BLOCK_CASES + match.first, column * BLOCK_CASES + match.second
                matches.append(match._replace(first=i, second=j))
    return sorted(matches)


class _Sketch:
    """A block of thumbnails, with the little that rules out most pairs.

    Attributes:
        records: Records of dtype THUMBNAIL, shape (n,).
    """

    def __init__(self, records: np.ndarray) -> None:
        self.records = records

    @functools.cached_property
    def can_share(self) -> np.ndarray:
        """Whether a scan reaches so many cells around the pancreas that another one can share enough, shape (n,)."""
        return (self.records["near"] != OUTSIDE).sum((1, 2, 3)) >= MIN_SHARED_CELLS

    @functools.cached_property
    def cubes(self) -> tuple[np.ndarray, np.ndarray]:
        """Sum of the squared contrasts in each cube around the pancreas, and whether all of it is scanned.

        Both float32, shape (n, cubes).
        """
        n, side = len(self.records), SIDE_CELLS // CUBE_CELLS
        near = self.records["near"].reshape(n, *(side, CUBE_CELLS) * 3)
        scanned = (near != OUTSIDE).all((2, 4, 6))
        squares = np.square(_to_contrasts(near)).sum((2, 4, 6))
        return squares.reshape(n, -1), scanned.reshape(n, -1).astype(np.float32)


class _Block:
    """The contrasts of a block of thumbnails: as much memory as comparing it with others takes."""

    def __init__(self, sketch: _Sketch) -> None:
        self.sketch, self.records = sketch, sketch.records

    @functools.cached_property
    def whole(self) -> np.ndarray:
        """Contrasts of the whole bodies, divided by their norms, shape (n, cells)."""
        contrasts = _to_contrasts(self.records["whole"]).reshape(len(self.records), -1)
        return contrasts / np.maximum(np.linalg.norm(contrasts, axis=1, keepdims=True), 1e-6)

    @functools.cached_property
    def near(self) -> np.ndarray:
        """Contrasts around the pancreas, shape (n, cells)."""
        return _to_contrasts(self.records["near"]).reshape(len(self.records), -1)


def _cut(records: np.ndarray) -> list[_Sketch]:
    return [_Sketch(records[start : start + BLOCK_CASES]) for start in range(0, len(records), BLOCK_CASES)]


def _to_contrasts(cells: np.ndarray) -> np.ndarray:
    """Return the contrasts as float32; 0 outside the scan."""
    return np.where(cells == OUTSIDE, 0, cells).astype(np.float32)


def _match_blocks(first: _Block, second: _Block) -> Iterator[Match]:
    """Find the pairs of two blocks; of a block with itself each pair once."""
    pairs = np.ones((len(first.records), len(second.records)), bool)
    if first is second:
        pairs = np.triu(pairs, 1)
    hashes, other_hashes = (block.records["voxels"].copy().view("V32") for block in (first, second))
    identical = pairs & (hashes == other_hashes.T)
    correlation = np.maximum(_correlate_whole(first, second, pairs), _correlate_near(first, second, pairs))
    for i, j in np.argwhere(identical | (correlation > 0)):
        if identical[i, j]:
            yield Match(int(i), int(j), IDENTICAL, 1.0)
        else:
            yield Match(int(i), int(j), PROCESSED, round(float(correlation[i, j]), 3))


def _correlate_whole(first: _Block, second: _Block, pairs: np.ndarray) -> np.ndarray:
    """Correlate the thumbnails of whole bodies, for those pairs that a mask of shape (n, m) holds.

    Returns:
        Correlations, shape (n, m); 0 below MIN_WHOLE_CORRELATION and where the bodies differ in extent or are too
        small to compare.
    """
    one, other = first.records["extent"][:, None], second.records["extent"][None]
    tolerance = np.maximum(EXTENT_TOLERANCE_MM, EXTENT_TOLERANCE_FRACTION * np.maximum(one, other))
    large = np.maximum(one.prod(-1), other.prod(-1)) / 1000 >= MIN_BODY_ML
    comparable = pairs & large & (np.abs(one - other) <= tolerance).all(-1)
    if not comparable.any():
        return np.zeros(comparable.shape, np.float32)
    correlation = first.whole @ second.whole.T
    return np.where(comparable & (correlation >= MIN_WHOLE_CORRELATION), correlation, 0)


def _correlate_near(first: _Block, second: _Block, pairs: np.ndarray) -> np.ndarray:
    """Correlate the surroundings of the pancreas over the cells that both scans reach, for the pairs of a mask.

    Returns:
        Correlations, shape (n, m); 0 below MIN_NEAR_CORRELATION and where the scans share too few cells.
    """
    correlation = np.zeros((len(first.records), len(second.records)), np.float32)
    possible = pairs & np.outer(first.sketch.can_share, second.sketch.can_share)
    if possible.any():
        # The cubes that are wholly scanned in the other scan are part of what both scans reach.
        (squares, scanned), (other_squares, other_scanned) = first.sketch.cubes, second.sketch.cubes
        least_norm = np.sqrt((squares @ other_scanned.T) * (scanned @ other_squares.T))
        product = first.near @ second.near.T
        possible &= (product > 0) & (product >= (1 - ROUNDING) * MIN_NEAR_CORRELATION * least_norm)
    rows, columns = possible.any(1), possible.any(0)
    if rows.any():
        correlation[np.ix_(rows, columns)] = _correlate_shared(
            first.records["near"][rows], second.records["near"][columns]
        )
    return np.where(possible, correlation, 0)


def _correlate_shared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Do the same, with the exact norms, for all pairs of thumbnails of shape (n, 32, 32, 32) and (m, 32, 32, 32)."""
    (a, in_a), (b, in_b) = (
        (_to_contrasts(cells), (cells != OUTSIDE).astype(np.float32))
        for cells in (first.reshape(len(first), -1), second.reshape(len(second), -1))
    )
    norm = np.sqrt((a * a) @ in_b.T * (in_a @ (b * b).T))
    comparable = in_a @ in_b.T >= MIN_SHARED_CELLS
    correlation = a @ b.T / np.maximum(norm, 1e-6)
    return np.where(comparable & (correlation >= MIN_NEAR_CORRELATION), correlation, 0)
