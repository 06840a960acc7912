"""The fast comparison of thumbnails finds the pairs that a plain one finds, whatever region the scans share."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.duplicates import match
from data.duplicates.match import IDENTICAL, MIN_NEAR_CORRELATION, PROCESSED, match_thumbnails
from data.duplicates.thumbnail import OUTSIDE, SIDE_CELLS, THUMBNAIL

SHAPE = (SIDE_CELLS,) * 3


def draw_thumbnail(scan: int, noise: float, extent: float, box: tuple[int, int, int, int]) -> np.ndarray:
    """Return a thumbnail of one of a few scans, with noise, of which a box of the surroundings is scanned."""
    contrasts = np.random.default_rng(scan).normal(0, 20, SHAPE)
    made = np.random.default_rng(hash((scan, noise, extent, box)) % 2**32).normal(0, 20, SHAPE)
    record = np.zeros((), THUMBNAIL)
    record["voxels"] = (
        scan if not noise else np.random.default_rng(hash((scan, noise, box)) % 2**32).integers(9, 255, 32)
    )
    record["extent"] = extent
    record["whole"] = record["near"] = np.clip(contrasts + noise * made, -127, 127)
    scanned = np.zeros(SHAPE, bool)
    scanned[box[0] : box[1], box[2] : box[3]] = True
    record["near"] = np.where(scanned, record["near"], OUTSIDE)
    return record


def correlate(a: np.ndarray, b: np.ndarray) -> float:
    norm = np.sqrt((a**2).sum() * (b**2).sum())
    return (a * b).sum() / norm if norm else 0.0


def compare_plainly(one: np.ndarray, other: np.ndarray) -> str | None:
    """Compare two thumbnails as the definition says, one cell at a time in double precision."""
    if (one["voxels"] == other["voxels"]).all():
        return IDENTICAL
    extents = one["extent"].astype(float), other["extent"].astype(float)
    tolerance = np.maximum(match.EXTENT_TOLERANCE_MM, match.EXTENT_TOLERANCE_FRACTION * np.maximum(*extents))
    alike = (abs(extents[0] - extents[1]) <= tolerance).all()
    large = max(extent.prod() / 1000 for extent in extents) >= match.MIN_BODY_ML
    whole = correlate(one["whole"].astype(float), other["whole"].astype(float))
    shared = (one["near"] != OUTSIDE) & (other["near"] != OUTSIDE)
    near = correlate(one["near"][shared].astype(float), other["near"][shared].astype(float))
    enough = shared.mean() >= match.MIN_SHARED_FRACTION
    is_same = (alike and large and whole >= match.MIN_WHOLE_CORRELATION) or (enough and near >= MIN_NEAR_CORRELATION)
    return PROCESSED if is_same else None


SIDES = st.tuples(st.integers(0, 15), st.integers(16, SIDE_CELLS))
THUMBNAILS = st.builds(
    draw_thumbnail,
    st.integers(0, 2),
    st.sampled_from([0.0, 0.2, 0.35, 0.5, 0.7, 1.0]),
    st.sampled_from([100.0, 124.0, 128.0, 136.0, 300.0]),  # sides of 100 mm make a body of one litre
    st.tuples(SIDES, SIDES).map(lambda sides: (*sides[0], *sides[1])),
)


@settings(max_examples=60)
@given(thumbnails=st.lists(THUMBNAILS, max_size=7), split=st.integers(0, 7))
def test_the_pairs_are_those_of_a_plain_comparison(thumbnails, split):
    records = np.array(thumbnails, THUMBNAIL)
    expected = {
        (i, j): kind
        for j in range(len(records))
        for i in range(j)
        if (kind := compare_plainly(records[i], records[j])) is not None
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(match, "BLOCK_CASES", 3)
        found = match_thumbnails(records)
        across = match_thumbnails(records[:split], records[split:])
    assert {(i, j): kind for i, j, kind, _ in found} == expected and len(found) == len(expected)
    between = {(i, j - split): kind for (i, j), kind in expected.items() if i < split <= j}
    assert {(i, j): kind for i, j, kind, _ in across} == between


def test_a_cropped_scan_is_found_where_the_bound_of_its_norm_is_weak():
    """No cube is wholly scanned in both, so the bound rules out nothing and the exact correlation decides."""
    one, other = (draw_thumbnail(0, noise, 100.0, (1, 31, 0, 32)) for noise in (0.2, 0.25))
    for record, start in ((one, 0), (other, 2)):
        record["near"][start::4] = OUTSIDE
    assert [found.kind for found in match_thumbnails(np.array([one, other], THUMBNAIL))] == [PROCESSED]


def test_scans_that_cannot_be_compared_are_not_correlated(monkeypatch):
    def refuse(cells: np.ndarray) -> np.ndarray:
        raise AssertionError("correlated")

    monkeypatch.setattr(match, "_to_contrasts", refuse)
    pieces = [draw_thumbnail(scan, 0.2, 100.0, (0, 4, 0, 32)) for scan in range(3)]  # an eighth of the surroundings
    assert match_thumbnails(np.array(pieces, THUMBNAIL)) == []
