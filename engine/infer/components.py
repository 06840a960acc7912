"""Which components of a mask are kept."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import sparse

from data.common.memory import zeros
from data.scans.boxes import bounding_box
from data.scans.components import label_components
from engine.infer.grid import slabs

LEAST_INSIDE = 0.1  # share of a component that has to lie within the organ; one that grazes it belongs to a neighbour


class _Slab(NamedTuple):
    """The 26-connected components of some planes of a mask.

    Attributes:
        planes: The planes.
        labels: Number of every voxel's component in this slab, from 1 on; 0 is background. Shape (planes, H, W).
        parts: Number of components.
        before: Number of components in the slabs below.
    """

    planes: slice
    labels: np.ndarray
    parts: int
    before: int


def keep_components(
    mask: np.ndarray,
    within: np.ndarray | None = None,
    *,
    share: float = 0.5,
    inside: float = LEAST_INSIDE,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Keep the 26-connected components of a mask that are larger than a share of its largest component.

    Args:
        mask: Boolean mask, shape (D, H, W).
        within: Boolean mask of the organ to which the components belong, of the same shape. Those of which less than
            ``inside`` lies within it do not count: a tumour of the pancreas is not in the kidney. None if they may lie
            anywhere.
        share: Share of the volume of the largest component that counts.
        inside: Share of a component that has to lie within the organ.
        out: Boolean array of zeros for the result, or the mask itself; None for a new one.

    Returns:
        Boolean mask of the same shape.
    """
    box = bounding_box(mask)
    if box is None:
        return mask.astype(bool) if out is None else out
    crop, organ = mask[box.slices], None if within is None else within[box.slices]
    kept = zeros(mask.shape, bool) if out is None else out
    sizes, parts_inside, neighbours, below = [], [], [np.zeros((0, 2), np.int64)], None
    for slab in _label_in_slabs(crop):
        sizes.append(np.bincount(slab.labels.ravel(), minlength=slab.parts + 1)[1:])
        if organ is not None:
            parts_inside.append(np.bincount(slab.labels[organ[slab.planes]], minlength=slab.parts + 1)[1:])
        if below is not None:
            neighbours.append(_touching(below, slab))
        below = slab._replace(labels=slab.labels[-1:].copy())
    pairs, parts = np.concatenate(neighbours), sum(map(len, sizes))
    links = sparse.coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(parts, parts))
    _, whole = sparse.csgraph.connected_components(links, directed=False)
    totals = np.bincount(whole, weights=np.concatenate(sizes))
    if organ is not None:
        totals[np.bincount(whole, weights=np.concatenate(parts_inside)) < inside * totals] = 0
    large = (totals > share * totals.max())[whole]
    for slab in _label_in_slabs(crop):  # labelled anew, as the labels of a large scan would need 4 GB
        is_kept = np.concatenate([[False], large[slab.before : slab.before + slab.parts]])
        kept[box.slices][slab.planes] = is_kept[slab.labels]
    return kept


def _label_in_slabs(mask: np.ndarray) -> Iterator[_Slab]:
    depth, height, width = mask.shape
    before = 0
    for planes in slabs(depth, height * width):
        labels, count = label_components(mask[planes])
        yield _Slab(planes, labels, count, before)
        before += count


def _touching(below: _Slab, above: _Slab) -> np.ndarray:
    """Return the pairs of components, shape (N, 2), that neighbour each other in two slabs, diagonally too.

    Components are numbered over all slabs, from 0 on.
    """
    first, second = below.labels[-1].astype(np.int64), above.labels[0].astype(np.int64)
    padded = np.pad(first, 1)
    height, width = second.shape
    shifted = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    # Both numbers in one, because numpy sorts pairs many times more slowly.
    pairs = [(plane * (above.parts + 1) + second)[(plane > 0) & (second > 0)] for plane in shifted]
    both = np.divmod(np.unique(np.concatenate(pairs)), above.parts + 1)
    return np.stack(both, axis=1) - 1 + [below.before, above.before]
