"""Signed distance of a mask and the differentiable transforms between the two tasks.

Signed distances are negative inside and positive outside. Unless stated otherwise they are Euclidean distances in mm,
clipped at tau and divided by tau, so that a value in [-1, 1] means the same for every patient and centre.

    mask --- signed_distance ---> phi       target of the regression head
    p    --- mask_to_distance --> R(p)      segmentation expressed as a distance; equals phi for a binary p
    d    --- distance_to_mask --> T(d)      regression expressed as a probability
"""

import math
from collections.abc import Sequence
from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

TAU_MM = 10.0
# k of T(d) = sigmoid(-k d) at voxels of REFERENCE_VOXEL_MM. T then falls from 0.9 to 0.1 over 0.09 tau, which is one
# such voxel at tau = 10 mm.
STEEPNESS = 50.0
REFERENCE_VOXEL_MM = 0.9

BLOCK_VOXELS = 1 << 17  # voxels per block of a pass on the CPU, few enough to stay in its cache
_MIN_TRUE_SLOPE_TAU = 0.1  # about a voxel; at smaller distances the gradient of mask_to_distance stops growing


def signed_distance(mask: Tensor, spacing: Tensor | Sequence[float], tau: float = TAU_MM) -> Tensor:
    """Compute the exact truncated signed distance phi of a binary mask.

    The distance of a voxel is measured from its centre to the nearest centre of a voxel of the other class. An empty
    mask gives +1 everywhere, a full mask -1.

    Args:
        mask: Mask, shape (B, 1, D, H, W); values above 0.5 are foreground.
        spacing: Voxel spacing (z, y, x) in mm, one triple for all samples or a tensor of shape (B, 3).
        tau: Truncation distance in mm.

    Returns:
        Signed distance in units of tau, shape (B, 1, D, H, W), without gradient; float64 for a float64 mask, float32
        otherwise.

    Raises:
        ValueError: If a spacing or tau is not positive.
    """
    foreground = mask > 0.5
    phi = mask.new_ones(mask.shape, dtype=torch.float64 if mask.dtype == torch.float64 else torch.float32)
    steps = (torch.as_tensor(spacing, dtype=torch.float64) / tau).expand(len(mask), 3).tolist()
    if not all(step > 0 for sample_steps in steps for step in sample_steps):
        raise ValueError(f"spacing {spacing} mm and tau {tau} mm must be positive")
    for sample, sample_phi, step in zip(foreground[:, 0], phi[:, 0], steps, strict=True):
        # Finding what is near takes a CPU a moment; a GPU would have to be waited for.
        near = _near_foreground(sample, step) if mask.device.type == "cpu" else (slice(None),) * 3
        if near is None:
            continue
        distance = _distance_to_other_class(sample[near], step, phi.dtype)
        sample_phi[near] = torch.where(sample[near], -distance, distance)
    return phi


def mask_to_distance(probability: Tensor, spacing: Tensor | Sequence[float], tau: float = TAU_MM) -> Tensor:
    """Compute R(p), a differentiable signed distance of a soft mask that is exact where p is binary.

    The squared distance to the foreground is ``min over z of |x - z|^2 + tau^2 (1 - p(z))``, that to the background the
    same with p in place of 1 - p: a voxel z that certainly belongs to the class costs nothing, one that certainly does
    not costs the truncation distance. R(p) is the difference of the two distances. The minimum separates into one pass
    of parabolas per axis, each with a search radius of tau. The gradient flows to the voxel that attains the minimum.

    Args:
        probability: Soft mask in [0, 1], shape (B, 1, D, H, W).
        spacing: Voxel spacing (z, y, x) in mm, one triple for all samples or a tensor of shape (B, 3).
        tau: Truncation distance in mm.

    Returns:
        Signed distance in units of tau, shape (B, 1, D, H, W), with gradient.

    Raises:
        ValueError: If a spacing or tau is not positive.

    References:
        Felzenszwalb and Huttenlocher, Distance transforms of sampled functions, Theory of Computing 8, 2012.
    """
    steps = torch.as_tensor(spacing, dtype=probability.dtype) / tau
    if not bool((steps > 0).all()):
        raise ValueError(f"spacing {spacing} mm and tau {tau} mm must be positive")
    to_foreground = _soft_distance(1 - probability, steps)
    to_background = _soft_distance(probability, steps)
    return to_foreground - to_background


def scale_steepness(spacing: Tensor, steepness: float = STEEPNESS) -> float | Tensor:
    """Adapt the k of T to the voxel size, so that T falls over about one voxel on any grid.

    A steeper T is saturated at the voxels next to the boundary and does not train them.

    Args:
        spacing: Voxel spacing (z, y, x) in mm, shape (B, 3).
        steepness: k at voxels of 0.9 mm.

    Returns:
        k for each sample, shape (B, 1, 1, 1, 1); ``math.inf`` is returned unchanged.
    """
    if math.isinf(steepness):
        return steepness
    voxel_mm = spacing.prod(dim=1) ** (1 / 3)
    return (steepness * REFERENCE_VOXEL_MM / voxel_mm).reshape(-1, 1, 1, 1, 1)


def distance_to_mask(distance: Tensor, k: float | Tensor = STEEPNESS) -> Tensor:
    """Compute T(d) = sigmoid(-k d), the soft mask of a signed distance.

    Args:
        distance: Signed distance in units of tau, any shape.
        k: Steepness, one number or a tensor that broadcasts to ``distance``. 1500 is the value of Luo et al., which
            saturates within a fraction of a voxel. ``math.inf`` gives the mask d < 0, the threshold of the published
            release: a constant without gradient, kept for the ablation.

    Returns:
        Probability in [0, 1] of the shape of ``distance``, computed at least in float32, also under autocast.

    References:
        Luo et al., Semi-supervised medical image segmentation through dual-task consistency, AAAI 2021.
    """
    distance = distance.to(torch.promote_types(distance.dtype, torch.float32))
    if not isinstance(k, Tensor) and math.isinf(k):
        return (distance < 0).to(distance.dtype)
    if isinstance(k, Tensor):
        k = k.to(distance.device, non_blocking=True)
    return torch.sigmoid(-k * distance)


def per_case_distance(mask: Tensor) -> Tensor:
    """Compute the signed distance of the published release, for comparison.

    Distances are in voxels; those inside and those outside are each divided by their maximum in the crop, and voxels on
    the inner boundary are set to 0. The scale therefore differs from crop to crop and ignores the spacing.

    Args:
        mask: Mask, shape (B, 1, D, H, W); values above 0.5 are foreground.

    Returns:
        Signed distance in [-1, 1], float32, same shape and device as ``mask``; 0 everywhere for an empty or full mask.
    """
    # The only function of models/ that needs more than torch.
    import numpy as np
    from scipy import ndimage

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


def _near_foreground(sample: Tensor, steps: Sequence[float]) -> tuple[slice, ...] | None:
    """Return the part of a boolean mask (D, H, W) that is near its foreground; None if it has no foreground."""
    if not sample.any():
        return None
    first, last = (corner.tolist() for corner in sample.nonzero().aminmax(dim=0))
    reach = [_search_radius(size, step) for size, step in zip(sample.shape, steps, strict=True)]
    return tuple(slice(max(0, a - r), b + r + 1) for a, b, r in zip(first, last, reach, strict=True))


def _distance_to_other_class(foreground: Tensor, steps: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Compute the distance from every voxel to the nearest voxel of the other class, clipped at 1.

    One volume holds the distances of both classes. In the pass along an axis, a neighbour k voxels away that has the
    voxel's own class offers ``(k step)^2`` plus its own squared distance so far, one of the other class ``(k step)^2``.
    Treating every neighbour like the former gives the same minimum: it only overestimates neighbours of the other
    class, and the nearest of these along the line, which ``_steps_to_other_class`` finds, is considered exactly.

    Args:
        foreground: Boolean mask, shape (D, H, W).
        steps: Voxel spacing (z, y, x) in units of tau.
        dtype: Type of the result.

    Returns:
        Distance in units of tau, shape (D, H, W).
    """
    squared = torch.ones(foreground.shape, dtype=dtype, device=foreground.device)
    for axis in (-1, -2, -3):
        step = steps[axis]
        radius = _search_radius(foreground.shape[axis], step)
        for block in _blocks(squared, axis):
            best = squared[block]
            if axis != -1:  # before the first pass no voxel is nearer than tau
                _lower_by_parabolas(best, step, radius, axis)
            on_line = _steps_to_other_class(foreground[block], radius, axis, dtype).mul_(step).square_()
            torch.minimum(best, on_line, out=best)
    return squared.sqrt_()


def _steps_to_other_class(foreground: Tensor, radius: int, axis: int, dtype: torch.dtype) -> Tensor:
    """Count the voxels along ``axis`` to the nearest voxel of the other class, exactly up to ``radius``.

    Voxels at an edge between the classes are 1 away from the other class. Each shift is twice as long as the one before
    and doubles the range over which the counts are exact.
    """
    size = foreground.shape[axis]
    steps = torch.full(foreground.shape, math.inf, dtype=dtype, device=foreground.device)
    edge = foreground.narrow(axis, 1, size - 1) != foreground.narrow(axis, 0, size - 1)
    for start in (0, 1):
        steps.narrow(axis, start, size - 1).masked_fill_(edge, 1)
    shift = 1
    while shift < radius:
        farther, overlap = steps + shift, size - shift
        for start, source in ((0, shift), (shift, 0)):
            target = steps.narrow(axis, start, overlap)
            torch.minimum(target, farther.narrow(axis, source, overlap), out=target)
        shift *= 2
    return steps


def _lower_by_parabolas(best: Tensor, step: float, radius: int, axis: int) -> None:
    """Set ``best[i]`` to the minimum over |k| <= radius of ``best[i + k] + (k step)^2`` along ``axis``, in place.

    The values of ``best`` must not exceed 1, the squared truncation distance.
    """
    size = best.shape[axis]
    # Nothing beyond the border is nearer than tau. F.pad counts axes from the last.
    cost = F.pad(best, [0, 0] * (-1 - axis) + [radius, radius], value=1.0)
    candidate = torch.empty_like(best)
    for k in range(1, radius + 1):
        torch.minimum(cost.narrow(axis, radius - k, size), cost.narrow(axis, radius + k, size), out=candidate)
        torch.minimum(best, candidate.add_((k * step) ** 2), out=best)


def _soft_distance(share: Tensor, steps: Tensor) -> Tensor:
    """Compute the distance to where ``share`` (B, 1, D, H, W) is 0; a share of 1 counts as the truncation distance.

    ``steps`` is the spacing (z, y, x) of each sample or of all, shape (B, 3) or (3,), on the CPU; it and the result are
    in units of tau.
    """
    squared = share
    for axis in range(3):
        radius = _search_radius(share.shape[axis - 3], float(steps[..., axis].min()))
        step = steps[..., axis].reshape(-1, 1, 1, 1, 1).to(share.device, non_blocking=True)
        squared = _ParabolaPass.apply(squared, step, radius, axis - 3)
    # The gradient of a square root is infinite at 0. At a voxel of the class itself the distance is 0 and can only
    # grow; holding the slope below _MIN_TRUE_SLOPE_TAU keeps its gradient finite and not zero.
    least = _MIN_TRUE_SLOPE_TAU**2
    slope = 0.5 / _MIN_TRUE_SLOPE_TAU
    near_zero = slope * squared + (squared.sqrt() - slope * squared).detach()
    return torch.where(squared > least, squared.clamp_min(least).sqrt(), near_zero)


class _PassContext(FunctionCtx):
    """What the forward pass of _ParabolaPass leaves for its backward pass."""

    needs_input_grad: tuple[bool, ...]
    axis: int
    winner: Tensor


class _ParabolaPass(torch.autograd.Function):
    """``out[i] = min over k of cost[i + k] + (k step)^2`` along one axis, for costs in [0, 1].

    A composition of torch's minima would keep dozens of copies of the volume for the backward pass. This function
    stores the k that attains each minimum, two bytes per voxel.
    """

    @staticmethod
    def forward(ctx: _PassContext, cost: Tensor, step: Tensor, radius: int, axis: int) -> Tensor:
        size = cost.shape[axis]
        best = cost.clone()
        winner = torch.zeros(cost.shape, dtype=torch.int16, device=cost.device) if ctx.needs_input_grad[0] else None
        for block in _blocks(cost, axis):
            for k in [k for distance in range(1, radius + 1) for k in (-distance, distance)]:
                # Nothing beyond the border is nearer than tau, so only the overlap with the shifted volume counts.
                start, length = max(0, -k), size - abs(k)
                candidate = cost[block].narrow(axis, start + k, length) + (k * step).square()
                target = best[block].narrow(axis, start, length)
                if winner is not None:
                    winner[block].narrow(axis, start, length).masked_fill_(candidate < target, k)
                torch.minimum(target, candidate, out=target)
        ctx.axis = axis
        if winner is not None:
            ctx.winner = winner
        return best

    @staticmethod
    def backward(ctx: _PassContext, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        shape = [1] * gradient.ndim
        shape[ctx.axis] = -1
        here = torch.arange(gradient.shape[ctx.axis], device=gradient.device).reshape(shape)
        source = (here + ctx.winner).clamp_(0, gradient.shape[ctx.axis] - 1)
        return torch.zeros_like(gradient).scatter_add_(ctx.axis, source, gradient), None, None, None


def _search_radius(size: int, step: float) -> int:
    """Count the voxels to the farthest neighbour nearer than tau on an axis of ``size``; ``step`` in units of tau."""
    return min(size, math.ceil(1 / step)) - 1


def _blocks(volume: Tensor, axis: int) -> list[tuple[slice | EllipsisType, ...]]:
    """Divide a volume into slabs across ``axis`` (-3 to -1) that fit the CPU's cache; a GPU takes it whole."""
    across = -2 if axis == -3 else -3
    count = volume.shape[across]
    thick = max(1, BLOCK_VOXELS * count // volume.numel()) if volume.device.type == "cpu" else count
    after = (slice(None),) * (-across - 1)
    return [(..., slice(first, first + thick), *after) for first in range(0, count, thick)]
