"""The memory that a training step needs, found without computing it, and how a step is made to fit into a device.

A step of a recipe is run on fake tensors: every operation gives a tensor of the right shape and type without its
values. A tracker adds up what the tensors that exist at the same time would take; the largest sum is the peak. This
takes about a second, and neither the data nor a GPU.
"""

import bisect
import functools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data.cases.case import Case
from data.common.errors import InputError
from data.common.memory import GB
from data.samples import FALSE_FINDING_MM, MULTIPLE, Sampling, network_grid, patch_shape
from data.scans.boxes import Index3D, triple
from engine.device import avoid_slow_convolutions, free_device_memory
from engine.method import Method
from engine.recipe import NetworkSettings, Recipe, new_network
from models.dual_task_net import MOST_RECOMPUTED
from models.processes import process_count
from models.tissue_contrast import CELL, TISSUES, TissueCells

# While a step runs on a GPU, the next batch is prepared. Besides that batch, the augmentation holds sampling grids and
# copies of so many bytes per voxel of one sample at a time (measured: 69 for the pose, 104 for a view).
PREPARATION_BYTES = 110
USABLE = 0.9  # share of a memory that is planned with, because the estimate is off by up to a tenth
GPU_RESERVE = 1e9  # bytes on a GPU for what the tracker does not see: CUDA itself, workspaces of cuDNN, fragments
LEAST_SIDE = 0.5  # share of each side that is left of a patch; below, it no longer shows most of a pancreas
_RESOLUTIONS = ("full", "full and half", "full, half and quarter")


class MemoryTracker(TorchDispatchMode):
    """Follow how many bytes the tensors take that are made inside its context, with their peak.

    Attributes:
        live: Bytes of the tensors that exist.
        peak: Largest value of ``live`` so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        """Run an operation and follow what it returns."""
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":  # what is read from a tensor must not matter, because it has no value
            return args[0].dtype == torch.bool or 1
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.follow(leaf)
        self.reserve(0)
        return result

    def follow(self, tensor: Tensor) -> None:
        """Count a tensor until its storage is freed; views of a storage count once."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def forget(_: object) -> None:
            del self._storages[key]
            self.live -= size

        self._storages[key] = weakref.ref(storage, forget)
        self.live += size

    def reserve(self, size: int) -> None:
        """Note that so many more bytes were taken for a moment."""
        self.peak = max(self.peak, self.live + size)


@functools.lru_cache(maxsize=512)
def step_memory(
    network: NetworkSettings,
    method: Method,
    shape: Index3D,
    *,
    batch_size: int,
    half: bool,
    averaged: bool = False,
    frozen: bool = False,
    ahead: bool = False,
    recomputed: int = 0,
) -> int:
    """Estimate the peak in bytes of what torch allocates in a training step.

    Args:
        network: Size of the network.
        method: Its heads, loss terms and views.
        shape: Sides (D, H, W) of a box on the network's grid; multiples of 8.
        batch_size: Boxes of a step.
        half: Whether it is computed in half precision, as on a GPU, or else in float32.
        averaged: Whether there is a moving average of the weights.
        frozen: Whether the encoder is left as it is.
        ahead: Whether the next batch is prepared on the same device during the step.
        recomputed: As in ``DualTaskNet``.
    """
    with FakeTensorMode():
        net = new_network(network, method)
        net.recomputed = recomputed
        if not half:
            avoid_slow_convolutions(net)
        if frozen:
            net.freeze_encoder()
        weights = list(net.parameters())
        trained = [weight for weight in weights if weight.requires_grad]
        with MemoryTracker() as tracker:
            for weight in weights:
                tracker.follow(weight)
            for weight in trained:
                weight.grad = torch.empty_like(weight)  # of the step before
            kept = [torch.empty_like(weight) for weight in trained for _ in range(2)]  # by Adam
            kept += [torch.empty_like(weight) for weight in weights if averaged]
            without_batch = tracker.live
            mask = torch.empty(batch_size * method.copies, 1, *shape)
            phi = torch.empty_like(mask) if "sdf" in method.heads else None
            image = torch.empty_like(mask)
            images = torch.cat([image, image]) if method.images > method.copies else image
            if ahead:
                preparation = tracker.live - without_batch + PREPARATION_BYTES * math.prod(shape)
                kept.append(torch.empty(preparation, dtype=torch.uint8))
            loss = _loss(net, method, images, mask, phi, half=half)
            net.zero_grad(set_to_none=True)
            loss.backward()
            tracker.reserve(2 * max(weight.untyped_storage().nbytes() for weight in trained))  # by the optimiser
    return tracker.peak


def _loss(net: nn.Module, method: Method, images: Tensor, mask: Tensor, phi: Tensor | None, half: bool) -> Tensor:
    """Run the network on fake images and compute its loss, as in a step of the training."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = net(images.contiguous(memory_format=torch.channels_last_3d))
    criterion = method.build_loss()
    generators = [torch.Generator()] * len(mask)
    loss, _ = criterion(output, mask, phi, torch.ones(len(mask), 3), generators, cells=cells_of(method, mask))
    return loss


def largest_shape(cases: Sequence[Case], sampling: Sampling) -> Index3D:
    """Return the largest shape (D, H, W) that boxes of these cases can have on the network's grid in training.

    Args:
        cases: Cases with a labelled pancreas, one at least.
        sampling: Of the stage.
    """
    largest = map(max, zip(*(_largest_of_case(case, sampling) for case in cases), strict=True))
    return triple(map(min, largest, patch_shape(sampling)))


def _largest_of_case(case: Case, sampling: Sampling) -> Index3D:
    regions = [case.pancreas_box.shape] if case.pancreas_box else []
    if sampling.roi == "scan" or not regions:
        return network_grid(case.shape, case.spacing, sampling).shape
    if sampling.roi == "tumour":
        false_finding = triple(math.ceil(2 * FALSE_FINDING_MM[1] / mm) for mm in case.spacing)
        regions.append(case.tumour_box.shape if case.tumour_box else false_finding)
    sides = []
    jitter = (sampling.jitter_z_mm[1], sampling.jitter_plane_mm[1], sampling.jitter_plane_mm[1])
    for axis, (most, moved, mm) in enumerate(zip(case.shape, jitter, case.spacing, strict=True)):
        widest = max(region[axis] for region in regions) + 2 * max(0.0, moved / mm)
        sides.append(min(most, math.ceil(widest) + 1))
    return network_grid(sides, case.spacing, sampling).shape


def cells_of(method: Method, mask: Tensor) -> TissueCells | None:
    """Return cells for the contrast of tissues that take as much memory as those of any boxes, if the method has it."""
    if not method.weights.tissue_contrast:
        return None
    inside = F.avg_pool3d(mask, CELL) > 0
    return TissueCells(inside.expand(-1, len(TISSUES), -1, -1, -1), torch.zeros(len(mask), dtype=torch.int64))


@dataclass(frozen=True)
class Fit:
    """How a training is made to fit into the memory of its device.

    Attributes:
        sampling: That of the recipe, or with a smaller patch.
        recomputed: As in ``DualTaskNet``.
        description: What was decided in one line, and another one with a warning if it may not fit all the same.
    """

    sampling: Sampling
    recomputed: int
    description: str


def fit_step(
    recipe: Recipe, cases: Sequence[Case], device: torch.device, *, keep_patch: bool = False, plain: bool = False
) -> Fit:
    """Decide how the steps of a training fit into the memory of a device.

    Features are recomputed, which changes no result, as far as the memory that is free now demands. If even this would
    not fit on a GPU without other programs, the patch is made smaller. Because that changes the result, it depends on
    the size of the GPU only, so that the same command computes the same tomorrow. On a CPU, where the free memory is
    that of the moment, the patch is never changed.

    Args:
        recipe: All settings.
        cases: The training cases; their boxes may be smaller than a patch.
        device: Where the training runs.
        keep_patch: Whether the patch has to stay as it is, because the user gave it or a run was started with it.
        plain: Whether it is computed in the plain way, which needs more memory on a GPU.

    Raises:
        InputError: If no patch of at least LEAST_SIDE of the sides fits.
    """
    gpu = device.type == "cuda"
    fast = gpu and not plain
    sampling, shape, notes = recipe.sampling, largest_shape(cases, recipe.sampling), []
    if gpu and not keep_patch:
        total = torch.cuda.get_device_properties(device).total_memory
        fitting = fitting_shape(shape, usable(total, gpu), lambda shape: _needed(recipe, shape, fast, MOST_RECOMPUTED))
        if fitting is None:
            settings = f"--batch-size {recipe.training.batch_size} and --width {recipe.network.width}"
            problem = f"its {total / GB:.1f} GB do not suffice for {settings}, not even with half the sides of a patch"
            raise InputError(str(device), problem, "use a smaller --batch-size or --width")
        if fitting != shape:
            shape = fitting
            patch_mm = triple(n * mm for n, mm in zip(shape, sampling.target_mm, strict=True))
            sampling = replace(sampling, patch_mm=patch_mm)
            was, size = (" x ".join(f"{mm:g}" for mm in s.patch_mm) for s in (recipe.sampling, sampling))
            notes.append(f"patches of {size} mm instead of {was} mm, because the GPU has {total / GB:.1f} GB")
    free = free_device_memory(device)
    budget, levels = usable(free, gpu), range(MOST_RECOMPUTED)
    recomputed = next((n for n in levels if _needed(recipe, shape, fast, n) <= budget), MOST_RECOMPUTED)
    if recomputed:
        notes.append(f"features at {_RESOLUTIONS[recomputed - 1]} resolution are computed twice to save memory")
    need, images = _needed(recipe, shape, fast, recomputed), _own_batch(recipe) * recipe.method.images
    known = "" if free == math.inf else f", {free / GB:.1f} GB are free"
    boxes = f"{images} images of {' x '.join(map(str, shape))} voxels"
    lines = ["; ".join([f"memory: {need / GB:.1f} GB at the peak of a step ({boxes}){known}", *notes])]
    if need > free - (GPU_RESERVE if gpu else 0):
        remedy = "end other programs, or use a smaller --batch-size, --width or --sampling patch_mm"
        lines.append(f"warning: a step needs more memory than {device} has free: {remedy}")
    return Fit(sampling, recomputed, "\n".join(f"    {line}" for line in lines))


def _needed(recipe: Recipe, shape: Index3D, fast: bool, recomputed: int) -> int:
    return step_memory(
        recipe.network,
        recipe.method,
        shape,
        batch_size=_own_batch(recipe),
        half=fast,
        averaged=recipe.training.ema_decay > 0,
        frozen=recipe.start.freeze == "encoder",
        ahead=fast,
        recomputed=recomputed,
    )


def _own_batch(recipe: Recipe) -> int:
    """Return how many boxes of a step this process computes."""
    return -(-recipe.training.batch_size // process_count())


def fitting_shape(shape: Index3D, budget: float, needed: Callable[[Index3D], float]) -> Index3D | None:
    """Return the largest of the ``smaller_shapes`` that does not need more than the budget; None if all do."""
    if needed(shape) <= budget:
        return shape
    shapes = list(smaller_shapes(shape))
    first = bisect.bisect_left(shapes, True, key=lambda shape: needed(shape) <= budget)
    return shapes[first] if first < len(shapes) else None


def smaller_shapes(shape: Index3D) -> Iterator[Index3D]:
    """Yield a shape (D, H, W), then ever smaller ones, each with one side 8 voxels shorter than the one before.

    That side is shortened which keeps the proportions best, and none to less than LEAST_SIDE of what it was.
    """
    sides = list(shape)
    while True:
        yield triple(sides)
        share, axis = max(((sides[axis] - MULTIPLE) / shape[axis], axis) for axis in range(3))
        if share < LEAST_SIDE:
            return
        sides[axis] -= MULTIPLE


def usable(memory: float, gpu: bool) -> float:
    """Return how many bytes of a memory are planned with."""
    return USABLE * memory - (GPU_RESERVE if gpu else 0)
