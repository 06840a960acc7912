"""From boxes to a batch on the training device: HU window, one composed spatial field, one resampling, grey values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from data.samples import NetworkGrid, Sample
from data.scans.boxes import Box, Index3D, triple
from data.warp import Elastic, Pose, low_pass, low_pass_radius, resample

MOST_DEVIATIONS = 3.0  # the elastic displacement is clipped at so many of its standard deviations
# A cubic B-spline with independent coefficients of standard deviation 1 has this standard deviation, averaged over the
# positions between its knots. Voxels fold where the displacement changes by more than 1 mm per mm, which at the
# steepest spline allowed would be more than six standard deviations of that change.
_SPLINE_DEVIATION = (151 / 315) ** 1.5
ROTATIONS = ((1, 2), (0, 2), (0, 1))  # pairs of axes in whose planes a box is rotated
STEEPEST_ELASTIC = 1 / 8  # elastic_mm per mm of elastic_spacing_mm


@dataclass(frozen=True)
class Augmentation:
    """How training samples are varied. A checkpoint keeps what its network was trained with.

    Every component is applied with ``probability``, but the flips with their own, the low resolution with
    ``low_resolution_probability``, and blur, brightness and contrast with ``grey_probability``.
    """

    flip: tuple[float, float, float] = field(
        default=(0.5, 0.5, 0.5),
        metadata={
            "help": "probabilities of the flips along z, y and x; predictions are averaged over those above 0",
            "added": True,
        },
    )
    probability: float = field(default=0.5, metadata={"help": "probability of each component that has none of its own"})
    rotation_degrees: float = field(default=15.0, metadata={"help": "largest rotation about each axis"})
    scale: tuple[float, float] = field(default=(0.8, 1.2), metadata={"help": "range of the scale factor"})
    elastic_mm: float = field(
        default=2.0, metadata={"help": "standard deviation in mm of the elastic displacement along each axis"}
    )
    elastic_spacing_mm: float = field(
        default=40.0, metadata={"help": "distance in mm between the control points of the elastic displacement"}
    )
    low_resolution: tuple[float, float] = field(
        default=(3.0, 2.0), metadata={"help": "largest factor along z and in-plane by which an image loses resolution"}
    )
    low_resolution_probability: float = field(
        default=0.25, metadata={"help": "probability that thick slices and a soft kernel are simulated"}
    )
    grey_probability: float = field(
        default=0.15, metadata={"help": "probability of blur, brightness and contrast each"}
    )
    blur: tuple[float, float] = field(
        default=(0.5, 1.0), metadata={"help": "range of the standard deviation of the blur, in voxels of the network"}
    )
    brightness: tuple[float, float] = field(
        default=(0.75, 1.25), metadata={"help": "range of the factor of the grey values"}
    )
    contrast: tuple[float, float] = field(
        default=(0.75, 1.25), metadata={"help": "range of the factor of their distance from the mean"}
    )
    gamma: tuple[float, float] = field(default=(0.7, 1.5), metadata={"help": "range of the exponent of grey values"})
    inverted_gamma: float = field(
        default=0.25, metadata={"help": "share of the exponents that apply to the inverted image"}
    )
    noise: float = field(
        default=0.05, metadata={"help": "largest standard deviation of the noise, as a share of the HU window"}
    )

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If a setting is out of its range.
        """
        shares = (self.probability, self.low_resolution_probability, self.grey_probability, self.inverted_gamma)
        if not all(0 <= share <= 1 for share in (*self.flip, *shares)):
            raise ValueError("a probability is not between 0 and 1")
        if not all(1 <= factor < math.inf for factor in self.low_resolution):
            raise ValueError("low_resolution must be 1 or more")
        for name in ("scale", "blur", "brightness", "contrast", "gamma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is not a range of positive numbers")
        if min(self.rotation_degrees, self.elastic_mm, self.noise) < 0 or self.elastic_spacing_mm <= 0:
            raise ValueError("rotation_degrees, elastic_mm and noise must be 0 or more, elastic_spacing_mm positive")
        if self.elastic_mm > STEEPEST_ELASTIC * self.elastic_spacing_mm:
            raise ValueError(
                f"elastic_mm is above {STEEPEST_ELASTIC:g} of elastic_spacing_mm, so that voxels would fold"
            )

    def reach(self, half_mm: Sequence[float]) -> tuple[float, float, float]:
        """Return how far a box may look from its centre once it is rotated, scaled and deformed.

        Args:
            half_mm: Half of the sides of the box, (z, y, x) in mm.

        Returns:
            Half of the sides of a box that holds all that is looked at, (z, y, x) in mm.
        """
        half = list(half_mm)
        if self.probability == 0:
            return triple(half)
        limit = math.radians(self.rotation_degrees)
        for first, second in reversed(ROTATIONS):  # the rotation that is composed last moves the box first
            half[first], half[second] = (
                math.hypot(a, b) * math.cos(max(0.0, math.atan2(b, a) - limit))
                for a, b in ((half[first], half[second]), (half[second], half[first]))
            )
        largest = MOST_DEVIATIONS * self.elastic_mm
        return triple(h / min(1.0, self.scale[0]) + largest for h in half)


class Batch(NamedTuple):
    """Samples on the training device, on the network's grid.

    Attributes:
        image: (B, 1, D, H, W), grey values in [0, 1].
        mask: (B, 1, D, H, W), 0 or 1.
        spacing: (B, 3), size (z, y, x) in mm of these voxels, on the CPU: what decides on shapes is never waited for.
        keys: The cases.
        pancreas: The pancreas with its tumour, 0 or 1, (B, 1, D, H, W); None if the samples do not hold it.
    """

    image: Tensor
    mask: Tensor
    spacing: Tensor
    keys: tuple[str, ...]
    pancreas: Tensor | None = None


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
    generators: Sequence[Generator] | None = None,
    at_least: Sequence[int] = (0, 0, 0),
) -> Batch:
    """Move samples to the device and onto the network's grid, augmented if asked for.

    Args:
        samples: Boxes of one stage. The batch takes the largest side along each axis, and smaller boxes lie in its
            middle; beyond what was read of a scan lies zero.
        device: Where the batch is computed.
        hu_window: Hounsfield units that become 0 and 1.
        augmentation: How to vary the samples; None leaves them as they are, as validation needs them.
        generators: Draw the augmentation of each sample; on the CPU, so that a seed means the same on every device, but
            for the noise.
        at_least: Sides (D, H, W) that the batch has at least.

    Raises:
        ValueError: If only one of augmentation and generators is given.
    """
    if (augmentation is None) != (generators is None):
        raise ValueError("augmentation and generators are given together or not at all")
    depth, height, width = batch_shape(samples, at_least)
    images, masks = [], []
    for place, sample in enumerate(samples):
        generator = generators[place] if generators else None
        grid = _widened(sample.grid, (depth, height, width))
        pose = draw_pose(grid, sample.spacing, augmentation, generator) if augmentation and generator else None
        part, grid = _seen_part(sample, grid, pose)
        arrays = [sample.image, sample.mask, *([] if sample.pancreas is None else [sample.pancreas])]
        image, *regions = (to_device(array[part.slices], device)[None, None] for array in arrays)
        channels = torch.cat([low_pass(window(image, hu_window), grid.factor), *(r.float() for r in regions)], dim=1)
        image, region = resample(channels, grid, pose, sample.spacing).tensor_split([1], dim=1)
        images.append(augment_intensity(image, augmentation, generator) if augmentation and generator else image)
        masks.append((region >= 0.5).float())
    spacing = [[s * f for s, f in zip(sample.spacing, sample.grid.factor, strict=True)] for sample in samples]
    keys = tuple(sample.key for sample in samples)
    mask, *pancreas = torch.cat(masks).split(1, dim=1)
    return Batch(torch.cat(images), mask, torch.tensor(spacing), keys, pancreas[0] if pancreas else None)


def batch_shape(samples: Sequence[Sample], at_least: Sequence[int] = (0, 0, 0)) -> Index3D:
    """Return the largest side of samples along each axis, (D, H, W), which is at least so large."""
    return triple(max(least, *sides) for least, *sides in zip(at_least, *(s.grid.shape for s in samples), strict=True))


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array, which may be a part of a read-only file, to a device; the host does not wait for a GPU."""
    if device.type != "cuda":
        return torch.from_numpy(np.array(array)).to(device)
    # Only from pinned memory is a copy asynchronous; torch reuses it when the copy has been made.
    pinned = torch.empty(array.shape, dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype, pin_memory=True)
    pinned.numpy()[...] = array
    return pinned.to(device, non_blocking=True)


def _widened(grid: NetworkGrid, shape: Sequence[int]) -> NetworkGrid:
    """Return a grid of at least the shape of another with the same centre."""
    start = (s - (n - m) / 2 * f for s, n, m, f in zip(grid.start, shape, grid.shape, grid.factor, strict=True))
    return NetworkGrid(triple(shape), grid.factor, triple(start))


def _seen_part(sample: Sample, grid: NetworkGrid, pose: Pose | None) -> tuple[Box, NetworkGrid]:
    """Find what of a sample a pose looks at, so that nothing else is windowed and smoothed.

    Returns:
        The part of the arrays, and the grid as it lies in that part.
    """
    mm = torch.tensor(sample.spacing)
    reach = torch.tensor(grid.size) / 2 * mm
    if pose is not None:
        reach = pose.matrix.abs() @ reach + (pose.elastic.limit_mm if pose.elastic else 0.0)
    bounds = []
    for a, side, r, f, n in zip(
        grid.start, grid.size, (reach / mm).tolist(), grid.factor, sample.image.shape, strict=True
    ):
        centre, rim = a + side / 2, 1 + low_pass_radius(f)  # what interpolation and smoothing need more
        first = min(max(0, math.floor(centre - r) - rim), n - 1)
        bounds.append((first, max(first + 1, min(n, math.ceil(centre + r) + rim))))
    part = Box(*(triple(ends) for ends in zip(*bounds, strict=True)))
    return part, grid._replace(start=triple(a - first for a, first in zip(grid.start, part.start, strict=True)))


def draw_pose(grid: NetworkGrid, spacing: Sequence[float], settings: Augmentation, generator: Generator) -> Pose:
    """Draw rotation about z, y and x, scale, flips and elastic control points, for image and mask alike."""
    matrix = torch.eye(3)
    limit = torch.pi / 180 * settings.rotation_degrees
    for first, second in ROTATIONS:
        if _happens(settings.probability, generator):
            matrix = matrix @ _rotation(first, second, _uniform(-limit, limit, generator))
    if _happens(settings.probability, generator):
        matrix = matrix / _uniform(*settings.scale, generator)  # larger structures: smaller steps in the box
    signs = 1 - 2 * (torch.rand(3, generator=generator) < torch.tensor(settings.flip)).float()
    matrix = matrix @ torch.diag(signs)
    elastic = None
    if _happens(settings.probability, generator):
        sides = [n * mm / settings.elastic_spacing_mm for n, mm in zip(grid.size, spacing, strict=True)]
        control = torch.randn(3, *(int(side) + 4 for side in sides), generator=generator)
        control *= settings.elastic_mm / _SPLINE_DEVIATION
        elastic = Elastic(control, settings.elastic_spacing_mm, MOST_DEVIATIONS * settings.elastic_mm)
    return Pose(matrix, elastic)


def augment_intensity(image: Tensor, settings: Augmentation, generator: Generator) -> Tensor:
    """Vary the grey values of an image (1, 1, D, H, W) in [0, 1].

    The image may be blurred, become brighter or darker, gain or lose contrast, lose resolution, and get another gamma
    and Gaussian noise, in this order.

    References:
        Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation,
        Nature Methods 2021.
    """
    if _happens(settings.grey_probability, generator):
        deviation = _uniform(*settings.blur, generator)
        image = low_pass(image, (1 + 2 * deviation,) * 3)
    if _happens(settings.grey_probability, generator):
        image = (image * _uniform(*settings.brightness, generator)).clamp(0, 1)
    if _happens(settings.grey_probability, generator):
        mean = image.mean()
        image = (mean + (image - mean) * _uniform(*settings.contrast, generator)).clamp(0, 1)
    if _happens(settings.low_resolution_probability, generator):
        image = _lose_resolution(image, settings, generator)
    if _happens(settings.probability, generator):
        exponent = _uniform(*settings.gamma, generator)
        inverted = _happens(settings.inverted_gamma, generator)
        image = 1 - (1 - image).clamp(0, 1) ** exponent if inverted else image.clamp(0, 1) ** exponent
    if _happens(settings.probability, generator):
        deviation = _uniform(0, settings.noise, generator)
        noise = torch.randn(image.shape, generator=_generator_on(image.device, generator), device=image.device)
        image = (image + deviation * noise).clamp(0, 1)
    return image


def _lose_resolution(image: Tensor, settings: Augmentation, generator: Generator) -> Tensor:
    """Average an image (1, 1, D, H, W) over thicker slices and larger pixels, and bring it back to its grid.

    Half of the images come back by their nearest voxels, as slices that are thick remain visible in scans, and half by
    linear interpolation, as in scans that were reconstructed at steps smaller than what they resolve.
    """
    along_z, in_plane = (_uniform(1, most, generator) for most in settings.low_resolution)
    factors = (along_z, in_plane, in_plane)
    shape = [max(1, round(n / f)) for n, f in zip(image.shape[2:], factors, strict=True)]
    coarse = F.interpolate(image, shape, mode="area")
    linear = _happens(0.5, generator)
    return F.interpolate(coarse, image.shape[2:], mode="trilinear" if linear else "nearest-exact")


def _generator_on(device: torch.device, generator: Generator) -> Generator:
    """Return a generator on a device that is seeded by the next draw of one on the CPU.

    A number for every voxel would take long to draw on a CPU and to move. The same seed gives the same noise on devices
    of one kind only.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    return Generator(device).manual_seed(seed)


def _happens(probability: float, generator: Generator) -> bool:
    return bool(torch.rand((), generator=generator) < probability)


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _rotation(first: int, second: int, angle: float) -> Tensor:
    """Return the (3, 3) rotation in the plane of two axes; ``angle`` in radians."""
    matrix = torch.eye(3)
    cos, sin = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
    matrix[first, first] = matrix[second, second] = cos
    matrix[first, second], matrix[second, first] = -sin, sin
    return matrix
