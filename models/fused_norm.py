"""Group normalisation and the (leaky) ReLU after it, fused for GPUs and features in channels last.

torch has no kernel for this layout: it copies the features into its default one, and the convolution copies them back.
Here both directions read the features twice and write them once, which is what memory allows. The kernels are written
in Triton, which comes with torch where torch is built for CUDA.

With n = rstd (x - mean) over a group of channels, the output is y = relu(weight n + bias) = relu(scale x + shift),
where scale and shift belong to a channel of a sample. Neither n nor y is kept for the backward pass: whether the ReLU
passed a value on follows from scale x + shift. With the gradient g of that and means over a group, the gradient of x is

    dx = rstd (weight g - mean(weight g) - n mean(weight g n)) = of_g g + of_x x + constant,

again with three factors for each channel of a sample. Each direction is three kernels: one sums over parts of a sample,
one turns the sums into factors, one applies them. Small operations of torch in their place would keep the GPU waiting.
"""

from typing import cast

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx, once_differentiable

TILE = 4096  # values that a program handles at a time
TILES = 16  # that it sums up; a batch at full resolution then gives each multiprocessor several programs


def norm_relu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, leak: float) -> Tensor:
    """Compute leaky_relu(group_norm(x)); sums are in float32 whatever the type of x.

    Args:
        x: Features on a GPU, shape (B, C, D, H, W), best in channels last, as is the result.
        weight: Of the normalisation, shape (C,), float32.
        bias: Likewise.
        groups: Groups of channels that are normalised together.
        eps: Is added to the variance.
        leak: Slope for negative values; 0 is ReLU.
    """
    with torch.cuda.device_of(x):  # Triton launches on the current GPU, whichever the tensors are on
        return cast("Tensor", _NormReLU.apply(x, weight, bias, groups, eps, leak))


class _NormReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, leak: float
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        (batch, channels), voxels = x.shape[:2], x[0, 0].numel()
        factors = weight.new_empty(2, batch, channels)  # scale and shift
        moments = weight.new_empty(2, batch, groups)  # mean and rstd
        parts = _sum_parts(x, x, factors, leak, with_gradient=False)
        _scale_kernel[(batch, groups)](
            parts, weight, bias, factors, moments, voxels, float(eps), **_group_tile(parts, groups)
        )
        ctx.groups, ctx.leak = groups, leak  # type: ignore[attr-defined]
        ctx.save_for_backward(x, weight, factors, moments)
        return _apply(x, factors, x, factors, leak, with_gradient=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: BackwardCFunction, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factors, moments = ctx.saved_tensors  # type: ignore[misc]  # declared as a single tensor
        groups, leak = ctx.groups, ctx.leak  # type: ignore[attr-defined]
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        (batch, channels), voxels = x.shape[:2], x[0, 0].numel()
        found = weight.new_empty(5, batch, channels)  # of_g, of_x, constant; what is summed for weight and bias
        parts = _sum_parts(x, gradient, factors, leak, with_gradient=True)
        _gradient_kernel[(batch, groups)](parts, weight, moments, found, voxels, **_group_tile(parts, groups))
        dx = _apply(x, factors, gradient, found, leak, with_gradient=True)
        d_weight, d_bias = found[3:].sum(1)
        return dx, d_weight, d_bias, None, None, None


def _tile(channels: int) -> dict[str, int]:
    """Return the shape of the tile of a program, whose sides have to be powers of two."""
    width = triton.next_power_of_2(channels)
    return {"ROWS": max(1, TILE // width), "CHANNELS": width}


def _group_tile(parts: Tensor, groups: int) -> dict[str, int]:
    """Return what a program needs that adds up the parts of a group."""
    count, width = parts.shape[1], parts.shape[3] // groups
    powers = {"PARTS": triton.next_power_of_2(count), "WIDTH": triton.next_power_of_2(width)}
    return {"count": count, "width": width, **powers}


def _sum_parts(x: Tensor, gradient: Tensor, factors: Tensor, leak: float, *, with_gradient: bool) -> Tensor:
    """Sum x and x^2, or g and g x, over the voxels of each part of a sample, in float32: (B, parts, 2, C)."""
    (batch, channels), voxels = x.shape[:2], x[0, 0].numel()
    tile = _tile(channels)
    count = triton.cdiv(voxels, tile["ROWS"] * TILES)
    parts = factors.new_empty(batch, count, 2, channels)
    _sum_kernel[(count, batch)](
        x, gradient, factors, parts, voxels, channels, float(leak), WITH_GRADIENT=with_gradient, TILES=TILES, **tile
    )
    return parts


def _apply(
    x: Tensor, factors: Tensor, gradient: Tensor, of_gradient: Tensor, leak: float, *, with_gradient: bool
) -> Tensor:
    """Compute relu(scale x + shift), or from its gradient that of x."""
    result = torch.empty_like(x)
    (batch, channels), voxels = x.shape[:2], x[0, 0].numel()
    tile = _tile(channels)
    _apply_kernel[(triton.cdiv(voxels, tile["ROWS"]), batch)](
        x, factors, gradient, of_gradient, result, voxels, channels, float(leak), WITH_GRADIENT=with_gradient, **tile
    )
    return result


@triton.jit
def _sum_kernel(
    x_ptr,
    gradient_ptr,
    factors_ptr,
    parts_ptr,
    voxels,
    channels,
    leak,
    WITH_GRADIENT: tl.constexpr,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Sum over one part, which is some tiles; a row of a tile is a voxel."""
    part, sample, batch = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    channel = tl.arange(0, CHANNELS)
    exists = channel < channels
    total, total_x = tl.zeros((ROWS, CHANNELS), tl.float32), tl.zeros((ROWS, CHANNELS), tl.float32)
    if WITH_GRADIENT:
        scale = tl.load(factors_ptr + sample * channels + channel, mask=exists, other=0.0)[None, :]
        shift = tl.load(factors_ptr + (batch + sample) * channels + channel, mask=exists, other=0.0)[None, :]
    for step in range(TILES):
        row = (part * TILES + step) * ROWS + tl.arange(0, ROWS)
        inside = (row < voxels)[:, None] & exists[None, :]
        place = (sample.to(tl.int64) * voxels + row.to(tl.int64)[:, None]) * channels + channel[None, :]
        x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
        if WITH_GRADIENT:
            g = tl.load(gradient_ptr + place, mask=inside, other=0.0).to(tl.float32)
            g = tl.where(x * scale + shift > 0, g, g * leak)
            total += g
            total_x += g * x
        else:
            total += x
            total_x += x * x
    out = parts_ptr + (sample * tl.num_programs(0) + part) * 2 * channels + channel
    tl.store(out, tl.sum(total, 0), mask=exists)
    tl.store(out + channels, tl.sum(total_x, 0), mask=exists)


@triton.jit
def _group_sums(parts_ptr, count, width, PARTS: tl.constexpr, WIDTH: tl.constexpr):
    """Add up the parts of one group of one sample: its channels, which of them exist, and both sums of each."""
    sample, group = tl.program_id(0), tl.program_id(1)
    channels = tl.num_programs(1) * width
    inner = tl.arange(0, WIDTH)
    channel, exists = group * width + inner, inner < width
    part = tl.arange(0, PARTS)
    inside = (part < count)[:, None] & exists[None, :]
    place = parts_ptr + (sample * count + part)[:, None] * 2 * channels + channel[None, :]
    first = tl.sum(tl.load(place, mask=inside, other=0.0), 0)
    second = tl.sum(tl.load(place + channels, mask=inside, other=0.0), 0)
    return channel, exists, first, second


@triton.jit
def _scale_kernel(
    parts_ptr,
    weight_ptr,
    bias_ptr,
    factors_ptr,
    moments_ptr,
    voxels,
    eps,
    count,
    width,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Compute scale and shift of the channels of one group of one sample, and the mean and rstd of the group."""
    sample, group, batch, groups = tl.program_id(0), tl.program_id(1), tl.num_programs(0), tl.num_programs(1)
    channel, exists, sums, squares = _group_sums(parts_ptr, count, width, PARTS, WIDTH)
    size = voxels * 1.0 * width
    mean = tl.sum(sums, 0) / size
    rstd = 1 / tl.sqrt(tl.maximum(tl.sum(squares, 0) / size - mean * mean, 0.0) + eps)
    scale = rstd * tl.load(weight_ptr + channel, mask=exists, other=0.0)
    shift = tl.load(bias_ptr + channel, mask=exists, other=0.0) - mean * scale
    out, step = factors_ptr + sample * groups * width + channel, batch * groups * width
    tl.store(out, scale, mask=exists)
    tl.store(out + step, shift, mask=exists)
    tl.store(moments_ptr + sample * groups + group, mean)
    tl.store(moments_ptr + (batch + sample) * groups + group, rstd)


@triton.jit
def _gradient_kernel(
    parts_ptr,
    weight_ptr,
    moments_ptr,
    found_ptr,
    voxels,
    count,
    width,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Compute of_g, of_x and constant of the channels of one group of one sample, and its share in d weight, d bias."""
    sample, group, batch, groups = tl.program_id(0), tl.program_id(1), tl.num_programs(0), tl.num_programs(1)
    channel, exists, sum_g, sum_gx = _group_sums(parts_ptr, count, width, PARTS, WIDTH)
    mean = tl.load(moments_ptr + sample * groups + group)
    rstd = tl.load(moments_ptr + (batch + sample) * groups + group)
    weight = tl.load(weight_ptr + channel, mask=exists, other=0.0)
    size = voxels * 1.0 * width
    sum_gn = rstd * (sum_gx - mean * sum_g)
    of_x = -rstd * rstd * tl.sum(weight * sum_gn, 0) / size
    constant = -rstd * tl.sum(weight * sum_g, 0) / size - of_x * mean
    out, step = found_ptr + sample * groups * width + channel, batch * groups * width
    tl.store(out, rstd * weight, mask=exists)
    tl.store(out + step, tl.zeros((WIDTH,), tl.float32) + of_x, mask=exists)
    tl.store(out + 2 * step, tl.zeros((WIDTH,), tl.float32) + constant, mask=exists)
    tl.store(out + 3 * step, sum_gn, mask=exists)
    tl.store(out + 4 * step, sum_g, mask=exists)


@triton.jit
def _apply_kernel(
    x_ptr,
    factors_ptr,
    gradient_ptr,
    of_gradient_ptr,
    result_ptr,
    voxels,
    channels,
    leak,
    WITH_GRADIENT: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Write one tile of the result."""
    sample, batch = tl.program_id(1), tl.num_programs(1)
    channel = tl.arange(0, CHANNELS)
    exists = channel < channels
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (row < voxels)[:, None] & exists[None, :]
    place = (sample.to(tl.int64) * voxels + row.to(tl.int64)[:, None]) * channels + channel[None, :]
    of_sample, step = sample * channels + channel, batch * channels
    scale = tl.load(factors_ptr + of_sample, mask=exists, other=0.0)[None, :]
    shift = tl.load(factors_ptr + of_sample + step, mask=exists, other=0.0)[None, :]
    x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
    y = x * scale + shift
    if WITH_GRADIENT:
        g = tl.load(gradient_ptr + place, mask=inside, other=0.0).to(tl.float32)
        g = tl.where(y > 0, g, g * leak)
        of_g = tl.load(of_gradient_ptr + of_sample, mask=exists, other=0.0)[None, :]
        of_x = tl.load(of_gradient_ptr + of_sample + step, mask=exists, other=0.0)[None, :]
        constant = tl.load(of_gradient_ptr + of_sample + 2 * step, mask=exists, other=0.0)[None, :]
        result = g * of_g + x * of_x + constant
    else:
        result = tl.where(y > 0, y, y * leak)
    tl.store(result_ptr + place, result.to(result_ptr.dtype.element_ty), mask=inside)
