"""What the experiments on a trained stage share: their options, and the opening of the store and the run."""

import argparse
from pathlib import Path

from data.cases.store import Case, read_store
from engine.device import choose_device
from engine.infer.cascade import StageModel, load_model
from engine.options import add_gpu, add_path, add_store


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a store and a run in it: --data, --store, --path and --gpu."""
    parser.add_argument(
        "--data", metavar="CENTRE", required=True, help="centre that was held out of the training of the run"
    )
    add_store(parser)
    add_path(parser)
    add_gpu(parser)


def open_run(
    stage: str, held_out: str, *, store: Path, checkpoints: Path, gpu: str
) -> tuple[dict[str, list[Case]], StageModel]:
    """Read the prepared cases of a store and the newest model of a stage.

    Args:
        stage: Name of the stage, such as "tumor_coarse".
        held_out: Centre that was held out of the training.
        store: Folder of the prepared cases.
        checkpoints: Folder of the runs.
        gpu: Device, as ``engine.device.choose_device`` takes it.

    Returns:
        The cases by centre, and the model.

    Raises:
        InputError: If the store is empty, the device does not exist or no such model has been trained.
    """
    return read_store(store), load_model(checkpoints, stage, held_out, choose_device(gpu))
