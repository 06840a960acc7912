"""Which cells are which tissue, how anchors are drawn and remembered, and what the contrast of tissues is."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from models.tissue_contrast import (
    ANCHORS,
    KEPT,
    REMEMBERED,
    TEMPERATURE,
    TISSUES,
    Anchors,
    TissueCells,
    contrast_tissues,
    draw_tissue_anchors,
    find_tissues,
    mean_cosine,
    remember,
)

MM = torch.tensor([[2.0, 1.0, 1.0]])


def box(*corners: tuple[int, int], shape: tuple[int, int, int] = (8, 32, 32)) -> torch.Tensor:
    mask = torch.zeros(1, 1, *shape)
    mask[(0, 0, *(slice(*c) for c in corners))] = 1
    return mask


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A gland with a dark lesion in fat, a bright vessel beside it and bone farther away."""
    pancreas, target = box((0, 8), (8, 20), (8, 20)), box((2, 6), (10, 14), (10, 14))
    image = 0.1 + 0.5 * pancreas - 0.15 * target
    image[..., 8:12, 22:26] = 0.8
    image[..., 26:30, 26:30] = 1.0
    return image, target, pancreas


def test_the_tissues_of_a_scene():
    found = find_tissues(*scene(), MM, ring_mm=4.0)[0].float()
    expected = {
        "target": box((1, 3), (5, 7), (5, 7), shape=(4, 16, 16)),
        "bright": box((0, 4), (4, 6), (11, 13), shape=(4, 16, 16)),
    }
    pancreas = box((0, 4), (4, 10), (4, 10), shape=(4, 16, 16))
    expected["gland"] = pancreas - expected["target"]
    expected["ring"] = (box((0, 4), (2, 12), (2, 12), shape=(4, 16, 16)) - pancreas) * (1 - expected["bright"])
    for tissue, cells in zip(TISSUES, found, strict=True):
        assert torch.equal(cells, expected[tissue][0, 0]), tissue
    assert float(found.sum(0).max()) == 1


def test_a_target_smaller_than_a_cell_has_one_and_no_target_has_none():
    image, _, pancreas = scene()
    target = box((3, 4), (11, 12), (11, 12))
    found = find_tissues(image, target, pancreas, MM)
    assert found[0, 0].sum() == 1 and bool(found[0, 0, 1, 5, 5]) and not found[0, 1, 1, 5, 5]
    assert find_tissues(image, torch.zeros_like(target), pancreas, MM)[0, 0].sum() == 0
    # Where the pancreas is the target there is no gland besides, and what is bright is measured by the target.
    of_pancreas = find_tissues(image, pancreas, pancreas, MM)[0]
    assert of_pancreas[1].sum() == 0 and of_pancreas[3].sum() > 0
    assert find_tissues(image, 0 * pancreas, 0 * pancreas, MM).sum() == 0


def drawn_of(seed: int = 0, views: int = 2, boxes: int = 2) -> tuple[Anchors, TissueCells, torch.Tensor]:
    image, target, pancreas = scene()
    tissues = find_tissues(image, target, pancreas, MM).repeat(boxes, 1, 1, 1, 1)
    tissues[1:, 0] = False  # the second box holds no target
    cells = TissueCells(tissues, torch.arange(boxes) + 7)
    projection = torch.randn(views * boxes, 6, *tissues.shape[2:], generator=Generator().manual_seed(9))
    generators = [Generator().manual_seed(seed + place) for place in range(boxes)]
    return draw_tissue_anchors(projection, cells, generators), cells, projection


def test_anchors_are_cells_of_their_tissue_the_same_in_all_views():
    anchors, cells, projection = drawn_of()
    places = (2, 2, len(TISSUES), ANCHORS)
    assert anchors.rows.shape == (*places, 6) and anchors.drawn.shape == places
    per_tissue = cells.tissues.flatten(2).sum(2).clamp(max=ANCHORS)
    assert torch.equal(anchors.drawn.sum(3), per_tissue.expand(2, 2, -1)) and per_tissue[0, 1] == ANCHORS
    assert anchors.centre[:, 0].unique().tolist() == [7] and anchors.centre[:, 1].unique().tolist() == [8]
    features = F.normalize(projection.flatten(2).transpose(1, 2), dim=2).unflatten(0, (2, 2))  # (V, B, cells, C)
    for view, sample, tissue, place in anchors.drawn.nonzero()[::37].tolist():
        row = anchors.rows[view, sample, tissue, place]
        cell = int((features[view, sample] - row).square().sum(1).argmin())
        assert cells.tissues[sample, tissue].flatten()[cell] and anchors.tissue[view, sample, tissue, place] == tissue
        twin = anchors.rows[1 - view, sample, tissue, place]
        assert torch.allclose(features[1 - view, sample, cell], twin)
    assert torch.equal(anchors.rows, drawn_of()[0].rows) and not torch.equal(anchors.rows, drawn_of(seed=1)[0].rows)


def test_the_memory_holds_the_newest_anchors_of_the_first_view():
    anchors = drawn_of()[0]
    memory = remember(anchors, None)
    assert len(memory.rows) == 2 * len(TISSUES) * KEPT and not memory.rows.requires_grad
    assert torch.equal(memory.rows, anchors.rows[0, :, :, :KEPT].flatten(0, 2))
    for seed in range(1, 40):
        newest = drawn_of(seed=seed)[0]
        memory = remember(newest, memory)
    assert len(memory.rows) == len(memory.drawn) == REMEMBERED
    assert torch.equal(memory.rows[: 2 * len(TISSUES) * KEPT], newest.rows[0, :, :, :KEPT].flatten(0, 2))


def flat(rows: torch.Tensor, tissue: list[int], centre: list[int], drawn: list[int] | None = None) -> Anchors:
    drawn = [1] * len(tissue) if drawn is None else drawn
    return Anchors(F.normalize(rows, dim=1), *map(torch.tensor, (tissue, centre)), torch.tensor(drawn).bool())


def test_the_contrast_of_a_worked_example():
    """Two anchors of tissue 0 at a right angle and one of tissue 1 opposite to the first."""
    anchors = flat(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), [0, 0, 1], [0, 0, 0])
    first = math.log1p(math.exp(-1 / TEMPERATURE))  # similarity 0 with its own kind, -1 with the other
    second = math.log(2)  # 0 and 0
    assert float(contrast_tissues(anchors)) == pytest.approx((first + second) / 2, rel=1e-5)
    memory = flat(torch.tensor([[-1.0, 0.0]]), [1], [0])  # the third anchor has a positive one now, and is the same
    third = math.log1p(math.exp((0 - 1) / TEMPERATURE) + math.exp(-2 / TEMPERATURE))
    first = math.log1p(2 * math.exp(-1 / TEMPERATURE))
    second = math.log1p(2)
    assert float(contrast_tissues(anchors, memory)) == pytest.approx(((first + second) / 2 + third) / 2, rel=1e-5)


def test_positives_are_those_of_other_centres_if_there_are_any():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.5]])
    at_home = contrast_tissues(flat(rows, [0, 0, 0, 1], [0, 0, 0, 0]))
    abroad = contrast_tissues(flat(rows, [0, 0, 0, 1], [0, 0, 1, 0]))
    assert abroad > at_home  # the easy pair, of one centre, no longer counts


def test_what_is_not_drawn_does_not_count_and_one_tissue_alone_has_no_contrast():
    generator = Generator().manual_seed(0)
    rows = torch.randn(6, 4, generator=generator)
    some = contrast_tissues(flat(rows[:4], [0, 0, 1, 1], [0, 1, 0, 1]))
    more = flat(rows, [0, 0, 1, 1, 0, 1], [0, 1, 0, 1, 2, 2], [1, 1, 1, 1, 0, 0])
    assert float(contrast_tissues(more)) == pytest.approx(float(some), rel=1e-5)
    nothing = more._replace(rows=more.rows.requires_grad_(), drawn=torch.zeros(6, dtype=torch.bool))
    loss = contrast_tissues(nothing)
    loss.backward()
    assert float(loss.detach()) == 0 and torch.isfinite(nothing.rows.grad).all()
    assert float(contrast_tissues(flat(rows, [2] * 6, [0, 1] * 3))) == 0


def test_the_gradient_is_that_of_finite_differences():
    rows = torch.randn(6, 3, generator=Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    memory = flat(
        torch.randn(4, 3, generator=Generator().manual_seed(1), dtype=torch.float64), [0, 1, 2, 2], [0, 0, 1, 1]
    )
    assert torch.autograd.gradcheck(
        lambda x: contrast_tissues(flat(x, [0, 0, 1, 1, 2, 3], [0, 1, 0, 0, 1, 1]), memory), rows
    )


def test_rows_of_a_tissue_come_together_when_the_contrast_is_minimised():
    torch.manual_seed(0)
    rows = torch.randn(40, 8, requires_grad=True)
    tissue, centre = [n % 4 for n in range(40)], [n // 20 for n in range(40)]
    optimiser = torch.optim.Adam([rows], lr=0.05)
    cosine = float(mean_cosine(flat(rows.detach() + 5, tissue, centre)))
    for _ in range(100):
        optimiser.zero_grad()
        contrast_tissues(flat(rows, tissue, centre)).backward()
        optimiser.step()
    unit = F.normalize(rows.detach(), dim=1)
    similarity = unit @ unit.T
    same = torch.tensor(tissue)[:, None] == torch.tensor(tissue)
    assert similarity[same].mean() > 0.75 and similarity[~same].mean() < 0.2
    assert cosine > 0.9 > float(mean_cosine(flat(rows.detach(), tissue, centre)))
    assert float(mean_cosine(flat(rows.detach()[:1], [0], [0]))) == 0
