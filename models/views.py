"""The families of views that the consistency terms compare."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from models.gin import random_intensity
from models.randconv import random_convolution, unchecked_random_convolution

VIEWS = 2  # per image
FAMILIES: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "randconv": random_convolution,
    "gin": random_intensity,
    "raw-randconv": unchecked_random_convolution,
}


def random_views(image: Tensor, family: str, generator: Generator) -> Tensor:
    """Two independent views of every sample, view after view: (2 B, 1, D, H, W).

    Args:
        image: (B, 1, D, H, W) in [0, 1]. family: of FAMILIES, or "none", which gives back the images alone (B, ...).
        generator: on the CPU, so that the same seed draws the same views on every device.
    """
    if family == "none":
        return image
    make = FAMILIES[family]
    return torch.cat([make(sample[None], generator) for _ in range(VIEWS) for sample in image])
