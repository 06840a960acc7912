"""Views in which tissues move independently, as they do between contrast phases and scanners.

A random convolution changes all tissues by one rule. Between two phases, the gland, a lesion in it and what surrounds
them change by rules of their own, so that their order in brightness changes, too.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from models.contrast import RING_MM, dilate

KNOTS = 8  # pieces of a random curve
INVERTED = 0.2  # share of the views in which a lesion that was darker than the gland is brighter, or the reverse
LEAST_CONTRAST = 0.5  # of the image's own contrast between lesion and gland, so that a lesion does not vanish
BLURRED, THICKENED, NOISY = 0.3, 0.3, 0.5  # shares of the views
BLUR_MM = (0.5, 1.5)  # standard deviation
THICKER = 3.0  # largest factor of the slice thickness
NOISE = 0.08  # largest standard deviation, in grey values


def move_tissues(image: Tensor, target: Tensor, pancreas: Tensor, spacing: Tensor, generator: Generator) -> Tensor:
    """Make a view by monotone random curves of target, gland and background, then blur, thick slices and noise.

    If the box holds both a target and gland around it, the target is shifted to the contrast that is drawn: with the
    probability INVERTED of the opposite sign, and never weaker than LEAST_CONTRAST of that in the image.

    Args:
        image: One image with values in [0, 1], shape (1, 1, D, H, W).
        target: Its mask, 0 or 1, same shape.
        pancreas: Mask of the pancreas with its tumour, 0 or 1, same shape.
        spacing: Voxel spacing (z, y, x) in mm, shape (3,), on the CPU.
        generator: Source of the random draws, on the CPU.

    Returns:
        The view, with values in [0, 1] and the shape of the image.

    References:
        Su et al., Rethinking data augmentation for single-source domain generalization in medical image segmentation,
        AAAI 2023. Ouyang et al., Causality-inspired single-source domain generalization for medical image segmentation,
        IEEE TMI 42, 2023.
    """
    of_target, of_gland, elsewhere = (apply_curve(image, random_curve(generator)) for _ in range(3))
    sign = -1.0 if _happens(INVERTED, generator) else 1.0
    gland = pancreas * (1 - target)
    wanted, found = (_mean(x, target) - _mean(y, gland) for x, y in ((image, image), (of_target, of_gland)))
    size = torch.maximum(found.abs(), LEAST_CONTRAST * wanted.abs())
    shift = torch.where((target.sum() > 0) & (gland.sum() > 0), sign * wanted.sign() * size - found, 0.0)
    # The masks are softened, as voxels at a boundary hold both tissues.
    in_target, in_pancreas = F.avg_pool3d(torch.cat([target, pancreas]), 3, 1, 1, count_include_pad=False)[:, None]
    in_gland = (in_pancreas - in_target).clamp(min=0)
    view = elsewhere + in_target * (of_target + shift - elsewhere) + in_gland * (of_gland - elsewhere)
    if _happens(BLURRED, generator):
        view = _blur(view, _uniform(*BLUR_MM, generator), spacing.tolist())
    if _happens(THICKENED, generator):
        view = _thicken(view, _uniform(1, THICKER, generator), smooth=_happens(0.5, generator))
    if _happens(NOISY, generator):
        view = view + _uniform(0, NOISE, generator) * noise_like(view, generator)
    return view.clamp(0, 1)


def random_curve(generator: Generator) -> Tensor:
    """Draw a curve that rises from 0 to 1: its values at KNOTS + 1 equally spaced places, shape (KNOTS + 1,)."""
    steps = torch.rand(KNOTS, generator=generator).square() + 0.02  # some parts are steep, others almost flat
    curve = F.pad(steps.cumsum(0) / steps.sum(), (1, 0))
    return torch.lerp(torch.linspace(0, 1, KNOTS + 1), curve, float(torch.rand((), generator=generator)))


def apply_curve(image: Tensor, curve: Tensor) -> Tensor:
    """Map the grey values of an image in [0, 1] by a piecewise linear curve with equally spaced knots."""
    pieces = len(curve) - 1
    table = curve.to(image, non_blocking=True)
    position = image.clamp(0, 1) * pieces
    piece = position.floor().clamp(max=pieces - 1)
    return torch.lerp(table[piece.long()], table[piece.long() + 1], position - piece)


def keeps_target(view: Tensor, image: Tensor, target: Tensor, pancreas: Tensor, spacing: Tensor) -> Tensor:
    """Return whether a view keeps half of the contrast-to-noise ratio of what is segmented, with its sign.

    The ratio is that of target and gland or, in a box without the one or the other, of the pancreas and the ring around
    it. A rule on the correlation of all soft tissue refuses what happens between contrast phases.

    Returns:
        A boolean scalar on the device. Arguments are those of ``move_tissues``, all of shape (1, 1, D, H, W).
    """
    gland = pancreas * (1 - target)
    ring = dilate(pancreas[0], [max(1, round(RING_MM / s)) for s in spacing.tolist()])[None] - pancreas
    both = (target.sum() > 0) & (gland.sum() > 0)
    inside, outside = torch.where(both, target, pancreas), torch.where(both, gland, ring)
    before, after = (_contrast_to_noise(x, inside, outside) for x in (image, view))
    return after * before.sign() >= LEAST_CONTRAST * before.abs()


def noise_like(image: Tensor, generator: Generator) -> Tensor:
    """Draw Gaussian noise on the device of an image, with a seed that is the next draw of a generator on the CPU."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.randn(image.shape, generator=Generator(image.device).manual_seed(seed), device=image.device)


def _contrast_to_noise(image: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    means = [_mean(image, region) for region in (inside, outside)]
    spread = [_mean((image - mean).square(), region) for mean, region in zip(means, (inside, outside), strict=True)]
    return (means[0] - means[1]) / ((spread[0] + spread[1]) / 2).sqrt().clamp_min(1e-6)


def _mean(image: Tensor, region: Tensor) -> Tensor:
    return (image * region).sum() / region.sum().clamp(min=1)


def _blur(image: Tensor, deviation_mm: float, spacing: Sequence[float]) -> Tensor:
    """Convolve an image (1, 1, D, H, W) with a Gaussian; a voxel that is wide against it stays as it is."""
    for axis, mm in enumerate(spacing):
        radius = math.ceil(2 * deviation_mm / mm)
        weights = [math.exp(-0.5 * (n * mm / deviation_mm) ** 2) for n in range(-radius, radius + 1)]
        pad = [0] * 6
        pad[4 - 2 * axis] = pad[5 - 2 * axis] = radius
        padded, length = F.pad(image, pad, mode="replicate"), image.shape[axis + 2]
        parts = (padded.narrow(axis + 2, n, length) * (w / sum(weights)) for n, w in enumerate(weights))
        image = sum(parts, torch.zeros_like(image))
    return image


def _thicken(image: Tensor, factor: float, *, smooth: bool) -> Tensor:
    """Average an image (1, 1, D, H, W) over slices that are so many times as thick, and bring it back to its grid."""
    depth, *plane = image.shape[2:]
    coarse = F.interpolate(image, [max(1, round(depth / factor)), *plane], mode="area")
    return F.interpolate(coarse, image.shape[2:], mode="trilinear" if smooth else "nearest-exact")


def _happens(probability: float, generator: Generator) -> bool:
    return bool(torch.rand((), generator=generator) < probability)


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
