"""Stacks of few slices around the pancreas, as real patients are published in: how a network is shown one.

A stack is resampled to the voxels of the network. Where it has fewer than LEAST_SLICES slices then, the outermost ones
are repeated; they do not count in the scores. What the stack does not show is filled with fat.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import mannwhitneyu

from data.samples import NetworkGrid
from data.scans.boxes import triple
from data.warp import resample
from engine.infer.box import box_probability
from engine.infer.models import StageModel

FAT_HU = -100
SOFT_ABOVE_HU = -50  # what is brighter is not fat
LEAST_SLICES = 16

Spacing = tuple[float, float, float]


class Stack(NamedTuple):
    """A resampled stack.

    Attributes:
        image: int16 HU, shape (D, H, W), padded to LEAST_SLICES.
        masks: Boolean masks of the slices that are not padding, by name.
        real: The slices that are not padding.
    """

    image: np.ndarray
    masks: dict[str, np.ndarray]
    real: slice

    @property
    def shown(self) -> np.ndarray:
        """The image without the padding."""
        return self.image[self.real]


def make_stack(hu: np.ndarray, masks: Mapping[str, np.ndarray], own_spacing: Spacing, spacing: Spacing) -> Stack:
    """Resample a stack with its masks, each of shape (D, H, W), from one spacing (z, y, x) in mm to another."""
    factor = triple(float(s / o) for s, o in zip(spacing, own_spacing, strict=True))
    grid = NetworkGrid(triple(max(1, round(n / f)) for n, f in zip(hu.shape, factor, strict=True)), factor)
    channels = torch.from_numpy(np.stack([hu, *masks.values()]).astype(np.float32))[None]
    image, *found = resample(channels, grid, beyond="border")[0].numpy()
    missing = max(0, LEAST_SLICES - len(image))
    padded = np.pad(image, ((missing // 2, missing - missing // 2), (0, 0), (0, 0)), mode="edge")
    return Stack(
        image=np.rint(padded).astype(np.int16),
        masks={name: mask >= 0.5 for name, mask in zip(masks, found, strict=True)},
        real=slice(missing // 2, missing // 2 + len(image)),
    )


def probability_of(model: StageModel, stack: Stack, spacing: Spacing) -> np.ndarray:
    """Return the probability of the stage's target in the slices that are not padding, float32 (D, H, W)."""
    return box_probability(
        model.net,
        stack.image,
        spacing,
        stage=model.stage,
        device=model.device,
        readout=model.readout,
        flips=model.flips,
    )[stack.real]


def rank(values: np.ndarray, higher: np.ndarray, lower: np.ndarray) -> float:
    """Return how often a voxel of one mask has a higher value than one of another; equal values count half.

    This is the area under the ROC curve: 1 for a perfect order, 0.5 by chance. NaN if a mask is empty.
    """
    pairs = float(np.count_nonzero(higher)) * float(np.count_nonzero(lower))
    return float(mannwhitneyu(values[higher], values[lower]).statistic) / pairs if pairs else float("nan")
