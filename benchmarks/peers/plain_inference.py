"""The plain form of the inference, in a process that is set up in no special way.

It computes what ``engine.infer.box.segment_box`` does as directly as one would write it: float32, torch's default
memory format, one flip after the other, filters standardised in every pass, positions of all voxels for the
interpolation, float probabilities on the host, and the components of scikit-image.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from skimage import measure
from torch import Tensor, nn

from benchmarks.peers.process import serve
from data.augment import window
from data.samples import NetworkGrid, network_grid, patch_shape
from data.scans.boxes import Index3D, triple
from data.warp import Pose, low_pass, resample
from engine.stages import STAGES, Stage
from models.dual_task_net import DualTaskNet

UNTURNED = Pose(torch.eye(3), None)  # with a pose, every voxel is sampled at a position of its own
OVERLAP, SIGMA = 32, 1 / 8  # of the tiles: voxels, and share of a side


def build_segmentation(
    device: torch.device, *, stage: str, width: int, box: str, threshold: float, mask: str
) -> tuple[Callable[[], object], dict[str, Any]]:
    """Build the segmentation of a box and run it once.

    Args:
        device: Where to compute.
        stage: Name in STAGES.
        width: Of the network, whose weights are drawn from the seed 0.
        box: File of the image and its spacing.
        threshold: Probabilities above it are foreground.
        mask: File of the mask that it is compared with.

    Returns:
        The segmentation, and the Dice of its mask with the other.
    """
    torch.manual_seed(0)
    net = DualTaskNet(width=width, heads=STAGES[stage].method.heads).eval().requires_grad_(False).to(device)
    content, other = np.load(box), np.load(mask)
    image, spacing = content["image"], triple(map(float, content["spacing"]))

    def segment() -> np.ndarray:
        return keep_components(probability_of(net, image, spacing, STAGES[stage], device) > threshold)

    found = segment()
    dice = 2 * np.count_nonzero(found & other) / max(1, np.count_nonzero(found) + np.count_nonzero(other))
    return segment, {"dice": float(dice)}


def probability_of(
    net: nn.Module, image: np.ndarray, spacing: tuple[float, float, float], stage: Stage, device: torch.device
) -> np.ndarray:
    """Return the mean probability over the eight flips on the voxels of a box, shape (D, H, W)."""
    grid = network_grid(image.shape, spacing, stage.sampling)
    volume = window(torch.from_numpy(image).to(device), stage.sampling.hu_window)[None, None]
    volume = resample(low_pass(volume, grid.factor), grid, UNTURNED)
    flips = [axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count)]
    passes = [in_tiles(net, volume.flip(axes), patch_shape(stage.sampling)).flip(axes) for axes in flips]
    own_grid = NetworkGrid(triple(image.shape), triple(1 / factor for factor in grid.factor))
    return resample(torch.stack(passes).mean(0), own_grid, UNTURNED, beyond="border")[0, 0].cpu().numpy()


def in_tiles(net: nn.Module, image: Tensor, patch: Index3D) -> Tensor:
    """Return the probability of an image (1, 1, D, H, W), of which the network sees at most a patch at a time."""
    sides = [min(n, most) for n, most in zip(image.shape[2:], patch, strict=True)]
    ramps = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n * SIGMA)) ** 2).to(image) for n in sides]
    weight = ramps[0][:, None, None] * ramps[1][:, None] * ramps[2]
    total, weights = torch.zeros_like(image), torch.zeros_like(image)
    for start in itertools.product(*map(tile_starts, image.shape[2:], sides)):
        part = (..., *(slice(a, a + side) for a, side in zip(start, sides, strict=True)))
        with torch.enable_grad():  # No parameter has a gradient; the filters are standardised as in training.
            total[part] += torch.sigmoid(net(image[part]).seg) * weight
        weights[part] += weight
    return total / weights


def tile_starts(length: int, side: int) -> list[int]:
    """Return where tiles start that cover an axis and overlap by OVERLAP, or by half if they are small."""
    count = 1 + math.ceil((length - side) / (side - min(OVERLAP, side // 2)))
    return [round(i * (length - side) / max(1, count - 1)) for i in range(count)]


def keep_components(mask: np.ndarray) -> np.ndarray:
    """Keep the 26-connected components that are larger than half of the largest."""
    labels = measure.label(mask, connectivity=3)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes > 0.5 * sizes.max())[labels]


if __name__ == "__main__":
    serve({"plain": build_segmentation})
