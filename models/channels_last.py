"""What torch computes slowly with channels last, computed faster: group norm, and narrow convolutions on a CPU.

In other layouts torch's own functions are used.
"""

import functools
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx, once_differentiable

CHANNELS_LAST = torch.channels_last_3d
# Where our backward pass of group norm is the faster one: torch's vectorises over many channels and makes fewer calls.
MOST_CHANNELS, LEAST_VOXELS = 32, 4096
HALF_A_VECTOR = 8  # channels of float32; a vector of AVX-512 holds twice as many


def is_slow_in_torch(x: Tensor, weight: Tensor) -> bool:
    """Return whether (B, C, D, H, W) has the layout and the type that a CPU is made fast for here."""
    if x.device.type != "cpu" or x.dtype != weight.dtype or torch.is_autocast_enabled("cpu"):
        return False
    return x.ndim == 5 and x.is_contiguous(memory_format=CHANNELS_LAST)


class NormReLU(nn.GroupNorm):
    """Group normalisation followed by a (leaky) ReLU.

    On a GPU with channels last both are one (``models.fused_norm``). On a CPU in that layout, torch's own backward pass
    of the normalisation does not vectorise over a few channels: with 8 it takes longer than the gradients of a 3x3x3
    convolution. Ours does; the forward pass is torch's.

    Args:
        groups: Groups of channels that are normalised together.
        channels: Channels of the features.
        leak: Slope for negative values; 0 is ReLU.
    """

    def __init__(self, groups: int, channels: int, leak: float = 0.0) -> None:
        super().__init__(groups, channels)
        self.leak = leak

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, D, H, W) over the voxels and the channels of each group, and apply the ReLU."""
        if x.is_cuda and x.is_contiguous(memory_format=CHANNELS_LAST) and not why_not_fused():
            from models.fused_norm import norm_relu  # needs Triton

            return norm_relu(x, self.weight, self.bias, self.num_groups, self.eps, self.leak)
        y = self._normalise(x)  # may be overwritten, as no gradient needs it
        return F.leaky_relu_(y, self.leak) if self.leak else F.relu_(y)

    def _normalise(self, x: Tensor) -> Tensor:
        large = x.shape[1] <= MOST_CHANNELS and x.shape[2:].numel() >= LEAST_VOXELS
        # Below a frozen part of the network x needs no gradient. Torch's backward pass then writes one all the same in
        # this layout, and crashes (torch 2.13).
        frozen = torch.is_grad_enabled() and not x.requires_grad and self.weight.requires_grad
        if (large or frozen) and is_slow_in_torch(x, self.weight):
            return cast("Tensor", _GroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps))
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        # In half precision torch sums in float32 by itself. Autocast would also keep a copy of x in float32.
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        batch, channels = x.shape[:2]
        y, mean, rstd = torch.native_group_norm(x, weight, bias, batch, channels, x[0, 0].numel(), groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: BackwardCFunction, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias.

        With the gradient g of the output, the normalised input n = rstd (x - mean) and means over a group,

            dx = rstd (weight g - mean(weight g) - n mean(weight g n)),

        which is linear in g and x. All passes over the voxels work on rows of W * C contiguous values, which vectorise
        for any number of channels.
        """
        x, weight, mean, rstd = ctx.saved_tensors  # type: ignore[misc]  # declared as a single tensor
        (batch, groups), width, size = mean.shape, x.shape[-1], x[0].numel() // mean.shape[1]  # values of a group
        x_rows, g_rows = (t.movedim(1, -1).flatten(3) for t in (x, gradient))  # (B, D, H, W * C)
        mean, rstd = (t.view(batch, 1, groups, 1) for t in (mean, rstd))
        weight = weight.view(groups, -1)  # (groups, channels of a group)

        def sum_voxels(rows: Tensor) -> Tensor:  # (B, 1, groups, channels of a group)
            return rows.sum((1, 2)).view(batch, width, *weight.shape).sum(1, keepdim=True)

        def along_rows(factor: Tensor) -> Tensor:  # (B, 1, 1, W * C)
            return factor.expand(batch, width, *weight.shape).flatten(1)[:, None, None]

        sum_g = sum_voxels(g_rows)
        sum_gn = rstd * (sum_voxels(g_rows * x_rows) - mean * sum_g)
        mean_g, mean_gn = ((weight * sums).sum(3, keepdim=True) / size for sums in (sum_g, sum_gn))
        slope = -rstd.square() * mean_gn
        dx = torch.addcmul(along_rows(-rstd * mean_g - slope * mean), g_rows, along_rows(rstd * weight))
        dx.addcmul_(x_rows, along_rows(slope))
        dx = dx.unflatten(3, (width, -1)).movedim(-1, 1)
        return dx, sum_gn.sum(0).flatten(), sum_g.sum(0).flatten(), None, None


@functools.cache
def why_not_fused() -> str:
    """Return why the kernels for GPUs cannot be used on this machine; empty if they can. They are tried once."""
    try:
        from models.fused_norm import norm_relu

        one = torch.ones(8, device="cuda")
        norm_relu(torch.ones(1, 8, 2, 2, 2, device="cuda"), one, one, 8, 1e-5, 0.0)
    except Exception as error:  # no Triton, as on Windows, or whatever its compiler lacks
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return ""


def add_upsampled(coarse: Tensor, fine: Tensor) -> Tensor:
    """Double the sides of (B, C, D/2, H/2, W/2) by nearest-neighbour interpolation and add (B, C, D, H, W).

    torch interpolates on a GPU in its default layout only, so that the features would be copied there and back.
    """
    if coarse.is_cuda and fine.is_contiguous(memory_format=CHANNELS_LAST):
        return cast("Tensor", _AddUpsampled.apply(coarse, fine))
    return F.interpolate(coarse, scale_factor=2, mode="nearest") + fine


class _AddUpsampled(torch.autograd.Function):
    """Adds each coarse voxel to the eight fine ones in its place."""

    @staticmethod
    def forward(ctx: FunctionCtx, coarse: Tensor, fine: Tensor) -> Tensor:
        pairs = fine.movedim(1, -1)
        for axis in (3, 2, 1):
            pairs = pairs.unflatten(axis, (-1, 2))  # (B, D/2, 2, H/2, 2, W/2, 2, C)
        pairs = pairs + coarse.movedim(1, -1)[:, :, None, :, None, :, None]
        return pairs.flatten(5, 6).flatten(3, 4).flatten(1, 2).movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: BackwardCFunction, gradient: Tensor) -> tuple[Tensor, Tensor]:
        coarse = gradient.movedim(1, -1)
        for axis in (1, 2, 3):
            coarse = torch.add(*coarse.unflatten(axis, (-1, 2)).unbind(axis + 1))
        return coarse.movedim(-1, 1), gradient


def convolve(x: Tensor, filters: Tensor, stride: int, dilation: int) -> Tensor:
    """Convolve (B, I, D, H, W) with filters (O, I, k, k, k), padded so that a stride of 1 keeps the size.

    With at most HALF_A_VECTOR channels before and after, 3x3x3 filters are applied to two neighbouring voxels at once,
    which fills the vectors of the processor: 4/3 of the operations in 2/3 of the time.
    """
    narrow = filters.shape[0] == filters.shape[1] <= HALF_A_VECTOR and filters.shape[2:] == (3, 3, 3)
    if narrow and stride == dilation == 1 and x.shape[-1] % 2 == 0 and is_slow_in_torch(x, filters):
        return cast("Tensor", _PairedConvolution.apply(x, filters))
    return F.conv3d(x, filters, None, stride, dilation * (filters.shape[-1] // 2), dilation)


class _PairedConvolution(torch.autograd.Function):
    """A 3x3x3 convolution that computes pairs of voxels, (2w, 2w + 1), from the four that either of them sees."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, filters: Tensor) -> Tensor:
        ctx.save_for_backward(x, filters)
        return _convolve_pairs(x, filters)

    @staticmethod
    @once_differentiable
    def backward(ctx: BackwardCFunction, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, filters = ctx.saved_tensors  # type: ignore[misc]  # declared as a single tensor
        dx = _convolve_pairs(gradient, filters.transpose(0, 1).flip(2, 3, 4))
        pairs = gradient.movedim(1, -1).unflatten(3, (-1, 2)).flatten(4).movedim(-1, 1)  # (B, 2 O, D, H, W / 2)
        geometry = ((1, 1, 2), (1, 1, 1), (1, 1, 1), False, (0, 0, 0), 1)  # stride, padding, dilation, ..., groups
        wanted = (False, True, False)  # the gradient of the filters only
        _, both, _ = torch.ops.aten.convolution_backward(pairs, x, _pair(filters), None, *geometry, wanted)
        left, right = both.chunk(2)
        return dx, left[..., :-1] + right[..., 1:]


def _pair(filters: Tensor) -> Tensor:
    """Return the filters of both voxels of a pair, shape (2 O, I, 3, 3, 4)."""
    pair = torch.cat([F.pad(filters, (0, 1)), F.pad(filters, (1, 0))])
    return pair.contiguous(memory_format=CHANNELS_LAST)


def _convolve_pairs(x: Tensor, filters: Tensor) -> Tensor:
    pairs = F.conv3d(x, _pair(filters), None, stride=(1, 1, 2), padding=1)  # (B, 2 O, D, H, W / 2)
    return pairs.movedim(1, -1).unflatten(4, (2, -1)).flatten(3, 4).movedim(-1, 1)
