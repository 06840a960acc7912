"""Random boxes of a scan for the benchmarks: blobs of soft tissue, of which the densest are the target."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from data.augment import Augmentation
from data.cases.case import read_case, write_case
from data.samples import NetworkGrid, Sample
from data.scans.boxes import triple
from data.scans.grid import Grid
from data.splits.split import Split
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import Stage
from engine.train.loop import Training, prepare_training

FOREGROUND_SHARE = 0.03
BLOB_MM = 8.0  # standard deviation of the Gaussian that makes blobs of noise


def random_blobs(shape: Sequence[int], spacing: Sequence[float], seed: int = 0) -> np.ndarray:
    """Return a mask (D, H, W), bool, of rounded blobs that fill FOREGROUND_SHARE of a box."""
    smooth = _smooth_noise(shape, spacing, seed)
    return smooth > np.quantile(smooth, 1 - FOREGROUND_SHARE)


def random_sample(
    shape: Sequence[int], spacing: Sequence[float], augmentation: Augmentation | None = None, seed: int = 0
) -> Sample:
    """Make a box as the loader would read it.

    Args:
        shape: What the network sees, (D, H, W).
        spacing: Of the voxels of the scan and of the network alike, (z, y, x) in mm.
        augmentation: Its reach is read around the box, as in training; None reads the box alone.
        seed: Of the noise.
    """
    margin = (0, 0, 0)
    if augmentation is not None:
        half = [n * mm / 2 for n, mm in zip(shape, spacing, strict=True)]
        reach = augmentation.reach(half)
        margin = triple(int(np.ceil((r - h) / mm)) + 1 for r, h, mm in zip(reach, half, spacing, strict=True))
    read = [n + 2 * m for n, m in zip(shape, margin, strict=True)]
    smooth = _smooth_noise(read, spacing, seed)
    mask = smooth > np.quantile(smooth, 1 - FOREGROUND_SHARE)
    noise = np.random.default_rng(seed + 1).standard_normal(read, np.float32)
    image = (60 + 60 * smooth / smooth.std() + 12 * noise).astype(np.int16)
    grid = NetworkGrid(triple(shape), (1.0, 1.0, 1.0), triple(float(m) for m in margin))
    return Sample("benchmark/box", image, mask.astype(np.uint8), triple(spacing), grid)


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


def _smooth_noise(shape: Sequence[int], spacing: Sequence[float], seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return ndimage.gaussian_filter(noise, [BLOB_MM / mm for mm in spacing])
