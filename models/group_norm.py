"""Group normalisation with a gradient that is fast on a CPU."""

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx, once_differentiable

# Where our backward pass is faster than torch's, which vectorises over many channels and makes fewer calls.
MOST_CHANNELS, LEAST_VOXELS = 32, 4096


class GroupNorm(nn.GroupNorm):
    """Group normalisation whose backward pass is fast on a CPU with channels last.

    In that layout torch's own backward pass does not vectorise over a few channels: with 8 it takes longer than the
    gradients of a 3x3x3 convolution. The forward pass is torch's. On other devices, in other layouts, for many channels
    or few voxels and when compiled, both passes are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, D, H, W) over the voxels and the channels of each group."""
        slow = x.device.type == "cpu" and x.ndim == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
        slow &= x.shape[1] <= MOST_CHANNELS and x.shape[2:].numel() >= LEAST_VOXELS
        if slow and x.dtype == self.weight.dtype and not torch.compiler.is_compiling():
            return _GroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        return super().forward(x)


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
