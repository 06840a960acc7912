import pytest
import torch
import torch.nn.functional as F

from models.blocks import Activation
from models.channels_last import NormReLU
from models.dual_task_net import HEAD_INPUTS, MOST_RECOMPUTED, DualTaskNet, averaged_probability
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
    assert output.projection.shape == (2, 32, 8, 12, 4)
    assert [tuple(logits.shape) for logits in output.deep] == [(2, 1, 8, 12, 4), (2, 1, 4, 6, 2)]
    plain = DualTaskNet(width=8, heads=("seg",))(x)
    assert (
        plain.sdf is None and plain.embedding is None and plain.slice is None and plain.deep is plain.projection is None
    )


def test_slice_logits_are_equal_within_a_group_of_eight_slices():
    logits = DualTaskNet(width=8)(torch.rand(1, 1, 24, 16, 16)).slice.reshape(3, 8)
    assert torch.equal(logits, logits[:, :1].expand(3, 8))
    assert logits[0, 0] != logits[1, 0]


def test_every_parameter_receives_a_gradient():
    net = DualTaskNet(width=8)
    *parts, deep, projection = net(torch.rand(1, 1, 16, 16, 16))
    sum(part.square().mean() for part in (*parts, *deep, projection)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    "arguments",
    [{"width": 12}, {"width": 0}, {"heads": ("sdf",)}, {"heads": ("seg", "depth")}, {"head_input": "none"}],
    ids=str,
)
def test_refuses_other_widths_and_heads(arguments):
    with pytest.raises(ValueError):
        DualTaskNet(**arguments)


def test_refuses_sides_that_are_not_multiples_of_eight():
    with pytest.raises(ValueError, match="multiples of 8"):
        DualTaskNet(width=8)(torch.rand(1, 1, 16, 20, 16))


def test_the_distance_starts_where_its_transform_has_a_slope_if_the_heads_read_normalised_features():
    torch.manual_seed(0)
    x, steep = torch.rand(1, 1, 32, 32, 32), 50
    with torch.no_grad():
        shares = {
            kind: (steep * torch.tanh(DualTaskNet(width=8, head_input=kind)(x).sdf)).abs().lt(3).float().mean()
            for kind in HEAD_INPUTS
        }
    assert shares["normalised"] > 0.7 and shares["raw"] < 0.1


def test_zero_groups_are_instance_norm_and_a_leak_passes_negative_values():
    x = torch.randn(2, 6, 4, 4, 4)
    expected = F.leaky_relu(F.instance_norm(x), 0.01)
    assert torch.allclose(Activation(groups=0, leak=0.01).build(6)(x), expected, atol=1e-5)
    net = DualTaskNet(width=12, heads=("seg",), activation=Activation(groups=4, leak=0.01))
    assert {(m.num_groups, m.leak) for m in net.modules() if isinstance(m, NormReLU)} == {(4, 0.01)}


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_filters_that_are_kept_for_inference_follow_the_weights(context):
    """However the weights change: by a step, by loading others, or by an exchange of the storage."""
    torch.manual_seed(0)
    net, x = DualTaskNet(width=8, heads=("seg",)).eval(), torch.rand(1, 1, 8, 8, 8)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    other = DualTaskNet(width=8, heads=("seg",)).state_dict()

    def step() -> None:
        net(x).seg.sum().backward()
        optimiser.step()

    def exchange() -> None:
        net.stem.weight.data = torch.rand_like(net.stem.weight)

    with context():
        seen = [net(x).seg]
    for change in (step, lambda: net.load_state_dict(other), exchange):
        change()
        with context():
            seen.append(net(x).seg)
            assert torch.equal(seen[-1], net(x).seg)
        torch.testing.assert_close(seen[-1], net(x).seg.detach())
        assert not torch.allclose(seen[-1], seen[-2])


def test_averaging_needs_the_distance_head():
    output = DualTaskNet(width=8, heads=("seg",))(torch.rand(1, 1, 8, 8, 8))
    with pytest.raises(ValueError, match="sdf"):
        averaged_probability(output, torch.ones(1, 3), 50.0)


@pytest.mark.parametrize("recomputed", range(1, MOST_RECOMPUTED + 1))
def test_recomputed_features_change_no_bit_of_outputs_gradients_and_later_draws(recomputed):
    def step(recomputed):
        torch.manual_seed(0)
        net = DualTaskNet(width=8)
        net.recomputed = recomputed
        *parts, deep, projection = net(torch.rand(2, 1, 16, 24, 16))  # with dropout
        parts += [*deep, projection]
        sum(part.square().mean() for part in parts).backward()
        gradients = [p.grad for p in net.parameters()]
        return [*parts, *gradients, torch.rand(3)], net.state_dict()

    (plain, state), (again, other_state) = step(0), step(recomputed)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert state.keys() == other_state.keys()
