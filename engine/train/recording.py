"""The network of a training on a fast GPU: its two passes are recorded once, and played in every step.

A fast GPU computes the thousand kernels of both passes in less time than the host needs to ask for them one by one. As
CUDA graphs they are asked for at once. A record keeps the memory of the passes to itself, between the steps, too.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from engine.device import Execution, is_out_of_memory
from models.dual_task_net import DualTaskNet, DualTaskOutput
from models.processes import process_count

# So many times the memory of both passes the GPU has at least: it holds a record, images of other shapes and validation
# beside it. A smaller GPU is seldom faster than the host. It counts what a GPU has and not what is free, as dropout is
# drawn differently in a record, and the same command should compute the same tomorrow.
ROOM = 2.5


class RecordedNetwork:
    """Calls a network in training; on a GPU with enough memory it plays a record of it.

    The record is made of the first images. Images of another shape are computed without it. Its backward pass can be
    played only once after each forward pass, because it overwrites what it has read.

    Args:
        net: The network.
        execution: How it computes, and where.
    """

    def __init__(self, net: DualTaskNet, execution: Execution) -> None:
        self.net, self.execution = net, execution
        self._shape: torch.Size | None = None
        self._play: Callable[[Tensor], DualTaskOutput] | None = None

    def __call__(self, images: Tensor) -> DualTaskOutput:
        """Map images (B, 1, D, H, W) to the outputs, which are valid until the next call."""
        if self.execution.records and self._shape is None:
            self._shape = images.shape
            with torch.random.fork_rng([images.device]):  # the draws of the dropout are those of the seed
                self._play = self._try_to_record(images) if process_count() == 1 else None
        if self._play is None or images.shape != self._shape:
            output: DualTaskOutput = self.net(images)
            return output
        return self._play(images)

    def _try_to_record(self, images: Tensor) -> Callable[[Tensor], DualTaskOutput] | None:
        try:
            # A recording that fails would leave its own stream as the current one.
            with torch.cuda.stream(torch.cuda.current_stream(images.device)):
                return self._record(images)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().partition("\n")[0]
            print(f"note: the passes of the network are not recorded, and take longer on a fast GPU: {reason}")
            return None

    def _record(self, images: Tensor) -> Callable[[Tensor], DualTaskOutput] | None:
        """Record both passes; None if the GPU has too little memory for it."""
        half = self.execution.precision != torch.float32
        # The weights that autocast casts and keeps would not be cast again when the record is played. They would also
        # keep nodes of the graph that belong to the stream of this pass, which cannot be recorded.
        with torch.autocast("cuda", self.execution.precision if half else None, enabled=half, cache_enabled=False):
            built, form, taken = self._try_out(images)
            if ROOM * taken > torch.cuda.get_device_properties(images.device).total_memory:
                return None
            torch.cuda.empty_cache()
            record = cast("_Heads", torch.cuda.make_graphed_callables(_Heads(self.net), (images,)))

        def play(images: Tensor) -> DualTaskOutput:
            found = iter(record(images))
            output: DualTaskOutput = tree_unflatten([next(found) if exists else None for exists in built], form)
            return output

        return play

    def _try_out(self, images: Tensor) -> tuple[list[bool], TreeSpec, int]:
        """Run both passes once.

        Returns:
            Which outputs exist, the form of all of them, and the memory in bytes that the passes have taken.
        """
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(images.device)
        before = torch.cuda.memory_allocated(images.device)
        leaves, form = tree_flatten(self.net(images))
        outputs = [leaf for leaf in leaves if leaf is not None]
        trained = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        torch.autograd.grad(outputs, trained, [torch.zeros_like(output) for output in outputs], allow_unused=True)
        return [leaf is not None for leaf in leaves], form, torch.cuda.max_memory_allocated(images.device) - before


class _Heads(nn.Module):
    """A network that returns the outputs of the heads that it has as one tuple, as a record needs it."""

    def __init__(self, net: DualTaskNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaf for leaf in tree_flatten(self.net(images))[0] if leaf is not None)
