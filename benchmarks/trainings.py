"""Trainings for the benchmarks, made as the scripts would make them: on random boxes, or on a store of phantoms."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch.utils.data import DataLoader

from benchmarks.boxes import random_sample
from data.augment import Augmentation
from data.cases.case import Case, read_case, write_case
from data.common.errors import InputError
from data.samples import Sample
from data.scans.boxes import triple
from data.scans.grid import Grid
from data.splits.split import Split
from engine.device import choose_execution
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import Stage
from engine.train.step import prepare_step, step_inputs, train_step
from engine.train.training import Training, prepare_training

LATE = 0.6  # share of a training after which all terms of the loss act


def make_training(
    stage: Stage,
    device: torch.device,
    cases: Sequence[Case],
    folder: Path,
    *,
    width: int,
    batch_size: int,
    workers: int = 0,
    plain: bool = False,
) -> Training:
    """Make a training of a stage on prepared cases; ``folder`` is that of its run, to which a benchmark writes nothing.

    Args:
        stage: With its method and sampling.
        device: Where to compute.
        cases: Hold what the stage segments.
        folder: Of the run.
        width: Channels of the network at full resolution.
        batch_size: Boxes per step.
        workers: Processes that read boxes.
        plain: Whether to compute in the plain way.
    """
    training = prepare_training(
        stage=stage,
        split=Split("benchmark", tuple(case.key for case in cases), (), ()),
        recipe=Recipe(
            network=NetworkSettings(width=width),
            method=stage.method,
            sampling=stage.sampling,
            augmentation=Augmentation(),
            training=TrainSettings(epochs=10, batch_size=batch_size, seed=0, workers=workers),
            preparation=cases[0].preparation,
        ),
        train_cases=cases,
        validation_cases=[],
        execution=choose_execution(device, plain=plain),
        folder=folder,
    )
    training.net.train()
    return training


def random_training(
    stage: Stage, device: torch.device, shape: Sequence[int], *, width: int, batch_size: int, plain: bool = False
) -> tuple[Training, list[Sample]]:
    """Make a training of a stage as its script would begin it, and the samples of a step.

    Args:
        stage: The stage with its method.
        device: Where to compute.
        shape: What the network sees, (D, H, W), at the voxel size of the stage.
        width: Channels of the network at full resolution.
        batch_size: Boxes per step.
        plain: As in ``make_training``.
    """
    spacing = stage.sampling.target_mm
    samples = [random_sample(shape, spacing, Augmentation(), seed) for seed in range(batch_size)]
    with tempfile.TemporaryDirectory() as folder:
        small = [array[:8, :8, :8] for array in (samples[0].image, samples[0].mask)]
        case = read_case(
            write_case(
                Path(folder),
                "benchmark",
                "box",
                *small,
                patient="box",
                spacing=triple(spacing),
                grid=Grid.plain((8, 8, 8), triple(spacing)),
                source={},
            )
        )
        training = make_training(stage, device, [case], Path(folder), width=width, batch_size=batch_size, plain=plain)
    return training, samples


def make_step(training: Training, samples: Sequence[Sample], seed: int) -> dict[str, torch.Tensor]:
    """Prepare and make a step at a time when all terms of the loss act; the same seed draws the same."""
    generators = [torch.Generator().manual_seed(1000 * seed + place) for place in range(len(samples))]
    return train_step(training, prepare_step(training, samples, generators), int(LATE * training.steps))


def make_steps(training: Training, samples: Sequence[Sample], count: int, epoch: int) -> torch.Tensor:
    """Make steps on the same samples as the training makes those of an epoch, and return the last loss.

    On a GPU, each step is prepared while the one before is computed. All terms of the loss act, as in ``make_step``.
    """
    loader = cast("DataLoader[Sample | InputError]", [list(samples)] * count)
    training, loss = replace(training, loader=loader), torch.zeros(())
    for step in step_inputs(training, epoch):
        loss = train_step(training, step, int(LATE * training.steps))["loss"]
    return loss
