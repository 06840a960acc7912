"""What the experiments share: training a stage, their options, opening store and run, and outlines in pictures."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from data.cases.case import Case
from data.cases.options import add_store
from data.cases.store import read_store
from data.common.errors import InputError
from data.common.files import REPOSITORY, make_folder
from data.splits.frozen import frozen_splits
from data.splits.split import Split, choose_splits
from engine.device import choose_device
from engine.infer.models import StageModel, load_model
from engine.options import add_gpu, add_path
from engine.stages import Stage


class OpenRun(NamedTuple):
    """A trained stage, the prepared cases by centre, and the split that says which of them it was trained on."""

    model: StageModel
    centres: dict[str, list[Case]]
    split: Split


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a store and a run: --data, --store, --path and --gpu."""
    parser.add_argument(
        "--data",
        metavar="NAME",
        required=True,
        help="split of the run: the centre that was held out, or the name of another split of the store",
    )
    add_store(parser)
    add_path(parser)
    add_gpu(parser)


def open_run(stage: str, split_name: str, *, store: Path, checkpoints: Path, gpu: str) -> OpenRun:
    """Read the prepared cases of a store and the newest model of a stage and split.

    Args:
        stage: Name of the stage, such as "tumor_coarse".
        split_name: Name of the split, such as the centre that was held out.
        store: Folder of the prepared cases.
        checkpoints: Folder of the runs.
        gpu: Device, as ``engine.device.choose_device`` takes it.

    Raises:
        InputError: If the store is empty, the split or the device does not exist, or no such model has been trained.
    """
    centres = read_store(store)
    splits = choose_splits(frozen_splits(store, centres, save=False), split_name)
    if len(splits) != 1:
        names = ", ".join(split.name for split in splits)
        raise InputError(f"--data {split_name}", f"names {len(splits)} splits", f"choose one of {names}")
    return OpenRun(load_model(checkpoints, stage, split_name, choose_device(gpu)), centres, splits[0])


def draw_outline(axes: Axes, mask: np.ndarray, colour: Any, width: float, **where: Any) -> None:  # noqa: ANN401
    """Draw the outline of a 2-D mask over an image; nothing if the mask has none, or a side of a single pixel."""
    if mask.any() and not mask.all() and min(mask.shape) > 1:
        axes.contour(mask, [0.5], colors=[colour], linewidths=width, **where)


def train_in(folder: Path, stage: Stage, options: Sequence[str]) -> None:
    """Train a stage with its ordinary script on one thread, or finish a training that was interrupted.

    Args:
        folder: Of the runs, ``--path`` of the script; it also gets the log.
        stage: The stage.
        options: Of the script, as they are typed.

    Raises:
        InputError: If the script fails.
    """
    make_folder(folder)
    script, log = REPOSITORY / stage.script_path("train"), folder / f"{stage.name}.log"
    words = [sys.executable, str(script), *options, "--path", str(folder), "--resume"]
    with log.open("a") as file:
        done = subprocess.run(words, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise InputError(log, f"{script.name} exited with code {done.returncode}", "read the end of this file")
