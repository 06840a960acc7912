"""Checkpoints of the published release, read as networks of this project."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from data.augment import Augmentation
from data.cases.preparation import Preparation
from data.common.errors import InputError
from engine.checkpoint import load_tensors
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import STAGES
from models.dual_task_net import DualTaskNet
from models.published import load_published

REMEDY = "give a checkpoint file of the published release"
# The release reads the voxels of a scan as they are, and every second one in its first stage. Its scans have voxels of
# about this size (z, y, x) in mm.
FINE_MM = (2.5, 0.8, 0.8)
COARSE_MM = (5.0, 1.6, 1.6)


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


def release_recipe(net: DualTaskNet, stage_name: str) -> Recipe:
    """Return how a network of the release was trained, as far as it is known; the rest are the defaults.

    Args:
        net: As ``read_release`` reads it.
        stage_name: The stage that it was trained for, which its file does not say.
    """
    stage = STAGES[stage_name]
    return Recipe(
        network=NetworkSettings(width=net.width),
        method=stage.published,
        sampling=replace(stage.sampling, target_mm=COARSE_MM if stage.sampling.roi == "scan" else FINE_MM),
        augmentation=Augmentation(),
        training=TrainSettings(epochs=stage.epochs, negatives=0.0),
        preparation=Preparation(),
    )


def _find_parameters(content: object) -> Mapping[str, Tensor]:
    """Return the parameters of a checkpoint that holds them directly or as one of its values."""
    for candidate in (content, *(content.values() if isinstance(content, dict) else ())):
        if isinstance(candidate, dict) and candidate and all(isinstance(value, Tensor) for value in candidate.values()):
            return candidate
    raise ValueError("holds no parameters of a network")
