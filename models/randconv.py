"""Views of an image for the consistency terms: random convolutions, in 3-D (RandConv, Xu et al., ICLR 2021)."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

KERNEL_SIZES = (3, 5, 7)
SOFT_TISSUE = (0.3, 0.8)  # of the window: 2 to 172 HU, where gland, lesion and vessels lie
LEAST_CORRELATION = 0.8
MAX_DRAWS = 8


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
