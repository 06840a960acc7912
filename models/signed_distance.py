"""The signed distance of a mask and the differentiable transforms between the two tasks.

Signed distances are negative inside, positive outside and, unless said otherwise, Euclidean in mm, clipped at tau
and divided by tau: values in [-1, 1] that mean the same in every patient and centre.

    mask --- signed_distance ---> phi       the target of the regression head
    p    --- mask_to_distance --> R(p)      the segmentation seen by the other task; equals phi for a binary p
    d    --- distance_to_mask --> T(d)      the regression seen by the other task
"""

import math
from collections.abc import Sequence
from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor

TAU_MM = 10.0
STEEPNESS = 50.0  # T rises from 0.1 to 0.9 over 0.09 tau: about one voxel of 0.9 mm at tau = 10 mm
VOXEL_MM = 0.9

CACHED_VOXELS = 1 << 17
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
    foreground = mask > 0.5
    phi = mask.new_ones(mask.shape, dtype=torch.float64 if mask.dtype == torch.float64 else torch.float32)
    steps = (torch.as_tensor(spacing, dtype=torch.float64) / tau).expand(len(mask), 3).tolist()
    for sample, sample_phi, step in zip(foreground[:, 0], phi[:, 0], steps, strict=True):
        if sample.any():
            near = _box_within_tau(sample, step)
            distance = _distance_to_other_class(sample[near], step, phi.dtype)
            sample_phi[near] = torch.where(sample[near], -distance, distance)
    return phi


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


def steepness_on(spacing: Tensor, steepness: float = STEEPNESS) -> float | Tensor:
    """K for voxels of another size, (B, 1, 1, 1, 1): T is to rise over one voxel, or trains none of its neighbours.

    Args:
        spacing: (B, 3) mm. steepness: k at voxels of ``VOXEL_MM``; inf, a cut without slope, stays what it is.
    """
    if math.isinf(steepness):
        return steepness
    voxel = spacing.prod(dim=1) ** (1 / 3)
    return (steepness * VOXEL_MM / voxel).reshape(-1, 1, 1, 1, 1)


def distance_to_mask(distance: Tensor, k: float | Tensor = STEEPNESS) -> Tensor:
    """T(d) = sigmoid(-k d), at least in float32 also under autocast; same shape as ``distance``, in units of tau.

    k = 1500 is the value of Luo et al. (AAAI 2021), which saturates within a fraction of a voxel. k = inf is the
    threshold of the published release: a constant, it trains nothing; kept for the ablation.
    """
    distance = distance.to(torch.promote_types(distance.dtype, torch.float32))
    if not isinstance(k, Tensor) and math.isinf(k):
        return (distance < 0).to(distance.dtype)
    with torch.autocast(distance.device.type, enabled=False):
        return torch.sigmoid(-k * distance)


def per_case_distance(mask: Tensor) -> Tensor:
    """The published target: distances in voxels, inside and outside each divided by its own maximum in the crop.

    Voxels on the inner boundary are 0. For comparison only: its scale differs from crop to crop and ignores the
    spacing. Same shape and device as ``mask`` (B, 1, D, H, W); an empty or full mask gives 0 everywhere.
    """
    # For this comparison alone: everything else in models/ needs torch only.
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


def _box_within_tau(foreground: Tensor, steps: Sequence[float]) -> tuple[slice, ...]:
    """The box of the foreground (D, H, W), not empty, grown by tau: beyond it every voxel is background and +1."""
    first, last = (corner.tolist() for corner in foreground.nonzero().aminmax(dim=0))
    reach = [_search_radius(size, step) for size, step in zip(foreground.shape, steps, strict=True)]
    return tuple(slice(max(0, a - r), b + r + 1) for a, b, r in zip(first, last, reach, strict=True))


def _distance_to_other_class(foreground: Tensor, steps: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Distance from each voxel of ``foreground`` (D, H, W) to the nearest of the other class, at most 1.

    ``steps`` are the spacings (z, y, x); they and the distance are in units of tau. One volume serves both classes.
    In the pass along an axis a neighbour k voxels away offers ``k^2 step^2`` if it is of the other class, else that
    plus its own squared distance so far. Adding its distance to the former too changes no minimum, as the nearest
    of them on the line, found by ``_steps_to_other_class``, offers no more than any of their true values.
    """
    squared = torch.ones(foreground.shape, dtype=dtype, device=foreground.device)
    for axis in (-1, -2, -3):
        step = steps[axis]
        radius = _search_radius(foreground.shape[axis], step)
        for block in _blocks(squared, axis):
            best = squared[block]
            if axis != -1:  # in the first pass nothing is nearer than tau yet
                _lower_by_parabolas(best, step, radius, axis)
            on_line = _steps_to_other_class(foreground[block], radius, axis, dtype).mul_(step).square_()
            torch.minimum(best, on_line, out=best)
    return squared.sqrt_()


def _steps_to_other_class(foreground: Tensor, radius: int, axis: int, dtype: torch.dtype) -> Tensor:
    """Voxels along ``axis`` to the nearest one of the other class, exact up to ``radius``; same shape.

    Voxels at an edge are 1 away; each shift, twice as long as the one before, doubles how far this is known.
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
    """In place ``best[i] = min over |k| <= radius of best[i + k] + (k step)^2`` along ``axis``, for values up to 1."""
    size = best.shape[axis]
    # What lies beyond the border is no nearer than tau. F.pad counts from the last axis.
    cost = F.pad(best, [0, 0] * (-1 - axis) + [radius, radius], value=1.0)
    candidate = torch.empty_like(best)
    for k in range(1, radius + 1):
        torch.minimum(cost.narrow(axis, radius - k, size), cost.narrow(axis, radius + k, size), out=candidate)
        torch.minimum(best, candidate.add_((k * step) ** 2), out=best)


def _search_radius(size: int, step: float) -> int:
    """Voxels, on an axis of ``size``, to the farthest neighbour nearer than tau; ``step`` in units of tau."""
    return min(size, math.ceil(1 / step)) - 1


def _truncated_distance(share: Tensor, spacing: Tensor | Sequence[float], tau: float) -> Tensor:
    """Distance in units of tau to where ``share`` (B, 1, D, H, W) is 0; a share of 1 is as far as tau."""
    spacing = torch.as_tensor(spacing, dtype=share.dtype, device=share.device) / tau
    squared = share
    for axis in range(3):
        step = spacing[..., axis].reshape(-1, 1, 1, 1, 1)  # per sample or shared, in units of tau
        squared = _ParabolaPass.apply(squared, step, axis - 3)
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
    """``out[i] = min over k of cost[i + k] + (k step)^2`` along one axis, for costs in [0, 1].

    Written as its own function because the tape of its minima would hold dozens of copies of the volume; here
    two bytes a voxel remember which k won.
    """

    @staticmethod
    def forward(ctx, cost: Tensor, step: Tensor, axis: int) -> Tensor:
        size = cost.shape[axis]
        radius = _search_radius(size, float(step.min()))
        best = cost.clone()
        winner = torch.zeros(cost.shape, dtype=torch.int16, device=cost.device) if ctx.needs_input_grad[0] else None
        for block in _blocks(cost, axis):
            for k in [k for distance in range(1, radius + 1) for k in (-distance, distance)]:
                # What lies beyond the border is no nearer than tau: only the overlap with the shifted volume counts.
                start, length = max(0, -k), size - abs(k)
                candidate = cost[block].narrow(axis, start + k, length) + (k * step).square()
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


def _blocks(volume: Tensor, axis: int) -> list[tuple[slice | EllipsisType, ...]]:
    """Slabs across ``axis`` (-3 to -1) that a CPU's cache holds during a pass along it; all of it on a GPU."""
    across = -2 if axis == -3 else -3
    count = volume.shape[across]
    thick = count if volume.is_cuda else max(1, CACHED_VOXELS * count // volume.numel())
    after = (slice(None),) * (-across - 1)
    return [(..., slice(first, first + thick), *after) for first in range(0, count, thick)]
