"""Which device to compute on, and what to say when its memory does not suffice."""

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.common.errors import InputError
from data.common.memory import free_memory
from models.blocks import StandardisedConv3d
from models.channels_last import why_not_fused

READ_EVERY = 50  # steps
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


@dataclass(frozen=True)
class Execution:
    """How a training is computed on a device. It decides on the speed, and on the results by rounding only.

    Attributes:
        device: Where to compute.
        precision: Type in which the network computes. For float16, which has a smaller range, the loss is scaled.
        prepares_ahead: Whether the next step is prepared beside this one, which a GPU can do.
        records: Whether the passes of the network are recorded, as in ``engine.train.recording``.
        memory_format: Of its weights and images.
        read_every: After how many steps the losses are read and checked; a GPU has to be waited for then.
    """

    device: torch.device
    precision: torch.dtype = torch.float32
    prepares_ahead: bool = False
    records: bool = False
    memory_format: torch.memory_format = torch.channels_last_3d
    read_every: int = 1

    @property
    def scales_loss(self) -> bool:
        """Whether the loss is scaled, so that small gradients do not vanish."""
        return self.precision == torch.float16

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context in which the network computes."""
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)


def choose_execution(device: torch.device, *, plain: bool = False) -> Execution:
    """Return the fastest way to train on a device, or the plain one to compare it with.

    The plain way computes in float32, layer by layer, and in torch's default memory format.
    """
    if plain:
        return Execution(device, memory_format=torch.contiguous_format)
    if device.type != "cuda":
        return Execution(device)
    return Execution(device, training_precision(device), prepares_ahead=True, records=True, read_every=READ_EVERY)


def set_up_plain() -> None:
    """Let this process compute by deterministic algorithms where there are such, and in float32 without shortcuts."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # float32 with the mantissa of half precision, torch's default on a GPU


def free_device_memory(device: torch.device) -> float:
    """Return the bytes that this process can still take on a device; infinite if the system does not tell."""
    if device.type != "cuda":
        return (free_memory() if device.type == "cpu" else None) or math.inf
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def training_precision(device: torch.device) -> torch.dtype:
    """Return the type in which a device trains fastest: float32 on a CPU, half precision on a GPU.

    Gradients need the range of bfloat16 more than the mantissa of float16.
    """
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def inference_precision(device: torch.device) -> torch.dtype:
    """Return the type in which a device applies a network fastest: float32 on a CPU, float16 on a GPU.

    With the longer mantissa, masks are nearer to those of float32 than with bfloat16. A process that computes in the
    plain way (``set_up_plain``) takes float32.
    """
    return (
        torch.float16 if device.type == "cuda" and not torch.are_deterministic_algorithms_enabled() else torch.float32
    )


@functools.cache
def note_missing_kernels(device: torch.device) -> None:
    """Print a line, once, if the kernels for GPUs cannot be used on this machine, and networks run without them."""
    if device.type == "cuda" and (reason := why_not_fused()):
        print(f"note: group normalisation takes much longer than it should on this GPU, as Triton fails: {reason}")


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
