import json

import numpy as np
import pytest
import torch

from models.dual_task_net import DualTaskNet
from models.published import load_published

VARIANTS = ("seg", "seg_sdf", "seg_sdf_slice")


def published_state(parity, variant: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """Weights by the recipe that the test vectors were recorded with."""
    names = json.loads((parity / f"original_{variant}_parameters.json").read_text())
    state = {}
    for i, (name, shape) in enumerate(names):
        value = np.random.default_rng([1, i]).standard_normal(shape).astype(np.float32) * np.float32(0.1)
        state[prefix + name] = torch.from_numpy(value + (len(shape) == 1 and name.endswith("weight")))
    return state


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_weights_give_published_outputs(shared, variant, prefix):
    net = load_published(published_state(shared / "parity", variant, prefix))
    assert not net.training
    x = torch.from_numpy(np.random.default_rng([1, 9999]).random((1, 1, 16, 24, 32)).astype(np.float32))
    with torch.no_grad():
        output = net(x)
    recorded = np.load(shared / "parity" / f"original_{variant}.npz")
    ours = {
        "seg_logits": output.seg,
        "embedding": output.embedding,
        "sdf_raw": output.sdf,
        "slice_logits": output.slice,
    }
    assert {name for name, value in ours.items() if value is not None} == set(recorded.files)
    for name in recorded.files:
        difference = np.abs(ours[name].numpy().reshape(recorded[name].shape) - recorded[name]).max()
        assert difference <= 1e-4 * recorded[name].std(), name


def test_published_refuses_what_is_no_checkpoint_of_it():
    with pytest.raises(ValueError, match="unknown parameter stem"):
        load_published(DualTaskNet(width=8).state_dict())
    with pytest.raises(ValueError, match="conv_4_32"):
        load_published({})
    with pytest.raises(ValueError, match="Missing key"):
        load_published({"conv_4_32.0.weight": torch.zeros(32, 1, 3, 3, 3), "seg_cls.0.weight": torch.zeros(1)})


def test_size_is_the_published_one():
    count = sum(p.numel() for p in DualTaskNet(width=32, heads=("seg", "embedding")).parameters())
    assert count == pytest.approx(18.97e6, rel=2e-3)


def test_output_shapes_and_absent_heads():
    x = torch.rand(2, 1, 16, 24, 8)
    output = DualTaskNet(width=8)(x)
    assert output.seg.shape == output.sdf.shape == x.shape
    assert output.embedding.shape == (2, 32, 2, 3, 1)
    assert output.slice.shape == (2, 16)
    plain = DualTaskNet(width=8, heads=("seg",))(x)
    assert plain.sdf is None and plain.embedding is None and plain.slice is None


def test_slice_logits_are_one_per_group_of_eight():
    logits = DualTaskNet(width=8)(torch.rand(1, 1, 24, 16, 16)).slice.reshape(3, 8)
    assert torch.equal(logits, logits[:, :1].expand(3, 8))
    assert logits[0, 0] != logits[1, 0]


def test_every_parameter_receives_a_gradient():
    net = DualTaskNet(width=8)
    sum(part.square().mean() for part in net(torch.rand(1, 1, 16, 16, 16))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    "arguments", [{"width": 12}, {"width": 0}, {"heads": ("sdf",)}, {"heads": ("seg", "depth")}], ids=str
)
def test_refuses_other_widths_and_heads(arguments):
    with pytest.raises(ValueError):
        DualTaskNet(**arguments)


def test_refuses_sides_that_are_no_multiple_of_eight():
    with pytest.raises(ValueError, match="multiples of 8"):
        DualTaskNet(width=8)(torch.rand(1, 1, 16, 20, 16))
