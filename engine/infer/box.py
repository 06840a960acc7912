"""Compute the probability of every voxel in a box of a scan."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from skimage import measure
from torch import Tensor, nn

from data.augment import window
from data.common.memory import free_memory, zeros
from data.samples import MULTIPLE, NetworkGrid, network_grid, patch_shape
from data.scans.boxes import Index3D, bounding_box, triple
from data.warp import low_pass, low_pass_radius, resample
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
SLAB_VOXELS = 1 << 22  # of a box that are interpolated or labelled at a time
# Voxels of a batch of flips on a CPU. For one small sample torch takes a slow path there, and larger batches than this
# no longer fit into the caches.
CPU_BATCH_VOXELS = 200_000
TILE_OVERLAP = 32  # voxels that neighbouring tiles share at least
LEAST_INSIDE = 0.1  # share of a component that has to lie within the organ; one that grazes it belongs to a neighbour
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
    slabs = probability_in_slabs(net, image, spacing, stage=stage, device=device, readout=readout)
    return np.concatenate([probability for _, probability in slabs])


@torch.inference_mode()
def probability_in_slabs(
    net: nn.Module,
    image: np.ndarray,
    spacing: tuple[float, float, float],
    *,
    stage: Stage,
    device: torch.device,
    readout: str = "segmentation",
) -> Iterator[tuple[slice, np.ndarray]]:
    """Compute what ``box_probability`` does, some planes at a time, so that a large box takes little memory.

    Yields:
        Planes of the box, and the probability of their voxels.
    """
    grid = network_grid(image.shape, spacing, stage.sampling)
    on_grid = _onto_grid(image, grid, stage, device)
    probability = torch.zeros_like(on_grid)
    voxel_mm = torch.tensor([[s * f for s, f in zip(spacing, grid.factor, strict=True)]], device=device)

    tile = _affordable_tile(on_grid, patch_shape(stage.sampling))

    def forward(image: Tensor) -> Tensor:
        with autocast(device):
            output = net(image.contiguous(memory_format=torch.channels_last_3d))
        return READOUTS[readout].probability(output, voxel_mm, stage.method.steepness)

    for flips in _batches_of_flips(tile, device):
        batch = torch.cat([on_grid.flip(axes) for axes in flips])
        for axes, flipped in zip(flips, _apply_in_tiles(forward, batch, tile).split(1), strict=True):
            probability += flipped.flip(axes)
    probability /= len(FLIPS)
    depth, height, width = image.shape
    z, y, x = (1 / f for f in grid.factor)
    for planes in _slabs(depth, height * width):
        own_grid = NetworkGrid((planes.stop - planes.start, height, width), (z, y, x), (planes.start * z, 0.0, 0.0))
        slab = resample(probability, own_grid, beyond="border")
        yield planes, slab[0, 0].cpu().numpy()


def _onto_grid(image: np.ndarray, grid: NetworkGrid, stage: Stage, device: torch.device) -> Tensor:
    """Window a box (int16 HU, shape (D, H, W)) and resample it: float32, shape (1, 1, *grid.shape)."""
    depth, height, width = grid.shape
    factor, slabs = grid.factor[0], []
    halo = 1 + low_pass_radius(factor)  # planes that smoothing and interpolation need more on either side
    for planes in _slabs(depth, image[0].size * max(1.0, grid.factor[0])):
        first = min(max(0, math.floor(planes.start * factor) - halo), len(image) - 1)
        last = math.ceil(planes.stop * factor) + halo
        volume = window(torch.from_numpy(np.array(image[first:last])).to(device), stage.sampling.hu_window)
        start = (planes.start * factor - first, 0.0, 0.0)
        part = NetworkGrid((planes.stop - planes.start, height, width), grid.factor, start)
        slabs.append(resample(low_pass(volume[None, None], grid.factor), part))  # beyond the box lie zeros
    return torch.cat(slabs, dim=2)


def _slabs(planes: int, plane_voxels: float) -> list[slice]:
    """Divide planes into slabs of at most ``SLAB_VOXELS`` voxels, and at least one plane."""
    step = max(1, int(SLAB_VOXELS / plane_voxels))
    return [slice(start, min(planes, start + step)) for start in range(0, planes, step)]


def segment_box(
    net: nn.Module,
    image: np.ndarray,
    spacing: tuple[float, float, float],
    threshold: float,
    *,
    stage: Stage,
    device: torch.device,
    readout: str = "segmentation",
    within: np.ndarray | None = None,
    out: np.ndarray | None = None,
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
        within: As in ``keep_components``.
        out: Boolean array of the same shape for the mask, such as the box in that of a whole scan; None for a new one.

    Returns:
        Boolean mask, shape (D, H, W), of the components that are kept.
    """
    mask = zeros(image.shape, bool) if out is None else out
    for planes, probability in probability_in_slabs(net, image, spacing, stage=stage, device=device, readout=readout):
        mask[planes] = probability > threshold
    return keep_components(mask, within, out=mask)


def keep_components(
    mask: np.ndarray, within: np.ndarray | None = None, *, share: float = 0.5, out: np.ndarray | None = None
) -> np.ndarray:
    """Keep the 26-connected components of a mask that are larger than a share of its largest component.

    Args:
        mask: Boolean mask, shape (D, H, W).
        within: Boolean mask of the organ to which the components belong, of the same shape. Those of which less than
            ``LEAST_INSIDE`` lies within it do not count: a tumour of the pancreas is not in the kidney. None if they
            may lie anywhere.
        share: Share of the volume of the largest component that counts.
        out: Boolean array of zeros for the result, or the mask itself; None for a new one.

    Returns:
        Boolean mask of the same shape.
    """
    box = bounding_box(mask)
    if box is None:
        return mask.astype(bool) if out is None else out
    crop, slabs = mask[box.slices], _slabs(box.shape[0], box.shape[1] * box.shape[2])
    organ = None if within is None else within[box.slices]
    kept = zeros(mask.shape, bool) if out is None else out
    none = np.zeros(1, np.int64)
    sizes, inside, parts, neighbours, last = [none], [none], 1, [], None
    for planes in slabs:  # components of every slab, and which of them touch those of the slab before
        components = _label(crop[planes], parts)
        sizes.append(np.bincount(components.ravel(), minlength=parts)[parts:])
        if organ is not None:
            inside.append(np.bincount(components[organ[planes]], minlength=parts + len(sizes[-1]))[parts:])
        if last is not None:
            neighbours.append(_touching(last, components[0]))
        last, parts = components[-1].copy(), parts + len(sizes[-1])
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *neighbours])
    links = sparse.coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(parts, parts))
    _, whole = sparse.csgraph.connected_components(links, directed=False)
    totals = np.bincount(whole, weights=np.concatenate(sizes))
    if organ is not None:
        totals[np.bincount(whole, weights=np.concatenate(inside)) < LEAST_INSIDE * totals] = 0
    large = (totals > share * totals.max())[whole]
    large[0] = False
    parts = 1
    for planes, of_slab in zip(slabs, sizes[1:], strict=True):  # labelled anew, as all labels would need 4 GB
        kept[box.slices][planes] = large[_label(crop[planes], parts)]
        parts += len(of_slab)
    return kept


def _label(mask: np.ndarray, first: int) -> np.ndarray:
    """Number the 26-connected components of a mask from ``first`` on; 0 is background."""
    components = measure.label(mask, connectivity=3)
    return np.where(components > 0, components + (first - 1), 0)


def _touching(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Return the pairs of numbers, shape (N, 2), that neighbour each other in two planes (H, W), diagonally too."""
    padded = np.pad(below, 1)
    height, width = above.shape
    shifted = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    pairs = [np.stack([plane, above], axis=-1)[(plane > 0) & (above > 0)] for plane in shifted]
    return np.unique(np.concatenate(pairs), axis=0)


def _batches_of_flips(tile: Index3D, device: torch.device) -> list[Sequence[tuple[int, ...]]]:
    """Divide FLIPS into batches that the device computes at once: on a GPU, as many as fit into its memory."""
    budget = CPU_BATCH_VOXELS if device.type == "cpu" else _affordable_voxels(device)
    count = int(min(len(FLIPS), max(1, budget // math.prod(tile))))
    return [FLIPS[first : first + count] for first in range(0, len(FLIPS), count)]


def _apply_in_tiles(forward: Callable[[Tensor], Tensor], image: Tensor, tile: Index3D) -> Tensor:
    """Apply ``forward`` to overlapping tiles of images (B, 1, D, H, W), or to the whole of them if it is one tile.

    A triangular weight along each axis makes the middle of a tile count more than its border, where the network sees
    only part of the surroundings.
    """
    if tile == tuple(image.shape[2:]):
        return forward(image)
    ramps = [torch.arange(1, n + 1, device=image.device, dtype=image.dtype) for n in tile]
    along_z, along_y, along_x = (torch.minimum(ramp, ramp.flip(0)) / len(ramp) for ramp in ramps)
    ramp = along_z[:, None, None] * along_y[:, None] * along_x
    total, weight = torch.zeros_like(image), torch.zeros_like(image)
    for z, y, x in itertools.product(*map(_tile_starts, image.shape[2:], tile)):
        part = (..., slice(z, z + tile[0]), slice(y, y + tile[1]), slice(x, x + tile[2]))
        total[part] += forward(image[part]) * ramp
        weight[part] += ramp
    return total / weight


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
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    elif device.type != "cpu" or (free := free_memory() or 0) == 0:
        return math.inf
    return 0.8 * free / BYTES_PER_VOXEL
