import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.morphology import skeletonize
from torch import Generator

from models.contrast import Anchors, draw_anchors, nt_xent, ridge
from tests.models.shapes import ball

EIGHT_NEIGHBOURS = np.ones((3, 3))

MM = torch.full((1, 3), 0.8)


def blob_of_cells(seed: int) -> np.ndarray | None:
    """The largest component of thresholded smooth noise on a grid as small as the bottom grid; None below 5 cells."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(rng.integers((2, 3, 3), (8, 13, 13))), rng.uniform(0.5, 2))
    components, count = ndimage.label(smooth > np.quantile(smooth, rng.uniform(0.1, 0.9)), np.ones((3, 3, 3)))
    if count == 0:
        return None
    blob = components == 1 + np.argmax(np.bincount(components.ravel())[1:])
    return blob if np.count_nonzero(blob) >= 5 else None


def ridge_of(region: np.ndarray) -> np.ndarray:
    return ridge(torch.from_numpy(region)).numpy()


def chessboard_depth(plane: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_cdt(np.pad(plane, 1), "chessboard")[1:-1, 1:-1]


def filled_slices(region: np.ndarray) -> np.ndarray:
    return region.any(axis=(1, 2))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_ridge_is_the_medial_axis_of_every_slice(seed):
    """Scipy's chessboard distance is the oracle of the depth; the squares around the ridge give the region back."""
    blob = blob_of_cells(seed)
    assume(blob is not None)
    for plane, found in zip(blob, ridge_of(blob), strict=True):
        depth = chessboard_depth(plane)
        deepest = plane & (depth == ndimage.maximum_filter(depth, 3))
        assert np.array_equal(found, deepest)
        covered = np.zeros_like(plane)
        for y, x in np.argwhere(found):
            half = depth[y, x] - 1
            covered[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1] = True
        assert np.array_equal(covered, plane)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_ridge_reaches_every_part_of_every_slice_as_the_skeleton_of_the_slice_does(seed):
    blob = blob_of_cells(seed)
    assume(blob is not None)
    for plane, found in zip(blob, ridge_of(blob), strict=True):
        parts, count = ndimage.label(plane, EIGHT_NEIGHBOURS)
        everywhere = set(range(1, count + 1))
        assert set(parts[found]) == everywhere == set(parts[skeletonize(plane)])
        if count:
            depth = chessboard_depth(plane)
            assert depth[found].max() == depth.max()


def test_skeleton_of_a_slice_lies_within_two_cells_of_its_ridge():
    distances = []
    for blob in filter(lambda blob: blob is not None, map(blob_of_cells, range(200))):
        for plane, found in zip(blob[filled_slices(blob)], ridge_of(blob)[filled_slices(blob)], strict=True):
            distances += ndimage.distance_transform_cdt(~found, "chessboard")[skeletonize(plane)].tolist()
    assert max(distances) <= 2 and np.mean(distances) < 0.5


def test_three_dimensional_skeleton_misses_slices_where_the_ridge_has_cells():
    filled, in_ridge, in_skeleton = 0, 0, 0
    for blob in filter(lambda blob: blob is not None, map(blob_of_cells, range(200))):
        filled += np.count_nonzero(filled_slices(blob))
        in_ridge += np.count_nonzero(filled_slices(ridge_of(blob)))
        in_skeleton += np.count_nonzero(filled_slices(skeletonize(blob)))
    assert in_ridge == filled
    assert in_skeleton < 0.8 * filled


@pytest.mark.parametrize("thick", [3, 5])
def test_ridge_and_skeleton_of_a_bar_are_its_centre_line(thick):
    bar = np.zeros((1, 9, 15), bool)
    bar[0, 2 : 2 + thick, 2:13] = True
    centre = 2 + thick // 2
    assert {int(y) for _, y, _ in np.argwhere(ridge_of(bar))} == {centre}
    assert {int(y) for _, y, _ in np.argwhere(skeletonize(bar))} == {centre}


def test_nt_xent_of_three_embeddings_by_hand():
    positive, negative = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    # Two ordered pairs, cosine 1 within and 0 across: -log(e^(1/t) / (e^(1/t) + e^0)) each.
    assert float(nt_xent(positive, negative, temperature=0.5)) == pytest.approx(math.log(1 + math.exp(-2)))
    assert float(nt_xent(positive[:1], negative)) == 0


def members(anchors: Anchors) -> tuple[torch.Tensor, torch.Tensor]:
    """The anchors that were drawn, inside the target and around it."""
    return anchors.positive[anchors.drawn[0]], anchors.negative[anchors.drawn[1]]


def test_places_without_an_anchor_change_neither_the_loss_nor_its_gradient():
    rows = torch.randn(8, 5, dtype=torch.float64, generator=Generator().manual_seed(0))
    drawn = torch.tensor([[True, False, True, True], [False, True, True, False]])
    padded, members_only = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    loss = nt_xent(padded[:4], padded[4:], drawn)
    reference = nt_xent(members_only[:4][drawn[0]], members_only[4:][drawn[1]])
    loss.backward()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6) and loss.item() > 0
    assert torch.allclose(padded.grad, members_only.grad, atol=1e-6)


@pytest.mark.parametrize("empty", [0, 1])
def test_without_one_of_the_groups_there_is_nothing_to_tell_apart(empty):
    rows = torch.randn(8, 5, generator=Generator().manual_seed(0), requires_grad=True)
    drawn = torch.ones(2, 4, dtype=torch.bool)
    drawn[empty] = False
    loss = nt_xent(rows[:4], rows[4:], drawn)
    loss.backward()
    assert loss.item() == 0 and not rows.grad.any()


def test_anchors_lie_inside_the_target_and_in_its_ring():
    mask = ball((64, 64, 64), (32, 32, 32), 20)[None]
    cells = F.avg_pool3d(mask, 8)
    position = torch.stack(torch.meshgrid(*[torch.arange(8.0)] * 3, indexing="ij"))[None]
    embedding = torch.cat([cells, position], dim=1)
    for seed in range(30):
        anchors = draw_anchors(embedding, mask, MM, 5, [Generator().manual_seed(seed)])
        inside, around = members(anchors)
        assert (inside[:, 0] >= 0.5).all() and len(inside) >= 3
        assert (around[:, 0] <= 0.5).all() and len(around) >= 3
        distance = (around[:, 1:] - 3.5).norm(dim=1) * 8
        assert (distance < 20 + 10 * 3**0.5 + 8).all()  # never the corner of the box


def test_anchor_positions_vary_and_reach_the_last_row():
    mask = torch.zeros(1, 1, 16, 64, 64)
    mask[..., 48:, 48:] = 1
    rows = torch.arange(8.0).reshape(1, 1, 1, 8, 1).expand(1, 1, 2, 8, 8)
    draws = [draw_anchors(rows, mask, MM, 1, [Generator().manual_seed(seed)]) for seed in range(60)]
    assert {float(row) for anchors in draws for row in members(anchors)[0]} == {6.0, 7.0}


def test_a_target_smaller_than_a_cell_still_gives_anchors():
    mask = ball((32, 32, 32), (13, 13, 13), 2)[None]
    anchors = draw_anchors(torch.rand(1, 4, 4, 4, 4), mask, MM, 5, [Generator().manual_seed(0)])
    assert anchors.drawn.any(dim=1).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 2.0, 2.0)])
def test_the_ring_has_its_width_in_mm(spacing):
    """Negative anchors lie no further from a cube than the ring is wide, and a cell of the grid of 8 voxels."""
    mask = torch.zeros(1, 1, 64, 96, 96)
    mask[..., 24:40, 40:56, 40:56] = 1
    cells = torch.stack(torch.meshgrid(*[torch.arange(n) * 8.0 + 3.5 for n in (8, 12, 12)], indexing="ij"))[None]
    furthest = torch.zeros(3)
    for seed in range(40):
        anchors = draw_anchors(cells, mask, torch.tensor([spacing]), 1, [Generator().manual_seed(seed)], ring_mm=16.0)
        _, around = members(anchors)
        beyond = torch.maximum(torch.tensor([24.0, 40, 40]) - around, around - torch.tensor([39.0, 55, 55]))
        furthest = torch.maximum(furthest, beyond.amax(dim=0))
    assert (furthest <= 16.0 / torch.tensor(spacing) + 4).all() and (furthest > 0).any()
