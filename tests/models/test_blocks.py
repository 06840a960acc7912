"""Building blocks that are faster than torch's own give the same values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import channels_last as module
from models.blocks import PointwiseConv3d, StandardisedConv3d
from models.channels_last import NormReLU, add_upsampled, convolve
from models.dual_task_net import DualTaskNet

ROWS = (16, 16, 16)  # sides of enough voxels for our own backward pass


def random_like(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter)


def channels_last(*shape: int) -> Tensor:
    x = 3 * torch.randn(*shape, dtype=torch.double) + 1
    return x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()


def is_ours(y: Tensor) -> bool:
    functions = [y.grad_fn, *(before for before, _ in y.grad_fn.next_functions)] if y.grad_fn else []
    return any(f and f.name() in ("_GroupNormBackward", "_PairedConvolutionBackward") for f in functions)


def gradients(module: nn.Module, x: Tensor, upstream: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(module(x), (x, *module.parameters()), upstream))


@pytest.mark.parametrize(("groups", "channels"), [(8, 8), (2, 8), (1, 3), (3, 3)])
@pytest.mark.parametrize("sides", [ROWS, (17, 13, 19)], ids=str)
@pytest.mark.parametrize("leak", [0, 0.01])
def test_norm_relu_has_the_values_and_gradients_of_torch(groups, channels, sides, leak):
    torch.manual_seed(0)
    ours = NormReLU(groups, channels, leak).double()
    torchs = nn.Sequential(nn.GroupNorm(groups, channels).double(), nn.LeakyReLU(leak))
    random_like(ours)
    torchs[0].load_state_dict(ours.state_dict())
    x = channels_last(2, channels, *sides)
    assert is_ours(ours(x))
    assert torch.equal(ours(x), torchs(x))
    for upstream in (torch.randn_like(x), torch.randn(x.shape, dtype=x.dtype)):  # in both layouts
        for a, b in zip(gradients(ours, x, upstream), gradients(torchs, x, upstream), strict=True):
            torch.testing.assert_close(a, b)


def test_gradient_of_group_norm_is_that_of_finite_differences(monkeypatch):
    torch.manual_seed(0)
    norm = NormReLU(2, 4, leak=1).double()  # without the kink of the ReLU
    random_like(norm)
    monkeypatch.setattr(module, "LEAST_VOXELS", 1)
    arguments = (channels_last(2, 4, 2, 3, 4), *norm.parameters())
    names = [name for name, _ in norm.named_parameters()]

    def normalise(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(norm, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(normalise, arguments)


def test_group_norm_sums_the_gradient_of_its_bias_to_rounding():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 32, 32, 32).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    upstream, norm = torch.rand_like(x), NormReLU(8, 8, leak=1)
    exact = upstream.double().sum((0, 2, 3, 4)).float()
    torch.testing.assert_close(gradients(norm, x, upstream)[-1], exact, rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    ("channels", "sides", "layout"),
    [(8, ROWS, torch.contiguous_format), (8, (8, 8, 8), torch.channels_last_3d), (64, ROWS, torch.channels_last_3d)],
)
def test_group_norm_is_torchs_where_that_is_faster(channels, sides, layout):
    x = torch.randn(1, channels, *sides).contiguous(memory_format=layout).requires_grad_()
    assert not is_ours(NormReLU(8, channels)(x))
    assert is_ours(NormReLU(8, 8)(torch.randn(1, 8, *ROWS).contiguous(memory_format=torch.channels_last_3d)))


@pytest.mark.parametrize(("channels", "sides"), [(64, (4, 5, 6)), (8, ROWS)])
def test_group_norm_learns_from_features_that_need_no_gradient(channels, sides):
    """Those of a frozen encoder, where torch's own backward pass crashes."""
    torch.manual_seed(0)
    x, norm = channels_last(2, channels, *sides), NormReLU(8, channels, leak=1).double()
    upstream = torch.randn_like(x)
    expected = gradients(norm, x, upstream)[1:]
    found = torch.autograd.grad(norm(x.detach()), tuple(norm.parameters()), upstream)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("sides", [(4, 5, 6), (1, 1, 2)], ids=str)
def test_paired_convolution_has_the_values_and_gradients_of_torch(channels, sides):
    torch.manual_seed(0)
    x, filters = channels_last(2, channels, *sides), channels_last(channels, channels, 3, 3, 3)
    ours, torchs = convolve(x, filters, 1, 1), F.conv3d(x, filters, padding=1)
    assert is_ours(ours) and not is_ours(torchs)
    torch.testing.assert_close(ours, torchs)
    for upstream in (torch.randn_like(x), torch.randn(x.shape, dtype=x.dtype)):  # in both layouts
        expected = torch.autograd.grad(torchs, (x, filters), upstream, retain_graph=True)
        for a, b in zip(torch.autograd.grad(ours, (x, filters), upstream, retain_graph=True), expected, strict=True):
            torch.testing.assert_close(a, b)


def test_gradient_of_paired_convolution_is_that_of_finite_differences():
    torch.manual_seed(0)
    x, filters = channels_last(1, 2, 2, 3, 4), channels_last(2, 2, 3, 3, 3)
    assert torch.autograd.gradcheck(lambda x, filters: convolve(x, filters, 1, 1), (x, filters))


@pytest.mark.parametrize(
    ("shape", "side", "stride", "dilation"),
    [((16, 16), 3, 1, 1), ((4, 8), 3, 1, 1), ((8, 8), 1, 1, 1), ((8, 8), 3, 2, 1), ((8, 8), 3, 1, 2)],
)
def test_other_convolutions_are_torchs(shape, side, stride, dilation):
    torch.manual_seed(0)
    out_channels, in_channels = shape
    x, filters = channels_last(2, in_channels, 6, 6, 6), channels_last(out_channels, in_channels, side, side, side)
    y = convolve(x, filters, stride, dilation)
    assert not is_ours(y)
    torch.testing.assert_close(y, F.conv3d(x, filters, None, stride, dilation * (side // 2), dilation))


@pytest.mark.parametrize("batch", [1, 3])
def test_upsampled_features_are_added_as_torch_interpolates_them(batch):
    """By the function for GPUs, which gives the same on a CPU; only slower."""
    torch.manual_seed(0)
    coarse, fine = channels_last(batch, 4, 2, 3, 5), channels_last(batch, 4, 4, 6, 10)
    ours, expected = module._AddUpsampled.apply(coarse, fine), add_upsampled(coarse, fine)
    assert torch.equal(ours, expected) and ours.is_contiguous(memory_format=torch.channels_last_3d)
    upstream = torch.randn_like(fine)
    for a, b in zip(*(torch.autograd.grad(y, (coarse, fine), upstream) for y in (ours, expected)), strict=True):
        torch.testing.assert_close(a, b)


def losses_of_ten_steps(layout: torch.memory_format) -> list[float]:
    """In float64, because in float32 rounding alone changes the losses by per cents within as many steps of Adam."""
    torch.manual_seed(0)
    net = DualTaskNet(width=8, heads=("seg", "sdf", "embedding")).double().to(memory_format=layout)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    x = torch.rand(2, 1, *ROWS, dtype=torch.double).contiguous(memory_format=layout)
    losses = []
    for _ in range(10):
        output = net(x)
        loss = F.binary_cross_entropy_with_logits(output.seg, (x > 0.7).double()) + output.embedding.square().mean()
        loss = loss + (torch.tanh(output.sdf) - x).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_ten_steps_have_the_losses_of_torchs_own_functions():
    """The default layout takes these."""
    fast, plain = (losses_of_ten_steps(layout) for layout in (torch.channels_last_3d, torch.contiguous_format))
    assert fast == pytest.approx(plain, rel=1e-6)
    assert fast[-1] < 0.9 * fast[0]


@pytest.mark.parametrize("out_channels", [1, 5])
def test_pointwise_convolution_equals_a_convolution(out_channels):
    torch.manual_seed(0)
    ours, torchs = PointwiseConv3d(8, out_channels).double(), nn.Conv3d(8, out_channels, 1).double()
    torchs.load_state_dict(ours.state_dict())
    x = channels_last(2, 8, 3, 4, 5)
    torch.testing.assert_close(ours(x), torchs(x))
    upstream = torch.randn(2, out_channels, 3, 4, 5, dtype=torch.double)
    for a, b in zip(gradients(ours, x, upstream), gradients(torchs, x, upstream), strict=True):
        torch.testing.assert_close(a, b)


def test_filters_are_centred_and_divided_by_their_unbiased_deviation():
    torch.manual_seed(0)
    conv, x = StandardisedConv3d(3, 4).double(), channels_last(1, 3, 5, 5, 5)
    weight = conv.weight.detach()
    mean, deviation = weight.mean((1, 2, 3, 4), keepdim=True), weight.std((1, 2, 3, 4), keepdim=True)
    torch.testing.assert_close(conv(x), F.conv3d(x, (weight - mean) / deviation, padding=1))
    nn.init.constant_(conv.weight, 0.3)  # a constant filter becomes zero
    assert conv(x).abs().max() < 1e-6
