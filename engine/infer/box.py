"""From a box of a scan to the probability of every voxel in it."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from data.augment import resample, window
from data.samples import MULTIPLE, NetworkGrid, network_grid
from engine.device import autocast
from engine.stages import Stage
from models.dual_task_net import DualTaskOutput, averaged_probability, segmentation_probability


class Readout(NamedTuple):
    """A way to read a probability off the network, and the heads that it needs.

    probability: of an output, its voxels' spacing (B, 3) mm and the steepness of T that it was trained with.
    """

    probability: Callable[[DualTaskOutput, Tensor, float], Tensor]
    heads: frozenset[str]


READOUTS = {
    "segmentation": Readout(lambda output, spacing, k: segmentation_probability(output), frozenset({"seg"})),
    "average": Readout(averaged_probability, frozenset({"seg", "sdf"})),
}
FLIPS = tuple(axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count))  # all eight
TILE_OVERLAP = 32  # voxels that neighbouring tiles share
BYTES_PER_VOXEL = 700  # of the network in float32 at width 32: five of its largest maps live at the same time


@torch.inference_mode()
def box_probability(
    net: nn.Module,
    image: np.ndarray,
    spacing: tuple[float, float, float],
    stage: Stage,
    device: torch.device,
    readout: str = "segmentation",
) -> np.ndarray:
    """Probability of the stage's target in a box.

    Args:
        net: a DualTaskNet in evaluation mode on ``device``.
        image: int16 HU (D, H, W). spacing: (z, y, x) mm.
        stage: says on which grid the network sees the box, and how steep the T is that it was trained with.
        readout: of READOUTS.

    Averaged over the eight flips. Returns float32 (D, H, W) in [0, 1], on the box's own grid.
    """
    grid = network_grid(image.shape, spacing, stage.sampling)
    volume = window(torch.from_numpy(np.array(image)).to(device), stage.sampling.hu_window)[None, None]
    on_grid = resample(volume, grid)
    probability = torch.zeros_like(on_grid)
    voxel = torch.tensor([[s * f for s, f in zip(spacing, grid.factor, strict=True)]], device=device)

    def forward(part: Tensor) -> Tensor:
        with autocast(device):
            output = net(part.contiguous(memory_format=torch.channels_last_3d))
        return READOUTS[readout].probability(output, voxel, stage.method.steepness)

    for axes in FLIPS:
        probability += _tiled(forward, on_grid.flip(axes)).flip(axes)
    back = NetworkGrid(tuple(image.shape), tuple(1 / f for f in grid.factor))
    return resample(probability / len(FLIPS), back, beyond="border")[0, 0].cpu().numpy()


def keep_large_components(mask: np.ndarray, share: float = 0.5) -> np.ndarray:
    """Keep every 26-connected component larger than ``share`` of the largest; boolean (D, H, W)."""
    components, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if count < 2:
        return mask.astype(bool)
    sizes = np.bincount(components.ravel())[1:]
    return np.concatenate(([False], sizes > share * sizes.max()))[components]


def _tiled(forward: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """The whole image at once where it fits into the device's memory, else overlapping slabs along the longest axis."""
    length = _affordable_length(image)
    axis = max((2, 3, 4), key=lambda a: image.shape[a])
    if length >= image.shape[axis]:
        return forward(image)
    total, weight = torch.zeros_like(image), torch.zeros_like(image)
    starts = range(0, image.shape[axis] - TILE_OVERLAP, length - TILE_OVERLAP)
    for start in (min(s, image.shape[axis] - length) for s in starts):
        # A triangular weight lets a slab's uncertain border count less than its neighbour's middle.
        ramp = torch.arange(1, length + 1, device=image.device, dtype=image.dtype)
        ramp = torch.minimum(ramp, ramp.flip(0)).reshape([-1 if a == axis else 1 for a in range(5)])
        total.narrow(axis, start, length).add_(forward(image.narrow(axis, start, length)) * ramp)
        weight.narrow(axis, start, length).add_(ramp)
    return total / weight


def _affordable_length(image: Tensor) -> int:
    device = image.device
    longest = max(image.shape[2:])
    if device.type != "cuda":
        return longest
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    slices = int(0.8 * free / BYTES_PER_VOXEL / (image.numel() / longest))
    return longest if slices >= longest else max(2 * TILE_OVERLAP, slices // MULTIPLE * MULTIPLE)
