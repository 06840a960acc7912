import math

import pytest
import torch
from torch import Generator

from models.dual_task_net import DualTaskNet, DualTaskOutput
from models.local_errors import FAR_WEIGHT, distance_error, union_divergence
from models.losses import ABSENCE_ML, GUIDED, DualTaskLoss, LossWeights, absence_loss, dice_loss
from models.signed_distance import signed_distance
from models.tissue_contrast import TissueCells, find_tissues
from tests.models.shapes import ball

TERMS = tuple(LossWeights.__dataclass_fields__)


def only(term: str) -> LossWeights:
    return LossWeights(**{name: float(name == term) for name in TERMS})


def all_terms() -> LossWeights:
    return LossWeights(**dict.fromkeys(TERMS, 0.5))


def tissues_of(mask: torch.Tensor, spacing: torch.Tensor) -> TissueCells:
    """The mask is the lower half of a gland."""
    gland = (mask + mask.roll(4, dims=3)).clamp(max=1)
    return TissueCells(find_tissues(0.5 * gland, mask, gland, spacing), torch.arange(len(mask)))


def one_step(weights: LossWeights, mask: torch.Tensor, views: int = 2):
    torch.manual_seed(0)  # of the weights: consistency is 0 where neither view has a mask
    net = DualTaskNet(width=8)
    output = net(torch.rand(views * len(mask), 1, *mask.shape[2:], generator=Generator().manual_seed(0)))
    spacing = torch.tensor([[2.0, 1.0, 1.0]]).repeat(len(mask), 1)
    phi = signed_distance(mask, spacing)
    total, terms = DualTaskLoss(weights)(
        output, mask, phi, spacing, [Generator().manual_seed(0)] * len(mask), cells=tissues_of(mask, spacing)
    )
    return net, total, terms


def test_total_is_the_weighted_sum_and_every_term_is_named():
    mask = torch.stack([ball((16, 32, 32), (8, 16, 16), 6), ball((16, 32, 32), (8, 12, 20), 5)])
    _, total, terms = one_step(all_terms(), mask)
    assert set(terms) == {*TERMS, "contrast_skipped", "tissue_cosine"}
    terms.pop("contrast_skipped")
    terms.pop("tissue_cosine")
    assert total.item() == pytest.approx(0.5 * sum(terms.values()).item(), rel=1e-5)


def test_a_term_of_weight_zero_is_not_computed():
    mask = ball((16, 16, 16), (8, 8, 8), 4)[None]
    _, _, terms = one_step(LossWeights(dice=1, bce=0), mask)
    assert set(terms) == {"dice"}


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "full"])
def test_empty_and_full_targets_give_finite_gradients_and_a_counted_skip(filled):
    net, total, terms = one_step(all_terms(), torch.full((1, 1, 16, 16, 16), float(filled)))
    total.backward()
    assert torch.isfinite(total) and all(torch.isfinite(p.grad).all() for p in net.parameters())
    assert terms["contrast_skipped"] == 1


def test_where_there_is_no_target_the_predicted_volume_counts_and_no_dice():
    mask = torch.cat([ball((16, 16, 16), (8, 8, 8), 4)[None], torch.zeros(1, 1, 16, 16, 16)])
    p = torch.rand(mask.shape, generator=Generator().manual_seed(1)).requires_grad_()
    assert dice_loss(p, mask).item() == pytest.approx(dice_loss(p[:1], mask[:1]).item())
    dice_loss(p, mask).backward()
    assert float(p.grad[0].abs().sum()) > 0 and float(p.grad[1].abs().sum()) == 0
    spacing = torch.tensor([[1.0, 1.0, 1.0], [3.0, 2.0, 2.0]])
    found_ml = float(p[1].detach().sum()) * 12 / 1000
    loss = absence_loss(p, mask, spacing)
    assert loss.item() == pytest.approx(math.log(1 + found_ml / ABSENCE_ML), rel=1e-5)
    p.grad = None
    loss.backward()
    assert float(p.grad[0].abs().sum()) == 0 and float(p.grad[1].min()) > 0
    assert absence_loss(p[:1], mask[:1], spacing[:1]) == 0


@pytest.mark.parametrize("term", TERMS)
def test_every_term_trains_the_network(term):
    mask = ball((16, 32, 32), (8, 16, 16), 6)[None] * float(term != "absence")
    net, total, _ = one_step(only(term), mask)
    total.backward()
    assert sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None) > 1e-6


def test_consistency_compares_the_views_of_the_same_sample():
    logits = torch.randn(2, 1, 8, 8, 8, generator=Generator().manual_seed(3))
    output = DualTaskOutput(torch.cat([logits, logits]), None, None, None)
    loss = DualTaskLoss(LossWeights(dice=0, bce=0, absence=0, consistency=1))
    total, _ = loss(output, torch.zeros_like(logits), None, torch.ones(2, 3), [Generator()] * 2)
    assert float(total) == 0


def test_weight_of_a_ramped_term_rises_over_the_ramp():
    mask = torch.zeros(1, 1, 8, 8, 8)
    logits = torch.randn(2, 1, 8, 8, 8, generator=Generator().manual_seed(3))
    output = DualTaskOutput(logits, None, None, None)
    loss = DualTaskLoss(LossWeights(dice=0, bce=0, absence=0, consistency=1), ramp=0.5)
    totals = [float(loss(output, mask, None, torch.ones(1, 3), [Generator()], p)[0]) for p in (0.0, 0.25, 0.5, 1.0)]
    assert totals[0] == pytest.approx(math.exp(-5) * totals[3]) and totals[0] < totals[1] < totals[2] == totals[3]


@pytest.mark.parametrize(("term", "starts"), [("dice", 0.0), ("absence", 0.0), ("sdf", 0.25), ("transform", 0.25)])
def test_the_distance_head_waits_for_half_of_the_ramp_and_other_terms_do_not(term, starts):
    mask = ball((16, 16, 16), (8, 8, 8), 4)[None] * float(term != "absence")
    output = DualTaskOutput(torch.zeros(mask.shape), torch.zeros(mask.shape), None, None)
    phi, spacing = signed_distance(mask, (1, 1, 1)), torch.ones(1, 3)
    loss = DualTaskLoss(only(term), ramp=0.5)
    totals = {p: float(loss(output, mask, phi, spacing, [Generator()], p)[0]) for p in (0.0, 0.249, 0.25, 1.0)}
    assert totals[1.0] > 0
    assert totals == {p: totals[1.0] if p >= starts else 0 for p in totals}


def test_the_divergence_of_two_predictions_is_that_of_the_voxels_around_them():
    """p = 0.9 and q = 0.5 in one voxel: KL(p, q) + KL(q, p), over its 3 x 3 x 3 neighbours, whatever the box."""
    p, q = 0.9, 0.5
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    expected += q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    for side in (8, 24):
        logits = torch.full((2, 1, side, side, side), -9.0)
        guide = logits.clone()
        logits[0, 0, 4, 4, 4], guide[0, 0, 4, 4, 4] = math.log(p / (1 - p)), 0.0
        found = union_divergence(logits, guide, torch.full((2, 3), 5.0))  # in the second sample nothing is seen
        assert float(found) == pytest.approx(expected / 27, rel=1e-5)
        assert float(union_divergence(guide, logits, torch.full((2, 3), 5.0))) == pytest.approx(expected / 27, rel=1e-5)
    assert float(union_divergence(logits[1:], guide[1:], torch.full((1, 3), 5.0))) == 0
    x = torch.randn(1, 1, 4, 4, 4, generator=Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    t = torch.randn(x.shape, generator=Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: union_divergence(s, t, torch.full((1, 3), 5.0)), x)


def two_views_of(seed: int) -> DualTaskOutput:
    seg, sdf = torch.randn(2, 2, 1, 8, 8, 8, generator=Generator().manual_seed(seed))
    return DualTaskOutput(seg.requires_grad_(), sdf.requires_grad_(), None, None)


@pytest.mark.parametrize("term", GUIDED)
def test_a_guide_gets_no_gradient_and_a_teacher_takes_its_place(term):
    output, loss = two_views_of(0), DualTaskLoss(only(term))
    rest = (torch.zeros(1, 1, 8, 8, 8), None, torch.ones(1, 3), [Generator()])
    alone, _ = loss(output, *rest)
    alone.backward()
    assert output.sdf.grad is None and float(output.seg.grad[0].abs().sum()) == 0 < float(
        output.seg.grad[1].abs().sum()
    )
    teacher = two_views_of(1)
    guided, _ = loss(output, *rest, guide=teacher)
    swapped, _ = loss(output, *rest, guide=DualTaskOutput(output.seg[:1].detach(), output.sdf[:1].detach(), None, None))
    assert guided.item() != pytest.approx(alone.item()) and swapped.item() == pytest.approx(alone.item())


def test_the_random_view_is_drawn_to_the_distance_of_the_guide_if_that_sees_a_target():
    inside = ball((8, 16, 16), (4, 8, 8), 3)[None]
    sdf = torch.atanh(signed_distance(inside, (1, 1, 1)).clamp(-0.99, 0.99))
    logits = torch.cat([torch.zeros(sdf.shape), 20 * (2 * inside - 1)]).requires_grad_()
    loss, rest = (
        DualTaskLoss(only("guided_transform")),
        (torch.zeros(inside.shape), None, torch.ones(1, 3), [Generator()]),
    )
    for distance, expected in ((sdf, 0.05), (sdf.abs() + 1, 0.0)):
        found, _ = loss(DualTaskOutput(logits, torch.cat([distance, distance]), None, None), *rest)
        assert found.item() == pytest.approx(expected, abs=0.05)
    turned = DualTaskOutput(logits.flip(2), torch.cat([sdf, sdf]).roll(4, dims=4), None, None)
    assert loss(turned, *rest)[0].item() > 0.4


@pytest.mark.parametrize(
    ("term", "missing"),
    [
        ("sdf", "sdf"),
        ("transform", "sdf"),
        ("sdf_consistency", "sdf"),
        ("contrast", "embedding"),
        ("slice", "slice"),
        ("tissue_contrast", "projection"),
        ("tissue_contrast", "tissues of the boxes"),
        ("sdf", "phi"),
        ("reciprocal", "phi"),
        ("consistency", "two views"),
        ("union_consistency", "two views"),
        ("guided_transform", "sdf"),
        ("sdf_consistency", "two views"),
    ],
)
def test_an_active_term_without_what_it_needs_is_refused(term, missing):
    mask = ball((8, 16, 16), (4, 8, 8), 3)[None]
    output = DualTaskNet(width=8)(torch.rand(1 if missing == "two views" else 2, 1, 8, 16, 16))
    if missing in output._fields:
        output = output._replace(**{missing: None})
    spacing = torch.ones(1, 3)
    phi = None if missing == "phi" else signed_distance(mask, spacing)
    with pytest.raises(ValueError, match=missing):
        DualTaskLoss(only(term))(output, mask, phi, spacing, [Generator()] * len(mask))


def test_the_error_over_the_band_does_not_depend_on_the_size_of_the_box():
    """Four voxels within tau with an error of 0.1, and others beyond it with one of 0.5."""
    for beyond in (3, 60):
        phi = torch.tensor([-0.5, 0.0, 0.5, 0.9] + [1.0] * beyond).view(1, 1, 1, 1, -1)
        d = torch.where(phi < 1, phi + 0.1, phi - 0.5).requires_grad_()
        loss = distance_error(d, phi, "band")
        loss.backward()
        assert loss.item() == pytest.approx(0.1 + FAR_WEIGHT * 0.5)
        assert d.grad.flatten().tolist() == pytest.approx([1 / 4] * 4 + [-FAR_WEIGHT / beyond] * beyond)
        assert distance_error(d, phi).item() == pytest.approx((4 * 0.1 + beyond * 0.5) / (4 + beyond))


def test_a_sample_without_a_target_has_no_band_and_does_not_thin_that_of_the_others():
    target = signed_distance(ball((8, 16, 16), (4, 8, 8), 3)[None], (1, 1, 1), 2.0)
    phi = torch.cat([target, torch.ones(target.shape)]).double()
    d = (phi * 0.8).requires_grad_()
    alone, neither = (distance_error(d[i : i + 1], phi[i : i + 1], "band").item() for i in (0, 1))
    assert neither == pytest.approx(FAR_WEIGHT * 0.2) and alone > neither
    assert distance_error(d, phi, "band").item() == pytest.approx(alone)
    part = phi[..., 4:8, 6:10]
    assert torch.autograd.gradcheck(lambda x: distance_error(x, part, "band"), (part * 0.8).requires_grad_())
