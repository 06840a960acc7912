"""A training of a stage on random boxes, made as its script would make it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.boxes import random_sample
from data.augment import Augmentation
from data.cases.case import read_case, write_case
from data.samples import Sample
from data.scans.boxes import triple
from data.scans.grid import Grid
from data.splits.split import Split
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import Stage
from engine.train.loop import Training, prepare_training


def random_training(
    stage: Stage, device: torch.device, shape: Sequence[int], *, width: int, batch_size: int
) -> tuple[Training, list[Sample]]:
    """Make a training of a stage as its script would begin it, and the samples of a step.

    Args:
        stage: The stage with its method.
        device: Where to compute.
        shape: What the network sees, (D, H, W), at the voxel size of the stage.
        width: Channels of the network at full resolution.
        batch_size: Boxes per step.
    """
    spacing, augmentation = stage.sampling.target_mm, Augmentation()
    samples = [random_sample(shape, spacing, augmentation, seed) for seed in range(batch_size)]
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
        training = prepare_training(
            stage=stage,
            split=Split("benchmark", (case.key,), (), ()),
            recipe=Recipe(
                network=NetworkSettings(width=width),
                method=stage.method,
                sampling=stage.sampling,
                augmentation=augmentation,
                training=TrainSettings(epochs=2, batch_size=batch_size, seed=0, workers=0),
                preparation=case.preparation,
            ),
            train_cases=[case],
            validation_cases=[],
            device=device,
            folder=Path(folder),
        )
    training.net.train()
    return training, samples
