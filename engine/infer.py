"""From a box of a scan to the probability of every voxel in it."""

import itertools

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from data.augment import resample, window
from data.samples import MULTIPLE, NetworkGrid, Sampling, network_grid
from engine.device import autocast
from models.dual_task_net import segmentation_probability

FLIPS = tuple(axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count))  # all eight
TILE_OVERLAP = 32  # voxels that neighbouring tiles share
BYTES_PER_VOXEL = 700  # of the network in float32 at width 32: five of its largest maps live at the same time


@torch.inference_mode()
def box_probability(
    net: nn.Module,
    image: np.ndarray,
    spacing: tuple[float, float, float],
    sampling: Sampling,
    device: torch.device,
    flips: bool = True,
) -> np.ndarray:
    """Probability of the stage's target in a box.

    Args:
        net: a DualTaskNet in evaluation mode on ``device``.
        image: int16 HU (D, H, W). spacing: (z, y, x) mm.
        sampling: of the stage, says on which grid the network sees the box.
        flips: average over the eight flips.

    Returns float32 (D, H, W) in [0, 1], on the box's own grid.
    """
    grid = network_grid(image.shape, spacing, sampling)
    volume = window(torch.from_numpy(np.array(image)).to(device))[None, None]
    on_grid = resample(volume, grid)
    probability = torch.zeros_like(on_grid)
    chosen = FLIPS if flips else FLIPS[:1]
    for axes in chosen:
        probability += _tiled(net, on_grid.flip(axes), device).flip(axes)
    back = NetworkGrid(tuple(image.shape), tuple(1 / f for f in grid.factor))
    return resample(probability / len(chosen), back, beyond="border")[0, 0].cpu().numpy()


def keep_large_components(mask: np.ndarray, share: float = 0.5) -> np.ndarray:
    """Keep every 26-connected component larger than ``share`` of the largest; boolean (D, H, W)."""
    components, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if count < 2:
        return mask.astype(bool)
    sizes = np.bincount(components.ravel())[1:]
    return np.concatenate(([False], sizes > share * sizes.max()))[components]


def _tiled(net: nn.Module, image: Tensor, device: torch.device) -> Tensor:
    """The whole image at once where it fits into the device's memory, else overlapping slabs along the longest axis."""
    length = _affordable_length(image, device)
    axis = max((2, 3, 4), key=lambda a: image.shape[a])
    if length >= image.shape[axis]:
        return _forward(net, image, device)
    total, weight = torch.zeros_like(image), torch.zeros_like(image)
    starts = range(0, image.shape[axis] - TILE_OVERLAP, length - TILE_OVERLAP)
    for start in (min(s, image.shape[axis] - length) for s in starts):
        # A triangular weight lets a slab's uncertain border count less than its neighbour's middle.
        ramp = torch.arange(1, length + 1, device=image.device, dtype=image.dtype)
        ramp = torch.minimum(ramp, ramp.flip(0)).reshape([-1 if a == axis else 1 for a in range(5)])
        total.narrow(axis, start, length).add_(_forward(net, image.narrow(axis, start, length), device) * ramp)
        weight.narrow(axis, start, length).add_(ramp)
    return total / weight


def _affordable_length(image: Tensor, device: torch.device) -> int:
    longest = max(image.shape[2:])
    if device.type != "cuda":
        return longest
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    slices = int(0.8 * free / BYTES_PER_VOXEL / (image.numel() / longest))
    return longest if slices >= longest else max(2 * TILE_OVERLAP, slices // MULTIPLE * MULTIPLE)


def _forward(net: nn.Module, image: Tensor, device: torch.device) -> Tensor:
    with autocast(device):
        output = net(image.contiguous(memory_format=torch.channels_last_3d))
    return segmentation_probability(output)
