"""The families of views that the consistency terms compare."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from models.gin import random_intensity
from models.randconv import random_convolution, unchecked_random_convolution


class Family(NamedTuple):
    """``make`` draws a view of one sample, (1, 1, D, H, W). ``plain``: the first of the two views is the image."""

    make: Callable[[Tensor, Generator], Tensor]
    plain: bool


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
