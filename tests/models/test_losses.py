import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from models.contrast import draw_anchors, nt_xent
from models.dual_task_net import DualTaskNet, DualTaskOutput
from models.losses import DualTaskLoss, LossWeights, cosine_distance, dice_loss, slice_labels
from models.signed_distance import signed_distance


@pytest.fixture
def vectors(shared):
    arrays = np.load(shared / "parity" / "original_losses.npz")
    values = json.loads((shared / "parity" / "original_losses.json").read_text())
    return {name: torch.from_numpy(arrays[name]) for name in arrays.files}, values


def test_terms_equal_the_test_vectors(vectors):
    t, value = vectors
    p, q = torch.sigmoid(t["seg_logits"]), torch.sigmoid(t["seg_logits_view2"])
    d = torch.tanh(t["sdf_raw"])
    ours = {
        "dice": dice_loss(p, t["mask"]),
        "bce": F.binary_cross_entropy_with_logits(t["seg_logits"], t["mask"]),
        "sdf_l1": F.l1_loss(d, t["sdf_target"]),
        "consistency_mse_seg": F.mse_loss(p, q),
        "consistency_cosine_seg_first_sample": cosine_distance(p[:1], q[:1]),
        "ntxent_tau_0_05": nt_xent(t["positive_embeddings"], t["negative_embeddings"]),
        "dice_hard_transform": dice_loss((d < 0).float(), t["mask"]),
    }
    for name, term in ours.items():
        assert float(term) == pytest.approx(value[name], rel=1e-5), name
    assert slice_labels(t["mask"]).flatten().tolist() == value["slice_positive"]


def test_nt_xent_by_hand():
    positive, negative = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    # Two ordered pairs, cosine 1 within and 0 across: -log(e^(1/t) / (e^(1/t) + e^0)) each.
    assert float(nt_xent(positive, negative, temperature=0.5)) == pytest.approx(math.log(1 + math.exp(-2)))
    assert float(nt_xent(positive[:1], negative)) == 0


def ball(shape, centre, radius) -> torch.Tensor:
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij"))
    return ((grid - torch.tensor(centre).reshape(3, 1, 1, 1)).square().sum(0).sqrt() <= radius).float()[None]


def test_anchors_lie_inside_the_target_and_in_its_ring():
    mask = ball((64, 64, 64), (32, 32, 32), 20)[None]
    cells = F.avg_pool3d(mask, 8)
    position = torch.stack(torch.meshgrid(*[torch.arange(8.0)] * 3, indexing="ij"))[None]
    embedding = torch.cat([cells, position], dim=1)
    for seed in range(30):
        anchors = draw_anchors(embedding, mask, 5, Generator().manual_seed(seed))
        assert (anchors.positive[:, 0] >= 0.5).all() and len(anchors.positive) >= 3
        assert (anchors.negative[:, 0] <= 0.5).all() and len(anchors.negative) >= 3
        distance = (anchors.negative[:, 1:] - 3.5).norm(dim=1) * 8
        assert (distance < 20 + 10 * 3**0.5 + 8).all()  # never the corner of the box


def test_anchor_positions_vary_and_reach_the_last_row():
    mask = torch.zeros(1, 1, 16, 64, 64)
    mask[..., 48:, 48:] = 1
    rows = torch.arange(8.0).reshape(1, 1, 1, 8, 1).expand(1, 1, 2, 8, 8)
    drawn = {float(r) for s in range(60) for r in draw_anchors(rows, mask, 1, Generator().manual_seed(s)).positive}
    assert drawn == {6.0, 7.0}


def test_a_target_smaller_than_a_cell_still_gives_anchors():
    mask = ball((32, 32, 32), (13, 13, 13), 2)[None]
    anchors = draw_anchors(torch.rand(1, 4, 4, 4, 4), mask, 5, Generator().manual_seed(0))
    assert len(anchors.positive) >= 1 and len(anchors.negative) >= 1


def all_terms() -> LossWeights:
    return LossWeights(**{name: 0.5 for name in LossWeights.__dataclass_fields__})


def one_step(weights: LossWeights, mask: torch.Tensor, views: int = 2):
    net = DualTaskNet(width=8)
    output = net(torch.rand(views * len(mask), 1, *mask.shape[2:], generator=Generator().manual_seed(0)))
    spacing = torch.tensor([[2.0, 1.0, 1.0]]).repeat(len(mask), 1)
    phi = signed_distance(mask, spacing)
    total, terms = DualTaskLoss(weights)(output, mask, phi, spacing, Generator().manual_seed(0))
    return net, total, terms


def test_total_is_the_weighed_sum_and_every_term_is_named():
    mask = torch.stack([ball((16, 32, 32), (8, 16, 16), 6), ball((16, 32, 32), (8, 12, 20), 5)])
    _, total, terms = one_step(all_terms(), mask)
    assert set(terms) == {*LossWeights.__dataclass_fields__, "contrast_skipped"}
    terms.pop("contrast_skipped")
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


@pytest.mark.parametrize("term", [name for name in LossWeights.__dataclass_fields__])
def test_every_term_trains_the_network(term):
    mask = ball((16, 32, 32), (8, 16, 16), 6)[None]
    off = {name: 0.0 for name in LossWeights.__dataclass_fields__}
    net, total, _ = one_step(LossWeights(**{**off, term: 1.0}), mask)
    total.backward()
    assert sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None) > 1e-6


def test_consistency_compares_the_views_of_the_same_sample():
    logits = torch.randn(2, 1, 8, 8, 8, generator=Generator().manual_seed(3))
    output = DualTaskOutput(torch.cat([logits, logits]), None, None, None)
    loss = DualTaskLoss(LossWeights(dice=0, bce=0, consistency=1))
    total, _ = loss(output, torch.zeros_like(logits), None, torch.ones(2, 3), Generator())
    assert float(total) == 0


def test_terms_of_mere_agreement_rise_over_the_ramp():
    mask = torch.zeros(1, 1, 8, 8, 8)
    logits = torch.randn(2, 1, 8, 8, 8, generator=Generator().manual_seed(3))
    output = DualTaskOutput(logits, None, None, None)
    loss = DualTaskLoss(LossWeights(dice=0, bce=0, consistency=1), ramp=0.5)
    totals = [float(loss(output, mask, None, torch.ones(1, 3), Generator(), p)[0]) for p in (0.0, 0.25, 0.5, 1.0)]
    assert totals[0] == pytest.approx(math.exp(-5) * totals[3]) and totals[0] < totals[1] < totals[2] == totals[3]
