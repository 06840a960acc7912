"""Training with several processes, one for each GPU, as ``torchrun`` starts them.

    torchrun --nproc_per_node 4 train_pancreas/train_sh_pancreas_fine.py

Every process computes its share of the boxes of each step. The first one writes the files and speaks for all.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from data.common.errors import InputError
from data.common.progress import be_quiet
from data.scans.boxes import Index3D, triple
from engine.device import choose_device
from models.processes import process_count, process_number

T = TypeVar("T")


@contextlib.contextmanager
def together(gpu: str) -> Iterator[torch.device]:
    """Join the other processes that ``torchrun`` has started, if it has started this one, and choose its device.

    The first GPU goes to the first process of a machine, and so on; all but the first process keep silent.

    Args:
        gpu: As for ``choose_device``. With several processes it is "auto" or "cpu".

    Raises:
        InputError: If there are more processes than GPUs, or one GPU is named for all of them.
    """
    joins = distributed.is_torchelastic_launched()
    if joins and gpu not in ("auto", "cpu") and int(os.environ["LOCAL_WORLD_SIZE"]) > 1:
        raise InputError(f"--gpu {gpu}", "every process of torchrun needs a GPU of its own", "leave out --gpu")
    own = os.environ["LOCAL_RANK"] if joins and gpu == "auto" and torch.cuda.is_available() else gpu
    device = choose_device(own)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # or the first GPU would be opened as well
    if not joins:
        yield device
        return
    # What decides on shapes stays on the CPU and goes through gloo, so that no GPU is waited for.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    with contextlib.ExitStack() as stack:
        if process_number() > 0:
            be_quiet()
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        yield device
    # Not after an error: the other processes may be waiting for this one, and torchrun ends them when it ends.
    distributed.destroy_process_group()


def own_share(items: Sequence[T]) -> Sequence[T]:
    """Return every n-th item, for n processes: those that this process computes."""
    return items[process_number() :: process_count()]


def of_all(items: Sequence[T]) -> Sequence[T]:
    """Put together again what the processes have made of their ``own_share`` of items."""
    if process_count() == 1:
        return items
    shares: list[Sequence[T]] = [()] * process_count()
    distributed.all_gather_object(shares, items)
    return [share[place] for place in range(max(map(len, shares))) for share in shares if place < len(share)]


def of_first(value: T) -> T:
    """Return the value that the first process gives."""
    if process_count() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]


def mean_over_processes(values: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each value over all processes."""
    everywhere = of_all([values])
    return {name: sum(of_one[name] for of_one in everywhere) / len(everywhere) for name in values}


def wait_for_all() -> None:
    """Wait until all processes have come so far."""
    if process_count() > 1:
        distributed.barrier()


def largest_over_processes(shape: Index3D) -> Index3D:
    """Return the largest side along each axis over all processes, (D, H, W)."""
    if process_count() == 1:
        return shape
    sides = torch.tensor(shape)
    distributed.all_reduce(sides, distributed.ReduceOp.MAX)
    return triple(sides.tolist())


def mean_tensor(values: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes."""
    if process_count() > 1:
        distributed.all_reduce(values)
        values /= process_count()
    return values


def average_gradients(net: nn.Module) -> None:
    """Replace every gradient by its mean over all processes.

    torch's DistributedDataParallel does this while the backward pass is still running, but it takes a parameter without
    gradient, such as those of a head whose loss terms set in later, for an error, or searches the graph for them in
    every step. The gradients of this network have 76 MB, so that there is little to gain.
    """
    if process_count() == 1:
        return
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    flat = mean_tensor(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
