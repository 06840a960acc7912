"""Checkpoints of the published release, read as networks of this project."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from data.common.errors import InputError
from engine.checkpoint import load_tensors
from models.dual_task_net import DualTaskNet
from models.published import load_published

REMEDY = "give a checkpoint file of the published release"


def read_release(file: Path, remedy: str = REMEDY, content: Mapping[str, Any] | None = None) -> DualTaskNet:
    """Read the network of a checkpoint of the published release; nothing in the file is executed.

    Args:
        file: What ``torch.save`` wrote: the parameters by the release's names, or a dictionary with them as a value.
        remedy: What to do if the file is something else.
        content: What the file holds, if it has been loaded already; None to load it.

    Raises:
        InputError: If the file is missing, damaged or no such checkpoint.
    """
    if not file.exists():
        raise InputError(file, "no such file", remedy)
    try:
        return load_published(_find_parameters(load_tensors(file, remedy) if content is None else content))
    except ValueError as error:
        raise InputError(file, str(error).splitlines()[0], remedy) from error


def _find_parameters(content: object) -> Mapping[str, Tensor]:
    """Return the parameters of a checkpoint that holds them directly or as one of its values."""
    for candidate in (content, *(content.values() if isinstance(content, dict) else ())):
        if isinstance(candidate, dict) and candidate and all(isinstance(value, Tensor) for value in candidate.values()):
            return candidate
    raise ValueError("holds no parameters of a network")
