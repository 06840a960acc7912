"""Which device to compute on, and what to say when its memory does not suffice."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from data.common.errors import InputError
from models.blocks import StandardisedConv3d

ONEDNN_ABOVE = (
    20480  # channels x slices x rows; for a single sample of no more, torch convolves without oneDNN on a CPU
)


def choose_device(gpu: str) -> torch.device:
    """Return the device that ``--gpu`` names: "auto" (the first GPU, if there is one), the number of a GPU, or "cpu".

    Raises:
        InputError: If this machine has no such GPU.
    """
    if gpu == "cpu" or (gpu == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    number = "0" if gpu == "auto" else gpu
    if not number.isdigit() or int(number) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        remedy = f"give a number from 0 to {count - 1}, or cpu" if count else "give cpu"
        raise InputError(f"--gpu {gpu}", f"this machine has {count} GPUs", remedy)
    return torch.device("cuda", int(number))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory could not be allocated, on a GPU or on the CPU."""
    # torch has no type for a failed allocation on the CPU: a RuntimeError that names its allocator.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


@contextlib.contextmanager
def naming_memory_errors(what: str, device: torch.device, remedy: str) -> Iterator[None]:
    """Turn an allocation failure inside the block into an InputError that says what did not fit.

    Args:
        what: The work that is done, such as the names of its cases.
        device: Whose memory it needs.
        remedy: What the user can do about it.

    Raises:
        InputError: If the memory does not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(what, f"needs more memory than {device} has", remedy) from error


def autocast(device: torch.device) -> torch.autocast:
    """Return a context that computes in bfloat16 where the GPU supports it and in float32 elsewhere.

    bfloat16 has the range of float32, so the loss needs no scaling.
    """
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def avoid_slow_convolutions(net: nn.Module) -> None:
    """Make the convolutions of a network fast on a CPU where torch would choose a slow implementation.

    For a single small sample torch bypasses oneDNN, and two samples take less than half the time of one. The
    standardised convolutions of ``net`` therefore receive such a sample twice and return the first result. Inputs on
    other devices pass unchanged. The hooks are part of the module but not of its ``state_dict``.

    Args:
        net: Network whose ``StandardisedConv3d`` modules are changed in place.
    """
    for module in net.modules():
        if isinstance(module, StandardisedConv3d):
            hooks = _DoubledSample()
            module.register_forward_pre_hook(hooks.double)
            module.register_forward_hook(hooks.keep_first)


class _DoubledSample:
    """The two hooks of one convolution; methods of a module-level class, so that the network can be pickled."""

    def __init__(self) -> None:
        self.doubled = False

    def double(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (x,) = inputs
        self.doubled = len(x) == 1 and x.device.type == "cpu" and math.prod(x.shape[1:4]) <= ONEDNN_ABOVE
        return (x.expand(2, -1, -1, -1, -1),) if self.doubled else inputs

    def keep_first(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output[:1] if self.doubled else output
