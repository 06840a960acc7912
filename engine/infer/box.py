"""Compute the probability of every voxel in a box of a scan."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from data.common.memory import zeros
from data.samples import MULTIPLE, network_grid, patch_shape
from data.scans.boxes import Index3D, triple
from engine.device import Execution, free_device_memory, inference_precision
from engine.infer.components import keep_components
from engine.infer.grid import back_in_slabs, onto_grid
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
Flip: TypeAlias = tuple[int, ...]  # the axes of (B, C, D, H, W) along which an image is flipped
FLIP_AXES = (2, 3, 4)  # z, y, x
FLIPS: tuple[Flip, ...] = tuple(axes for count in range(4) for axes in itertools.combinations(FLIP_AXES, count))
NO_FLIPS: tuple[Flip, ...] = ((),)  # the image as it is, in about a sixth of the time
# Voxels of a batch of flips on a CPU. For one small sample torch takes a slow path there, and larger batches than this
# no longer fit into the caches.
CPU_BATCH_VOXELS = 200_000
TILE_OVERLAP = 32  # voxels that neighbouring tiles share at least
TILE_SIGMA = 1 / 8  # standard deviation of the weight of a tile's voxels, as a share of its side; as in nnU-Net
BYTES_PER_VOXEL = 700  # of the network in float32 at width 32, where five of its largest maps exist at the same time


def flips_of(probabilities: Sequence[float]) -> tuple[Flip, ...]:
    """Return the flips that a network has seen in its training: those along axes whose probability is above 0.

    Args:
        probabilities: Of a flip along z, y and x, ``Augmentation.flip``.
    """
    seen = {axis for axis, probability in zip(FLIP_AXES, probabilities, strict=True) if probability > 0}
    return tuple(flip for flip in FLIPS if seen.issuperset(flip))


def box_probability(
    net: nn.Module,
    image: np.ndarray,
    spacing: tuple[float, float, float],
    *,
    stage: Stage,
    device: torch.device,
    flips: Sequence[Flip],
    readout: str = "segmentation",
) -> np.ndarray:
    """Compute the probability of the stage's target in a box, averaged over flips.

    Args:
        net: Network in evaluation mode on ``device``.
        image: int16 HU, shape (D, H, W).
        spacing: Voxel spacing (z, y, x) in mm.
        stage: Its sampling defines the grid on which the network sees the box, its method the steepness of the
            transform that the network was trained with.
        device: Where ``net`` is.
        readout: Name in ``READOUTS``.
        flips: What is averaged over: those of ``flips_of``, or ``NO_FLIPS`` for a single pass.

    Returns:
        float32 probability in [0, 1] on the voxels of the box, shape (D, H, W).
    """
    slabs = probability_in_slabs(net, image, spacing, stage=stage, device=device, readout=readout, flips=flips)
    return np.concatenate([probability.cpu().numpy() for _, probability in slabs])


@torch.inference_mode()
def probability_in_slabs(
    net: nn.Module,
    image: np.ndarray,
    spacing: tuple[float, float, float],
    *,
    stage: Stage,
    device: torch.device,
    flips: Sequence[Flip],
    readout: str = "segmentation",
) -> Iterator[tuple[slice, Tensor]]:
    """Compute what ``box_probability`` does, some planes at a time, so that a large box takes little memory.

    Yields:
        Planes of the box, and the probability of their voxels on ``device``. The host waits for a GPU only where it
        reads them.
    """
    grid = network_grid(image.shape, spacing, stage.sampling)
    on_grid = onto_grid(image, grid, stage.sampling.hu_window, device)
    voxel_mm = torch.tensor([[s * f for s, f in zip(spacing, grid.factor, strict=True)]])
    tile = _affordable_tile(on_grid, patch_shape(stage.sampling))

    def average_flips(precision: torch.dtype) -> Tensor:
        def forward(image: Tensor) -> Tensor:
            with Execution(device, precision).autocast():
                output = net(image.contiguous(memory_format=torch.channels_last_3d))
            return READOUTS[readout].probability(output, voxel_mm, stage.method.scaled_steepness)

        total = torch.zeros_like(on_grid)
        for some in _batches_of_flips(flips, tile, device):
            batch = torch.cat([on_grid.flip(axes) for axes in some])
            for axes, flipped in zip(some, _apply_in_tiles(forward, batch, tile).split(1), strict=True):
                total += flipped.flip(axes)
        return total / len(flips)

    probability = average_flips(inference_precision(device))
    if not bool(probability.isfinite().all()):  # features beyond the range of float16
        probability = average_flips(torch.float32)
    yield from back_in_slabs(probability, grid, image.shape)


def segment_box(
    net: nn.Module,
    image: np.ndarray,
    spacing: tuple[float, float, float],
    threshold: float,
    *,
    stage: Stage,
    device: torch.device,
    flips: Sequence[Flip],
    readout: str = "segmentation",
    within: np.ndarray | None = None,
    out: np.ndarray | None = None,
    probability: np.ndarray | None = None,
) -> np.ndarray:
    """Segment the stage's target in a box.

    Args:
        net: Network in evaluation mode on ``device``.
        image: int16 HU, shape (D, H, W).
        spacing: Voxel spacing (z, y, x) in mm.
        threshold: Probabilities above it are foreground.
        stage: As in ``box_probability``.
        device: Where ``net`` is.
        readout: Name in ``READOUTS``.
        flips: As in ``box_probability``.
        within: As in ``keep_components``.
        out: Boolean array of the same shape for the mask, such as the box in that of a whole scan; None for a new one.
        probability: float32 array of the same shape that gets the probabilities; None if nobody reads them.

    Returns:
        Boolean mask, shape (D, H, W), of the components that are kept.
    """
    mask = zeros(image.shape, bool) if out is None else out
    slabs = probability_in_slabs(net, image, spacing, stage=stage, device=device, readout=readout, flips=flips)
    for planes, values in slabs:
        mask[planes] = (values > threshold).cpu().numpy()  # a byte a voxel comes from a GPU, not four
        if probability is not None:
            probability[planes] = values.cpu().numpy()
    return keep_components(mask, within, out=mask)


def _batches_of_flips(flips: Sequence[Flip], tile: Index3D, device: torch.device) -> list[Sequence[Flip]]:
    """Divide flips into batches that the device computes at once: on a GPU, as many as fit into its memory."""
    budget = CPU_BATCH_VOXELS if device.type == "cpu" else _affordable_voxels(device)
    count = int(min(len(flips), max(1, budget // math.prod(tile))))
    return [flips[first : first + count] for first in range(0, len(flips), count)]


def _apply_in_tiles(forward: Callable[[Tensor], Tensor], image: Tensor, tile: Index3D) -> Tensor:
    """Apply ``forward`` to overlapping tiles of images (B, 1, D, H, W), or to the whole of them if it is one tile.

    A Gaussian weight makes the middle of a tile count more than its border, where the network sees only part of the
    surroundings.
    """
    if tile == tuple(image.shape[2:]):
        return forward(image)
    along_z, along_y, along_x = (_gaussian(n, image.device) for n in tile)
    tile_weight = along_z[:, None, None] * along_y[:, None] * along_x
    total, weight = torch.zeros_like(image), torch.zeros_like(image[:1])
    for z, y, x in itertools.product(*map(_tile_starts, image.shape[2:], tile)):
        part = (..., slice(z, z + tile[0]), slice(y, y + tile[1]), slice(x, x + tile[2]))
        total[part] += forward(image[part]) * tile_weight
        weight[part] += tile_weight
    return total / weight


def _gaussian(length: int, device: torch.device) -> Tensor:
    """Return the weights of the voxels of a tile along an axis."""
    from_middle = (torch.arange(length, device=device, dtype=torch.float32) - (length - 1) / 2) / length
    return torch.exp(-0.5 * (from_middle / TILE_SIGMA).square())


def _tile_starts(length: int, tile: int) -> list[int]:
    """Return where the tiles along an axis start: as few as overlap by TILE_OVERLAP, or by half if they are small."""
    count = 1 + math.ceil((length - tile) / (tile - min(TILE_OVERLAP, tile // 2)))
    return [round(i * (length - tile) / max(1, count - 1)) for i in range(count)]


def _affordable_tile(image: Tensor, patch: Index3D) -> Index3D:
    """Return the shape (D, H, W) of the tiles in which the network sees an image (1, 1, D, H, W).

    It is at most as large as in training, and smaller where the free memory of the device does not suffice.
    """
    tile = [min(n, most) for n, most in zip(image.shape[2:], patch, strict=True)]
    budget = _affordable_voxels(image.device)
    while math.prod(tile) > budget and max(tile) > 2 * TILE_OVERLAP:
        axis = tile.index(max(tile))
        fitting = int(budget / (math.prod(tile) / tile[axis])) // MULTIPLE * MULTIPLE
        tile[axis] = max(2 * TILE_OVERLAP, fitting)
    return triple(tile)


def _affordable_voxels(device: torch.device) -> float:
    """Return how many voxels the network can process at once in the free memory of the device."""
    return 0.8 * free_device_memory(device) / BYTES_PER_VOXEL
