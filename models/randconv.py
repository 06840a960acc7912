"""Views of an image for the consistency terms: random convolutions, in 3-D (RandConv, Xu et al., ICLR 2021)."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

KERNEL_SIZES = (3, 5, 7)
MAX_CLAMPED = 0.5  # a view that loses more of its voxels to the clamp is drawn again
MAX_DRAWS = 8


def random_views(image: Tensor, count: int, generator: Generator) -> Tensor:
    """``count`` independent views of every sample, view after view: (count * B, 1, D, H, W), values in [0, 1].

    Args:
        image: (B, 1, D, H, W) in [0, 1].
        generator: on the CPU, so that the same seed draws the same views on every device.
    """
    return torch.cat([random_convolution(sample[None], generator) for _ in range(count) for sample in image])


def random_convolution(image: Tensor, generator: Generator) -> Tensor:
    """One view: ``alpha * conv(x) + (1 - alpha) * x``, clamped to [0, 1], rescaled to span [0, 1].

    Kernel size from {3, 5, 7}, weights from N(0, 2 / fan_in), bias from U(-1, 1) / sqrt(fan_in), alpha from U(0, 1).
    A degenerate view - constant, mostly clamped, or not positively correlated with the image, so that bright and
    dark have changed places - is drawn again with half the mixing; after eight draws the image is its own view.

    Args and returns: (1, 1, D, H, W) in [0, 1]; ``generator`` on the CPU.
    """
    for draw in range(MAX_DRAWS):
        mixed = _mix(image, generator, strongest=0.5**draw)
        view = mixed.clamp(0, 1)
        if _is_usable(view, mixed, image):
            return _span(view)
    return image


def _mix(image: Tensor, generator: Generator, strongest: float) -> Tensor:
    size = KERNEL_SIZES[int(torch.randint(len(KERNEL_SIZES), (), generator=generator))]
    fan_in = size**3
    weight = torch.randn(1, 1, size, size, size, generator=generator) * (2 / fan_in) ** 0.5
    bias = (2 * torch.rand(1, generator=generator) - 1) * fan_in**-0.5
    alpha = float(torch.rand((), generator=generator)) * strongest
    convolved = F.conv3d(image, weight.to(image), bias.to(image), padding=size // 2)
    return torch.lerp(image, convolved, alpha)


def _is_usable(view: Tensor, mixed: Tensor, image: Tensor) -> bool:
    interior = (image > 0) & (image < 1)  # voxels that the HU window had not clamped already
    clamped = ((mixed < 0) | (mixed > 1)) & interior
    a, b = view - view.mean(), image - image.mean()
    usable = (clamped.sum() <= MAX_CLAMPED * interior.sum()) & (view.amax() > view.amin()) & ((a * b).sum() > 0)
    return bool(usable)


def _span(view: Tensor) -> Tensor:
    low, high = view.amin(), view.amax()
    return (view - low) / (high - low)
