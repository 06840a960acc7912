"""The signed distance of a mask and the differentiable transforms between the two tasks.

Signed distances are negative inside, positive outside and, unless said otherwise, Euclidean in mm, clipped at tau
and divided by tau: values in [-1, 1] that mean the same in every patient and centre.

    mask --- signed_distance ---> phi       the target of the regression head
    p    --- mask_to_distance --> R(p)      the segmentation seen by the other task; equals phi for a binary p
    d    --- distance_to_mask --> T(d)      the regression seen by the other task
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

TAU_MM = 10.0
STEEPNESS = 50.0  # T rises from 0.1 to 0.9 over 0.09 tau: about one voxel of 0.9 mm at tau = 10 mm

CACHED_VOXELS = 1 << 16
_STEEPEST = 0.1  # in units of tau, where the gradient of a distance stops growing: about a voxel


def signed_distance(mask: Tensor, spacing: Tensor | Sequence[float], tau: float = TAU_MM) -> Tensor:
    """The exact truncated signed distance phi of a binary mask.

    A voxel's distance is that to the nearest voxel centre of the other class. Defined for an empty mask (+1
    everywhere) and a full one (-1).

    Args:
        mask: (B, 1, D, H, W), foreground where > 0.5.
        spacing: mm (z, y, x), one triple for all samples or a tensor (B, 3).
        tau: mm at which distances are clipped, and their unit.

    Returns float32 (or float64 for a float64 mask) of the mask's shape, without gradient.
    """
    binary = (mask > 0.5).to(mask.dtype if mask.is_floating_point() else torch.float32)
    with torch.no_grad():
        return mask_to_distance(binary, spacing, tau)


def mask_to_distance(probability: Tensor, spacing: Tensor | Sequence[float], tau: float = TAU_MM) -> Tensor:
    """R(p): a differentiable signed distance of a soft mask, exact where p is binary.

    The squared distance outside is ``min over z of |x - z|^2 + tau^2 (1 - p(z))`` and inside the same with p in
    place of 1 - p: a voxel that is foreground costs nothing, one that is not costs the truncation. The minimum over
    z separates into one pass of parabolas per axis (Felzenszwalb and Huttenlocher, 2012), each needing only a
    search radius of tau. The gradient flows to the voxel that attains the minimum.

    Args and shapes as in ``signed_distance``, ``probability`` in [0, 1].
    """
    outside = _truncated_distance(1 - probability, spacing, tau)
    inside = _truncated_distance(probability, spacing, tau)
    return outside - inside


def distance_to_mask(distance: Tensor, k: float = STEEPNESS) -> Tensor:
    """T(d) = sigmoid(-k d), in float32 also under autocast; same shape as ``distance``, which is in units of tau.

    k = 1500 is the value of Luo et al. (AAAI 2021), which saturates within a fraction of a voxel.
    """
    with torch.autocast(distance.device.type, enabled=False):
        return torch.sigmoid(-k * distance.float())


def per_case_distance(mask: Tensor) -> Tensor:
    """The published target: distances in voxels, inside and outside each divided by its own maximum in the crop.

    Voxels on the inner boundary are 0. For comparison only: its scale differs from crop to crop and ignores the
    spacing. Same shape and device as ``mask`` (B, 1, D, H, W); an empty or full mask gives 0 everywhere.
    """
    from scipy import ndimage  # for this comparison alone: everything else in models/ needs torch only

    cross = ndimage.generate_binary_structure(3, 1)
    targets = []
    for sample in mask[:, 0].cpu().numpy() > 0.5:
        if sample.all() or not sample.any():
            targets.append(np.zeros(sample.shape, np.float32))
            continue
        outside = ndimage.distance_transform_edt(~sample)
        inside = ndimage.distance_transform_edt(sample)
        target = outside / outside.max() - inside / inside.max()
        target[sample & ~ndimage.binary_erosion(sample, cross, border_value=1)] = 0
        targets.append(target.astype(np.float32))
    return torch.from_numpy(np.stack(targets))[:, None].to(mask.device)


def _truncated_distance(share: Tensor, spacing: Tensor | Sequence[float], tau: float) -> Tensor:
    """Distance in units of tau to where ``share`` (B, 1, D, H, W) is 0; a share of 1 is as far as tau."""
    spacing = torch.as_tensor(spacing, dtype=share.dtype, device=share.device) / tau
    squared = share
    for axis in range(3):
        step = spacing[..., axis].reshape(-1, 1, 1, 1, 1)  # per sample or shared, in units of tau
        squared = _ParabolaPass.apply(squared, step.square(), axis + 2)
    return _sqrt_of_bounded_slope(squared)


def _sqrt_of_bounded_slope(x: Tensor) -> Tensor:
    """sqrt(x), whose gradient, infinite at 0, grows no further below the square of ``_STEEPEST``.

    At a voxel of the mask the distance is 0 and can only grow: a finite slope keeps every voxel trained.
    """
    least = _STEEPEST**2
    slope = 0.5 / _STEEPEST
    near_zero = slope * x + (x.sqrt() - slope * x).detach()
    return torch.where(x > least, x.clamp_min(least).sqrt(), near_zero)


class _ParabolaPass(torch.autograd.Function):
    """``out[i] = min over k of cost[i + k] + k^2 step`` along one axis, for costs in [0, 1].

    Written as its own function because the tape of its minima would hold dozens of copies of the volume; here
    one byte a voxel remembers which k won.
    """

    @staticmethod
    def forward(ctx, cost: Tensor, step: Tensor, axis: int) -> Tensor:
        size = cost.shape[axis]
        radius = min(size - 1, math.ceil(float(step.min()) ** -0.5))
        best = cost.clone()
        winner = torch.zeros(cost.shape, dtype=torch.int16, device=cost.device) if ctx.needs_input_grad[0] else None
        for block in _blocks(cost, axis):
            for k in [k for distance in range(1, radius + 1) for k in (-distance, distance)]:
                # What lies beyond the border is no nearer than tau: only the overlap with the shifted volume counts.
                start, length = max(0, -k), size - abs(k)
                candidate = cost[block].narrow(axis, start + k, length) + k * k * step
                target = best[block].narrow(axis, start, length)
                if winner is not None:
                    winner[block].narrow(axis, start, length).masked_fill_(candidate < target, k)
                torch.minimum(target, candidate, out=target)
        ctx.axis, ctx.winner = axis, winner
        return best

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        shape = [1] * gradient.ndim
        shape[ctx.axis] = -1
        here = torch.arange(gradient.shape[ctx.axis], device=gradient.device).reshape(shape)
        source = (here + ctx.winner).clamp_(0, gradient.shape[ctx.axis] - 1)
        return torch.zeros_like(gradient).scatter_add_(ctx.axis, source, gradient), None, None


def _blocks(volume: Tensor, axis: int) -> list[tuple[slice, ...]]:
    """Slabs across ``axis`` that a CPU's cache holds while they are compared with themselves; all of it on a GPU."""
    across = 3 if axis == 2 else 2
    count = volume.shape[across]
    thick = count if volume.is_cuda else max(1, CACHED_VOXELS * count // volume.numel())
    before = (slice(None),) * across
    return [(*before, slice(first, first + thick)) for first in range(0, count, thick)]
