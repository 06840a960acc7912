"""What a loss needs to know of the samples that other processes of the same training compute.

Several processes share the boxes of a step. Each computes the loss of its own boxes, and the gradients are averaged.
For that average to be the gradient of the whole batch, a mean over some of the samples has to count those of all
processes, and the contrast has to compare all anchors. In a training of one process, these functions change nothing.
"""

import torch
from torch import Tensor, distributed
from torch.autograd.function import FunctionCtx


def process_count() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_number() -> int:
    """Return the number of this process among them, from 0."""
    return distributed.get_rank() if process_count() > 1 else 0


def mean_of_chosen(values: Tensor, chosen: Tensor) -> Tensor:
    """Average the values of the samples that count, over all processes; 0 if none counts.

    Args:
        values: One for each sample of this process, shape (B,).
        chosen: 1 for a sample that counts, else 0, shape (B,).

    Returns:
        A scalar whose mean over the processes is the mean over their samples.
    """
    count, processes = chosen.sum(), process_count()
    if processes > 1:
        distributed.all_reduce(count)
    return (values * chosen).sum() * processes / count.clamp(min=1)


def rows_of_all(rows: Tensor) -> Tensor:
    """Concatenate the rows (N, ...) of all processes, which all have as many; the gradient finds its way back."""
    return _RowsOfAll.apply(rows) if process_count() > 1 else rows


class _RowsOfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(process_count())]
        distributed.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        # Every process computes the loss of all rows; the mean over processes that follows is that of the sum.
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient.chunk(process_count())[process_number()]
