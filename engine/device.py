"""Which device to compute on, and how to make the most of it."""

import contextlib
from collections.abc import Iterator

import torch

from data.common.errors import InputError


def choose_device(gpu: str) -> torch.device:
    """``--gpu``: "auto" (the first GPU if there is one), a GPU's number, or "cpu". Raises InputError."""
    if gpu == "cpu" or (gpu == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    number = "0" if gpu == "auto" else gpu
    if not number.isdigit() or int(number) >= torch.cuda.device_count():
        raise InputError(f"--gpu {gpu}: this machine has {torch.cuda.device_count()} GPUs; give a number or cpu")
    return torch.device("cuda", int(number))


@contextlib.contextmanager
def naming_memory_errors(what: str, device: torch.device, remedy: str) -> Iterator[None]:
    """Raises InputError naming ``what`` did not fit and the remedy, in place of torch's error."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(f"{what}: needs more memory than {device} has; {remedy}") from error


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the GPU computes in it, float32 elsewhere; bfloat16 needs no loss scaling."""
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
