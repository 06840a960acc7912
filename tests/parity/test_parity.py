"""The network and the loss terms agree with the published release on its recorded test vectors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.contrast import nt_xent
from models.losses import cosine_distance, dice_loss, slice_labels
from models.published import load_published
from models.signed_distance import per_case_distance
from tests.parity.vectors import VARIANTS, published_state, recorded_input, recorded_losses, recorded_outputs


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_weights_give_published_outputs(variant, prefix):
    net = load_published(published_state(variant, prefix))
    assert not net.training
    with torch.no_grad():
        output = net(recorded_input())
    recorded = recorded_outputs(variant)
    ours = {
        "seg_logits": output.seg,
        "embedding": output.embedding,
        "sdf_raw": output.sdf,
        "slice_logits": output.slice,
    }
    assert {name for name, value in ours.items() if value is not None} == set(recorded)
    for name, expected in recorded.items():
        difference = np.abs(ours[name].numpy().reshape(expected.shape) - expected).max()
        assert difference <= 1e-4 * expected.std(), name


def test_loss_terms_have_their_published_values():
    inputs, values = recorded_losses()
    p, q = torch.sigmoid(inputs["seg_logits"]), torch.sigmoid(inputs["seg_logits_view2"])
    d = torch.tanh(inputs["sdf_raw"])
    ours = {
        "dice": dice_loss(p, inputs["mask"]),
        "bce": F.binary_cross_entropy_with_logits(inputs["seg_logits"], inputs["mask"]),
        "sdf_l1": F.l1_loss(d, inputs["sdf_target"]),
        "consistency_mse_seg": F.mse_loss(p, q),
        "consistency_cosine_seg_first_sample": cosine_distance(p[:1], q[:1]),
        "ntxent_tau_0_05": nt_xent(inputs["positive_embeddings"], inputs["negative_embeddings"]),
        "dice_hard_transform": dice_loss((d < 0).float(), inputs["mask"]),
    }
    assert {*ours, "slice_positive"} == set(values)
    for name, term in ours.items():
        assert float(term) == pytest.approx(values[name], rel=1e-5), name
    assert slice_labels(inputs["mask"]).flatten().tolist() == values["slice_positive"]


def test_per_case_distance_is_the_published_target():
    inputs, _ = recorded_losses()
    assert (per_case_distance(inputs["mask"]) - inputs["sdf_target"]).abs().max() < 1e-6
