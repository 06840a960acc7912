"""Compute the probability of every voxel in a box of a scan."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from skimage import measure
from torch import Tensor, nn

from data.augment import resample, window
from data.samples import MULTIPLE, NetworkGrid, network_grid
from engine.device import autocast
from engine.stages import Stage
from models.dual_task_net import DualTaskOutput, averaged_probability, segmentation_probability


class Readout(NamedTuple):
    """A way to read a probability off the output of the network.

    Attributes:
        probability: Maps an output, the spacing of its voxels in mm, shape (B, 3), and the steepness of the transform
            that the network was trained with to a probability, shape (B, 1, D, H, W).
        heads: The heads of the network that it needs.
    """

    probability: Callable[[DualTaskOutput, Tensor, float], Tensor]
    heads: frozenset[str]


READOUTS = {
    "segmentation": Readout(lambda output, spacing, k: segmentation_probability(output), frozenset({"seg"})),
    "average": Readout(averaged_probability, frozenset({"seg", "sdf"})),
}
FLIPS = tuple(axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count))  # all eight
SLAB_OVERLAP = 32  # voxels that neighbouring slabs share
BYTES_PER_VOXEL = 700  # of the network in float32 at width 32, where five of its largest maps exist at the same time


@torch.inference_mode()
def box_probability(
    net: nn.Module,
    image: np.ndarray,
    spacing: tuple[float, float, float],
    *,
    stage: Stage,
    device: torch.device,
    readout: str = "segmentation",
) -> np.ndarray:
    """Compute the probability of the stage's target in a box, averaged over the eight flips.

    Args:
        net: Network in evaluation mode on ``device``.
        image: int16 HU, shape (D, H, W).
        spacing: Voxel spacing (z, y, x) in mm.
        stage: Its sampling defines the grid on which the network sees the box, its method the steepness of the
            transform that the network was trained with.
        device: Where ``net`` is.
        readout: Name in ``READOUTS``.

    Returns:
        float32 probability in [0, 1] on the voxels of the box, shape (D, H, W).
    """
    grid = network_grid(image.shape, spacing, stage.sampling)
    volume = window(torch.from_numpy(np.array(image)).to(device), stage.sampling.hu_window)[None, None]
    on_grid = resample(volume, grid)
    probability = torch.zeros_like(on_grid)
    voxel_mm = torch.tensor([[s * f for s, f in zip(spacing, grid.factor, strict=True)]], device=device)

    def forward(slab: Tensor) -> Tensor:
        with autocast(device):
            output = net(slab.contiguous(memory_format=torch.channels_last_3d))
        return READOUTS[readout].probability(output, voxel_mm, stage.method.steepness)

    for axes in FLIPS:
        probability += _apply_in_slabs(forward, on_grid.flip(axes)).flip(axes)
    depth, height, width = image.shape
    z, y, x = (1 / f for f in grid.factor)
    own_grid = NetworkGrid((depth, height, width), (z, y, x))
    return resample(probability / len(FLIPS), own_grid, beyond="border")[0, 0].cpu().numpy()


def keep_large_components(mask: np.ndarray, share: float = 0.5) -> np.ndarray:
    """Keep the 26-connected components of a mask that are larger than a share of its largest component.

    Args:
        mask: Boolean mask, shape (D, H, W).
        share: Share of the volume of the largest component.

    Returns:
        Boolean mask of the same shape.
    """
    components, count = measure.label(mask, connectivity=3, return_num=True)
    if count < 2:
        return mask.astype(bool)
    sizes = np.bincount(components.ravel())[1:]
    return np.concatenate(([False], sizes > share * sizes.max()))[components]


def _apply_in_slabs(forward: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Apply ``forward`` to the whole image if the device's memory suffices, else to overlapping slabs of it.

    The slabs divide the longest axis. A triangular weight makes the middle of a slab count more than its border, where
    the network sees only part of the surroundings.
    """
    length = _affordable_length(image)
    axis = max((2, 3, 4), key=lambda a: image.shape[a])
    if length >= image.shape[axis]:
        return forward(image)
    total, weight = torch.zeros_like(image), torch.zeros_like(image)
    starts = range(0, image.shape[axis] - SLAB_OVERLAP, length - SLAB_OVERLAP)
    for start in (min(s, image.shape[axis] - length) for s in starts):
        ramp = torch.arange(1, length + 1, device=image.device, dtype=image.dtype)
        ramp = torch.minimum(ramp, ramp.flip(0)).reshape([-1 if a == axis else 1 for a in range(5)])
        total.narrow(axis, start, length).add_(forward(image.narrow(axis, start, length)) * ramp)
        weight.narrow(axis, start, length).add_(ramp)
    return total / weight


def _affordable_length(image: Tensor) -> int:
    """Return how many voxels of the longest axis the network can process at once in the free memory of the device."""
    device = image.device
    longest = max(image.shape[2:])
    if device.type != "cuda":
        return longest
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    slices = int(0.8 * free / BYTES_PER_VOXEL / (image.numel() / longest))
    return longest if slices >= longest else max(2 * SLAB_OVERLAP, slices // MULTIPLE * MULTIPLE)
