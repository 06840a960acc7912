"""From boxes to a batch: window, one composed spatial field, one resampling, intensity; on the training device.

Scaling, rotation, flips and the elastic deformation are composed into one field in mm about the true centre, and
image and mask are sampled once, together. Downsampling to the network's grid is part of the same field.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from data.cases.labels import HU_WINDOW
from data.samples import NetworkGrid, Sample


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the augmentation; every component is drawn with ``probability``, the flips with one half."""

    probability: float = 0.5
    rotation_degrees: float = 15.0  # about each axis
    scale: tuple[float, float] = (0.8, 1.2)
    elastic_mm: float = 3.0  # standard deviation of the displacement of the control points
    elastic_spacing_mm: float = 40.0  # between control points
    gamma: tuple[float, float] = (0.7, 1.5)
    noise: float = 0.05  # largest standard deviation, in units of the window


class Batch(NamedTuple):
    """image (B, 1, D, H, W) in [0, 1]; mask likewise, 0 or 1; spacing (B, 3) mm of these voxels; the cases."""

    image: Tensor
    mask: Tensor
    spacing: Tensor
    keys: tuple[str, ...]


class Pose(NamedTuple):
    """One draw of the spatial part: ``matrix`` (3, 3) and ``displacement`` (3, d, h, w) in mm, both (z, y, x)."""

    matrix: Tensor
    displacement: Tensor | None


def window(image: Tensor) -> Tensor:
    """HU -> [0, 1] float32, clipped to the window [-100, 240]."""
    low, high = HU_WINDOW
    return ((image.float() - low) / (high - low)).clamp_(0, 1)


def make_batch(
    samples: Sequence[Sample], device: torch.device, generator: Generator | None, settings: Augmentation | None = None
) -> Batch:
    """Move boxes to the device and onto the network's grid, augmented where a generator is given.

    Args:
        samples: of one stage; the batch takes the largest side along each axis, beyond a box lies zero.
        generator: on the CPU; None leaves the boxes as they are (validation).
    """
    settings = settings or Augmentation()
    shape = tuple(max(sample.grid.shape[axis] for sample in samples) for axis in range(3))
    images, masks = [], []
    for sample in samples:
        pair = torch.stack([window(sample.image.to(device)), sample.mask.to(device).float()])[None]
        grid = sample.grid._replace(shape=shape)
        pose = draw_pose(grid, sample.spacing, settings, generator) if generator else None
        image, mask = resample(pair, grid, pose, sample.spacing).split(1, dim=1)
        images.append(augment_intensity(image, settings, generator) if generator else image)
        masks.append((mask >= 0.5).float())
    spacing = [[s * f for s, f in zip(sample.spacing, sample.grid.factor, strict=True)] for sample in samples]
    keys = tuple(sample.key for sample in samples)
    return Batch(torch.cat(images), torch.cat(masks), torch.tensor(spacing, device=device), keys)


def resample(
    volume: Tensor,
    grid: NetworkGrid,
    pose: Pose | None = None,
    spacing: Sequence[float] = (1, 1, 1),
    beyond: str = "zeros",
) -> Tensor:
    """Sample (1, C, D, H, W) trilinearly on a grid whose voxels are ``factor`` as large and start at its corner.

    A factor of 2 is the mean of 2x2x2 voxels; with factors of 1 the volume is padded with zeros or cropped.

    Args:
        pose: deforms in mm about the centre; needs the ``spacing`` of the volume.
        beyond: what lies beyond the volume, "zeros" or its "border" repeated.
    """
    if pose is None and all(f == 1 for f in grid.factor):
        pad = [n for a, b in zip(reversed(grid.shape), reversed(volume.shape[2:]), strict=True) for n in (0, a - b)]
        return F.pad(volume, pad)
    axes = [torch.arange(n, device=volume.device) for n in grid.shape]
    sizes, factors = (
        torch.tensor(v, dtype=torch.float32, device=volume.device) for v in (volume.shape[2:], grid.factor)
    )
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) + 0.5  # (D, H, W, 3), cell centres
    position = index * factors  # in voxels of the volume, from its corner
    if pose is not None:
        mm = torch.tensor(spacing, dtype=torch.float32, device=volume.device)
        centre = sizes / 2 * mm
        moved = (position * mm - centre) @ pose.matrix.T.to(volume.device)
        if pose.displacement is not None:
            smooth = F.interpolate(pose.displacement[None].to(volume.device), grid.shape, mode="trilinear")
            moved += smooth[0].permute(1, 2, 3, 0)
        position = (moved + centre) / mm
    normalised = (2 * position / sizes - 1).flip(-1)  # grid_sample wants (x, y, z)
    return F.grid_sample(volume, normalised[None], mode="bilinear", padding_mode=beyond, align_corners=False)


def draw_pose(grid: NetworkGrid, spacing: Sequence[float], settings: Augmentation, generator: Generator) -> Pose:
    """Rotation about z, y and x, scale, flips, elastic control points: drawn once, applied to image and mask."""
    matrix = torch.eye(3)
    limit = torch.pi / 180 * settings.rotation_degrees
    for first, second in ((1, 2), (0, 2), (0, 1)):
        if _happens(settings, generator):
            matrix = matrix @ _rotation(first, second, _uniform(-limit, limit, generator))
    if _happens(settings, generator):
        matrix = matrix / _uniform(*settings.scale, generator)  # the field looks up: larger scale, smaller steps
    signs = 1 - 2 * (torch.rand(3, generator=generator) < 0.5).float()
    matrix = matrix @ torch.diag(signs)
    displacement = None
    if _happens(settings, generator):
        extent = [n * f * s for n, f, s in zip(grid.shape, grid.factor, spacing, strict=True)]
        points = [max(4, round(mm / settings.elastic_spacing_mm) + 3) for mm in extent]
        displacement = torch.randn(3, *points, generator=generator) * settings.elastic_mm
    return Pose(matrix, displacement)


def augment_intensity(image: Tensor, settings: Augmentation, generator: Generator) -> Tensor:
    """Gamma and Gaussian noise on an image in [0, 1]."""
    if _happens(settings, generator):
        image = image.clamp(min=0) ** _uniform(*settings.gamma, generator)
    if _happens(settings, generator):
        deviation = _uniform(0, settings.noise, generator)
        # Drawn on the CPU: the same seed gives the same noise on every device.
        noise = torch.randn(image.shape, generator=generator).to(image.device)
        image = (image + deviation * noise).clamp(0, 1)
    return image


def _happens(settings: Augmentation, generator: Generator) -> bool:
    return bool(torch.rand((), generator=generator) < settings.probability)


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _rotation(first: int, second: int, angle: float) -> Tensor:
    """Rotation in the plane of two axes."""
    matrix = torch.eye(3)
    cos, sin = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
    matrix[first, first] = matrix[second, second] = cos
    matrix[first, second], matrix[second, first] = -sin, sin
    return matrix
