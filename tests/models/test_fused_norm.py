"""The kernels for GPUs; without a GPU, Triton interprets them on the CPU (see conftest.py)."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="needs Triton")

from models.fused_norm import TILE, TILES, norm_relu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(
    ("channels", "groups", "sides", "leak"),
    [(32, 8, (4, 6, 10), 0.0), (24, 8, (3, 5, 7), 0.01), (6, 6, (9, 9, 9), 0.0), (64, 8, (2, 3, 3), 0.01)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_values_and_gradients_are_those_of_torch_in_double_precision(channels, groups, sides, leak, dtype):
    torch.manual_seed(0)
    x = (2 * torch.randn(2, channels, *sides, device=DEVICE) + 0.7).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    weight, bias = (torch.randn(channels, device=DEVICE).requires_grad_() for _ in range(2))
    upstream = torch.randn_like(x)
    y = norm_relu(x, weight, bias, groups, 1e-5, leak)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last_3d)
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    expected = F.leaky_relu(F.group_norm(exact[0], groups, *exact[1:]), leak)
    found = [y, *torch.autograd.grad(y, (x, weight, bias), upstream)]
    wanted = [expected, *torch.autograd.grad(expected, exact, upstream.double())]
    for a, b, exact_to in zip(found, wanted, (x, x, weight, bias), strict=True):
        limit = 5e-3 if exact_to.dtype == torch.bfloat16 else 2e-6
        assert (a.double() - b).norm() <= limit * b.norm()


def test_several_programs_share_a_sample():
    torch.manual_seed(0)
    x = torch.randn(1, 8, 3, 67, 101, device=DEVICE)
    assert x[0].numel() > 2 * TILE * TILES
    ones, zeros = torch.ones(8, device=DEVICE), torch.zeros(8, device=DEVICE)
    torch.testing.assert_close(norm_relu(x, ones, zeros, 8, 1e-5, 0.0), F.relu(F.group_norm(x, 8)))
