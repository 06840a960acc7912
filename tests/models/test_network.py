import pytest
import torch

from models.dual_task_net import DualTaskNet, averaged_probability
from models.published import load_published


def test_load_published_refuses_other_checkpoints():
    with pytest.raises(ValueError, match="unknown parameter stem"):
        load_published(DualTaskNet(width=8).state_dict())
    with pytest.raises(ValueError, match="conv_4_32"):
        load_published({})
    with pytest.raises(ValueError, match="Missing key"):
        load_published({"conv_4_32.0.weight": torch.zeros(32, 1, 3, 3, 3), "seg_cls.0.weight": torch.zeros(1)})


def test_network_has_the_published_size():
    count = sum(p.numel() for p in DualTaskNet(width=32, heads=("seg", "embedding")).parameters())
    assert count == pytest.approx(18.97e6, rel=2e-3)


def test_output_shapes_and_heads_that_were_not_built():
    x = torch.rand(2, 1, 16, 24, 8)
    output = DualTaskNet(width=8)(x)
    assert output.seg.shape == output.sdf.shape == x.shape
    assert output.embedding.shape == (2, 32, 2, 3, 1)
    assert output.slice.shape == (2, 16)
    plain = DualTaskNet(width=8, heads=("seg",))(x)
    assert plain.sdf is None and plain.embedding is None and plain.slice is None


def test_slice_logits_are_equal_within_a_group_of_eight_slices():
    logits = DualTaskNet(width=8)(torch.rand(1, 1, 24, 16, 16)).slice.reshape(3, 8)
    assert torch.equal(logits, logits[:, :1].expand(3, 8))
    assert logits[0, 0] != logits[1, 0]


def test_every_parameter_receives_a_gradient():
    net = DualTaskNet(width=8)
    *parts, deep = net(torch.rand(1, 1, 16, 16, 16))
    sum(part.square().mean() for part in (*parts, *deep)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    "arguments", [{"width": 12}, {"width": 0}, {"heads": ("sdf",)}, {"heads": ("seg", "depth")}], ids=str
)
def test_refuses_other_widths_and_heads(arguments):
    with pytest.raises(ValueError):
        DualTaskNet(**arguments)


def test_refuses_sides_that_are_not_multiples_of_eight():
    with pytest.raises(ValueError, match="multiples of 8"):
        DualTaskNet(width=8)(torch.rand(1, 1, 16, 20, 16))


def test_averaging_needs_the_distance_head():
    output = DualTaskNet(width=8, heads=("seg",))(torch.rand(1, 1, 8, 8, 8))
    with pytest.raises(ValueError, match="sdf"):
        averaged_probability(output, torch.ones(1, 3), 50.0)
