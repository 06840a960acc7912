"""Shapes that several tests of the models use."""

from collections.abc import Sequence

import torch


def ball(shape: Sequence[int], centre: Sequence[float], radius: float) -> torch.Tensor:
    """A ball as a mask, shape (1, D, H, W); centre and radius in voxels."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij"))
    return ((grid - torch.tensor(centre).reshape(3, 1, 1, 1)).square().sum(0).sqrt() <= radius).float()[None]
