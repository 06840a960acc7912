"""The families of views that the consistency terms compare: random convolutions and random intensity networks."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

KERNEL_SIZES = (3, 5, 7)
SOFT_TISSUE = (0.3, 0.8)  # of the window: 2 to 172 HU, where gland, lesion and vessels lie
LEAST_CORRELATION = 0.8
MAX_DRAWS = 8
GIN_LAYERS = 4
GIN_CHANNELS = 2  # between the layers
GIN_KERNEL_SIZES = (1, 3)


class Family(NamedTuple):
    """``make`` draws a view of one sample, (1, 1, D, H, W). ``plain``: the first of the two views is the image."""

    make: Callable[[Tensor, Generator], Tensor]
    plain: bool


def random_convolution(image: Tensor, generator: Generator) -> Tensor:
    """One view: ``alpha * conv(x) + (1 - alpha) * x``, clamped to [0, 1], rescaled to span [0, 1].

    Kernel size from {3, 5, 7}, weights from N(0, 2 / fan_in), bias from U(-1, 1) / sqrt(fan_in), alpha from U(0, 1).
    A view whose soft tissue no longer orders as the image's does is drawn again with half the mixing; after eight
    draws the image is its own view. Nothing less keeps the lesion: fat and air carry the correlation of the whole
    image, while 12 % of the views inverted the contrast of lesion to gland, and clamping erased it in others.

    Args and returns: (1, 1, D, H, W) in [0, 1]; ``generator`` on the CPU.
    """
    for draw in range(MAX_DRAWS):
        view = _mix(image, generator, strongest=0.5**draw).clamp(0, 1)
        if _keeps_soft_tissue(view, image):
            return _span(view)
    return image


def unchecked_random_convolution(image: Tensor, generator: Generator) -> Tensor:
    """One view as published, whatever it looks like; where it is constant, which has no span, the image itself."""
    view = _mix(image, generator, strongest=1.0).clamp(0, 1)
    return _span(view) if bool(view.amax() > view.amin()) else image


def _mix(image: Tensor, generator: Generator, strongest: float) -> Tensor:
    size = KERNEL_SIZES[int(torch.randint(len(KERNEL_SIZES), (), generator=generator))]
    fan_in = size**3
    weight = torch.randn(1, 1, size, size, size, generator=generator) * (2 / fan_in) ** 0.5
    bias = (2 * torch.rand(1, generator=generator) - 1) * fan_in**-0.5
    alpha = float(torch.rand((), generator=generator)) * strongest
    convolved = F.conv3d(image, weight.to(image), bias.to(image), padding=size // 2)
    return torch.lerp(image, convolved, alpha)


def _keeps_soft_tissue(view: Tensor, image: Tensor) -> bool:
    """Whether the means of 3x3x3 voxels of soft tissue correlate, free of most of the noise, by LEAST_CORRELATION."""
    before, after = (F.avg_pool3d(x, 3, 1, 1, count_include_pad=False) for x in (image, view))
    tissue = (before > SOFT_TISSUE[0]) & (before < SOFT_TISSUE[1])
    a, b = before[tissue], after[tissue]
    if a.numel() == 0:
        return False
    a, b = a - a.mean(), b - b.mean()
    return bool((a * b).sum() > LEAST_CORRELATION * (a.norm() * b.norm()).clamp_min(1e-6))


def _span(view: Tensor) -> Tensor:
    low, high = view.amin(), view.amax()
    return (view - low) / (high - low)


def random_intensity(image: Tensor, generator: Generator) -> Tensor:
    """One view: ``alpha * net(x) + (1 - alpha) * x``, rescaled to the Frobenius norm of x; alpha from U(0, 1).

    The network has four convolutions with weights and biases from N(0, 1), kernel sizes of 1 or 3 and leaky ReLUs in
    between. Its values may leave [0, 1].

    Args and returns: (1, 1, D, H, W); ``generator`` on the CPU.
    """
    y = image
    for layer in range(GIN_LAYERS):
        size = GIN_KERNEL_SIZES[int(torch.randint(len(GIN_KERNEL_SIZES), (), generator=generator))]
        channels = 1 if layer == GIN_LAYERS - 1 else GIN_CHANNELS
        weight = torch.randn(channels, y.shape[1], size, size, size, generator=generator).to(image)
        bias = torch.randn(channels, generator=generator).to(image)
        y = F.conv3d(y, weight, bias, padding=size // 2)
        if layer < GIN_LAYERS - 1:
            y = F.leaky_relu(y)
    mixed = torch.lerp(image, y, float(torch.rand((), generator=generator)))
    return mixed * (image.norm() / mixed.norm().clamp_min(1e-5))


# What is segmented later is a plain image: one of the two views is what the network will meet. The published release
# never shows it one.
FAMILIES: dict[str, Family] = {
    "randconv": Family(random_convolution, plain=True),
    "gin": Family(random_intensity, plain=True),
    "raw-randconv": Family(unchecked_random_convolution, plain=False),
}


def random_views(image: Tensor, family: str, generator: Generator) -> Tensor:
    """Two views of every sample, view after view: (2 B, 1, D, H, W).

    Args:
        image: (B, 1, D, H, W) in [0, 1]. family: of FAMILIES, or "none", which gives back the images alone (B, ...).
        generator: on the CPU, so that the same seed draws the same views on every device.
    """
    if family == "none":
        return image
    make, plain = FAMILIES[family]
    first = [image] if plain else [make(sample[None], generator) for sample in image]
    return torch.cat([*first, *(make(sample[None], generator) for sample in image)])
