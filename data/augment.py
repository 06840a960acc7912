"""From boxes to a batch on the training device: HU window, one composed spatial field, one resampling, grey values.

Scale, rotation, flips and elastic deformation are composed into a single field in mm about the true centre, and image
and mask are sampled once, together. Downsampling to the network's grid is part of the same field.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from data.samples import NetworkGrid, Sample


@dataclass(frozen=True)
class Augmentation:
    """How training samples are varied. A checkpoint keeps what its network was trained with.

    Every component is applied with ``probability``, and the flip along each axis with one half.
    """

    probability: float = field(default=0.5, metadata={"help": "probability of each component except the flips"})
    rotation_degrees: float = field(default=15.0, metadata={"help": "largest rotation about each axis"})
    scale: tuple[float, float] = field(default=(0.8, 1.2), metadata={"help": "range of the scale factor"})
    elastic_mm: float = field(
        default=3.0, metadata={"help": "standard deviation in mm of the displacement of the elastic control points"}
    )
    elastic_spacing_mm: float = field(default=40.0, metadata={"help": "distance in mm between control points"})
    gamma: tuple[float, float] = field(default=(0.7, 1.5), metadata={"help": "range of the exponent of grey values"})
    noise: float = field(
        default=0.05, metadata={"help": "largest standard deviation of the noise, as a share of the HU window"}
    )

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If a setting is out of its range.
        """
        if not 0 <= self.probability <= 1:
            raise ValueError("probability is not between 0 and 1")
        for name, (low, high) in {"scale": self.scale, "gamma": self.gamma}.items():
            if not 0 < low <= high:
                raise ValueError(f"{name} is not a range of positive numbers")
        if min(self.rotation_degrees, self.elastic_mm, self.noise) < 0 or self.elastic_spacing_mm <= 0:
            raise ValueError("rotation_degrees, elastic_mm and noise must be 0 or more, elastic_spacing_mm positive")


class Batch(NamedTuple):
    """Samples on the training device, on the network's grid.

    Attributes:
        image: (B, 1, D, H, W), grey values in [0, 1].
        mask: (B, 1, D, H, W), 0 or 1.
        spacing: (B, 3), size (z, y, x) in mm of these voxels.
        keys: The cases.
    """

    image: Tensor
    mask: Tensor
    spacing: Tensor
    keys: tuple[str, ...]


class Pose(NamedTuple):
    """One draw of the spatial augmentation.

    Attributes:
        matrix: (3, 3), maps (z, y, x) in mm about the centre of the box.
        displacement: (3, d, h, w) in mm at the elastic control points, or None.
    """

    matrix: Tensor
    displacement: Tensor | None


def window(image: Tensor, hu_window: tuple[float, float]) -> Tensor:
    """Map Hounsfield units to [0, 1]: ``hu_window`` gives the values of 0 and 1, all beyond are clipped; float32."""
    low, high = hu_window
    return ((image.float() - low) / (high - low)).clamp_(0, 1)


def make_batch(
    samples: Sequence[Sample],
    device: torch.device,
    *,
    hu_window: tuple[float, float],
    augmentation: Augmentation | None = None,
    generator: Generator | None = None,
) -> Batch:
    """Move samples to the device and onto the network's grid, augmented if asked for.

    Args:
        samples: Boxes of one stage. The batch takes the largest side along each axis; beyond a box lies zero.
        device: Where the batch is computed.
        hu_window: Hounsfield units that become 0 and 1.
        augmentation: How to vary the samples; None leaves them as they are, as validation needs them.
        generator: Draws the augmentation; on the CPU, so that a seed means the same on every device.

    Raises:
        ValueError: If only one of augmentation and generator is given.
    """
    if (augmentation is None) != (generator is None):
        raise ValueError("augmentation and generator are given together or not at all")
    depth, height, width = (max(sample.grid.shape[axis] for sample in samples) for axis in range(3))
    images, masks = [], []
    for sample in samples:
        image, mask = (torch.from_numpy(array).to(device) for array in (sample.image, sample.mask))
        pair = torch.stack([window(image, hu_window), mask.float()])[None]
        grid = sample.grid._replace(shape=(depth, height, width))
        pose = draw_pose(grid, sample.spacing, augmentation, generator) if augmentation and generator else None
        image, mask = resample(pair, grid, pose, sample.spacing).split(1, dim=1)
        images.append(augment_intensity(image, augmentation, generator) if augmentation and generator else image)
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
    first_plane: float = 0.0,
) -> Tensor:
    """Sample a volume trilinearly on a grid that starts at its corner and whose voxels are ``factor`` as large.

    A factor of 2 gives the mean of 2 x 2 x 2 voxels; with factors of 1 the volume is padded with zeros or cropped.

    Args:
        volume: (1, C, D, H, W).
        grid: Shape and voxel size of the result.
        pose: Deforms in mm about the centre of the volume.
        spacing: Of the volume, (z, y, x) in mm; only a pose needs it.
        beyond: What lies beyond the volume: "zeros", or its "border" repeated.
        first_plane: Where the grid starts along z, in voxels of the volume, if not at its corner.

    Returns:
        (1, C, *grid.shape).
    """
    if pose is None and first_plane == 0 and all(f == 1 for f in grid.factor):
        pad = [n for a, b in zip(reversed(grid.shape), reversed(volume.shape[2:]), strict=True) for n in (0, a - b)]
        return F.pad(volume, pad)
    axes = [torch.arange(n, device=volume.device) for n in grid.shape]
    sizes, factors = (
        torch.tensor(v, dtype=torch.float32, device=volume.device) for v in (volume.shape[2:], grid.factor)
    )
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) + 0.5  # (D, H, W, 3), cell centres
    position = index * factors  # in voxels of the volume, from its corner
    position[..., 0] += first_plane
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
    """Draw rotation about z, y and x, scale, flips and elastic control points, for image and mask alike."""
    matrix = torch.eye(3)
    limit = torch.pi / 180 * settings.rotation_degrees
    for first, second in ((1, 2), (0, 2), (0, 1)):
        if _happens(settings, generator):
            matrix = matrix @ _rotation(first, second, _uniform(-limit, limit, generator))
    if _happens(settings, generator):
        matrix = matrix / _uniform(*settings.scale, generator)  # larger structures: smaller steps in the box
    signs = 1 - 2 * (torch.rand(3, generator=generator) < 0.5).float()
    matrix = matrix @ torch.diag(signs)
    displacement = None
    if _happens(settings, generator):
        extent = [n * f * s for n, f, s in zip(grid.shape, grid.factor, spacing, strict=True)]
        points = [max(4, round(mm / settings.elastic_spacing_mm) + 3) for mm in extent]
        displacement = torch.randn(3, *points, generator=generator) * settings.elastic_mm
    return Pose(matrix, displacement)


def augment_intensity(image: Tensor, settings: Augmentation, generator: Generator) -> Tensor:
    """Apply a random gamma and Gaussian noise to an image with grey values in [0, 1]."""
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
    """Return the (3, 3) rotation in the plane of two axes; ``angle`` in radians."""
    matrix = torch.eye(3)
    cos, sin = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
    matrix[first, first] = matrix[second, second] = cos
    matrix[first, second], matrix[second, first] = -sin, sin
    return matrix
