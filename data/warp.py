"""Sample a volume on another grid, deformed or not.

Scale, rotation, flips and elastic deformation are composed into a single field in mm about the true centre, and image
and mask are sampled once, together. Resampling to the network's grid is part of the same field.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from data.samples import NetworkGrid

SMOOTHED_ABOVE = 1.3  # an image is smoothed before it is sampled at steps of more voxels than this


class Elastic(NamedTuple):
    """A smooth random displacement: a uniform cubic B-spline that starts at the corner of the network's grid.

    Attributes:
        control: (3, d, h, w), displacement in mm at the control points, along z, y and x.
        spacing_mm: Distance between control points.
        limit_mm: Beyond this the displacement is clipped.
    """

    control: Tensor
    spacing_mm: float
    limit_mm: float

    def on_grid(self, shape: Sequence[int], voxel_mm: Sequence[float], device: torch.device) -> Tensor:
        """Return the displacement in mm at the centres of the voxels of a grid, (D, H, W, 3)."""
        field = self.control.to(device, non_blocking=True)
        for n, mm in zip(reversed(shape), reversed(voxel_mm), strict=True):
            # The last axis is interpolated and becomes the second, so that after three turns all are in their places.
            position = (torch.arange(n, device=device) + 0.5) * (mm / self.spacing_mm)
            field = (field @ _spline_weights(position, field.shape[-1]).T).permute(0, 3, 1, 2)
        return field.permute(1, 2, 3, 0).clamp(-self.limit_mm, self.limit_mm)


class Pose(NamedTuple):
    """One draw of the spatial augmentation.

    Attributes:
        matrix: (3, 3), maps (z, y, x) in mm about the centre of the box.
        elastic: Is added to that, or None.
    """

    matrix: Tensor
    elastic: Elastic | None


def low_pass(image: Tensor, factor: Sequence[float]) -> Tensor:
    """Smooth an image (1, 1, D, H, W) along the axes on which it will be sampled at large steps.

    Otherwise noise and fine texture would be folded into the coarser grid. The standard deviation of the Gaussian is
    (factor - 1) / 2 voxels, as in scikit-image's ``resize``; beyond the image its border is repeated.
    """
    for axis, f in enumerate(factor):
        radius = low_pass_radius(f)
        if radius == 0:
            continue
        weights = [math.exp(-0.5 * (2 * offset / (f - 1)) ** 2) for offset in range(-radius, radius + 1)]
        pad = [0] * 6
        pad[4 - 2 * axis] = pad[5 - 2 * axis] = radius
        padded, length = F.pad(image, pad, mode="replicate"), image.shape[axis + 2]
        image = torch.zeros_like(image)
        for offset, weight in enumerate(weights):  # several times as fast as a convolution of one channel
            image.add_(padded.narrow(axis + 2, offset, length), alpha=weight / sum(weights))
    return image


def low_pass_radius(factor: float) -> int:
    """Return how many voxels ``low_pass`` looks to either side of a voxel."""
    return math.ceil(3 * (factor - 1) / 2) if factor > SMOOTHED_ABOVE else 0


def resample(
    volume: Tensor,
    grid: NetworkGrid,
    pose: Pose | None = None,
    spacing: Sequence[float] = (1, 1, 1),
    beyond: str = "zeros",
) -> Tensor:
    """Sample a volume trilinearly on a grid.

    Args:
        volume: (1, C, D, H, W).
        grid: Shape and voxel size of the result, and where in the volume it starts.
        pose: Deforms in mm about the centre of the grid; None for a grid whose axes are those of the volume.
        spacing: Of the volume, (z, y, x) in mm; only a pose needs it.
        beyond: What lies beyond the volume: "zeros", or its "border" repeated.

    Returns:
        (1, C, *grid.shape).
    """
    if pose is None:
        return _along_axes(volume, grid, beyond)
    start, size, source, mm = (
        torch.tensor(v, dtype=torch.float32) for v in (grid.start, grid.size, volume.shape[2:], spacing)
    )
    # Everything but the elastic displacement is one affine map between cubes of side 2 about the two centres.
    per_mm = 2 / (source * mm)  # (3,)
    matrix = per_mm[:, None] * pose.matrix * (size * mm / 2)
    theta = torch.cat([matrix, (2 * (start + size / 2) / source - 1)[:, None]], dim=1)  # (3, 4), for (z, y, x)
    theta = torch.cat([theta[:, :3].flip(0, 1), theta[:, 3:].flip(0)], dim=1)  # affine_grid wants (x, y, z)
    theta = theta[None].to(volume, non_blocking=True)
    position = F.affine_grid(theta, [1, 1, *grid.shape], align_corners=False)  # (1, D, H, W, 3)
    if pose.elastic is not None:
        voxel_mm = [f * s for f, s in zip(grid.factor, spacing, strict=True)]
        displacement = pose.elastic.on_grid(grid.shape, voxel_mm, volume.device)
        position += (displacement * per_mm.to(volume, non_blocking=True)).flip(-1)
    return F.grid_sample(volume, position, mode="bilinear", padding_mode=beyond, align_corners=False)


def _along_axes(volume: Tensor, grid: NetworkGrid, beyond: str) -> Tensor:
    """Interpolate along one axis after the other, as the axes of volume and grid are parallel.

    That takes a third of the time of sampling every voxel at its own position, and no positions are kept.
    """
    for dim, (count, factor, start) in enumerate(zip(*grid, strict=True), start=2):
        most = volume.shape[dim] - 1
        position = start + (torch.arange(count, device=volume.device, dtype=torch.float32) + 0.5) * factor - 0.5
        below = position.floor()
        share = position - below
        weights = [1 - share, share]
        if beyond == "zeros":
            weights = [weight * ((i >= 0) & (i <= most)) for weight, i in zip(weights, (below, below + 1), strict=True)]
        low, high = (volume.index_select(dim, (below + i).clamp_(0, most).long()) for i in (0, 1))
        low_weight, high_weight = (weight.reshape([-1] + [1] * (4 - dim)) for weight in weights)
        volume = low.mul_(low_weight).addcmul_(high, high_weight)
    return volume


def _spline_weights(position: Tensor, points: int) -> Tensor:
    """Return the weights of the control points of a uniform cubic B-spline at positions in units of their distance.

    Args:
        position: (N,), from 0 to ``points - 4``.
        points: Number of control points; the first one lies at -1.

    Returns:
        (N, points); every row sums to 1.
    """
    distance = (position[:, None] + 1 - torch.arange(points, device=position.device)).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    return torch.where(distance < 1, near, (2 - distance).clamp(min=0) ** 3 / 6)
