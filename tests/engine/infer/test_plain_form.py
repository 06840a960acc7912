"""The masks are those of the plain form: float32, each flip alone, whole boxes, filters standardised in every pass."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from data.augment import window
from data.samples import NetworkGrid, network_grid
from data.warp import Pose, low_pass, resample
from engine.device import avoid_slow_convolutions
from engine.infer.box import FLIPS, NO_FLIPS, READOUTS, segment_box
from engine.stages import STAGES
from models.dual_task_net import DualTaskNet

SPACING = (2.5, 0.8, 0.9)
SHAPE = (14, 45, 38)
UNTURNED = Pose(torch.eye(3), None)  # with a pose, every voxel is sampled at a position of its own


def plain_probability(net, image, stage, readout, flips) -> np.ndarray:
    """What the network makes of a box, as directly as it can be written."""
    grid = network_grid(image.shape, SPACING, stage.sampling)
    seen = resample(low_pass(window(torch.from_numpy(image), (-100, 240))[None, None], grid.factor), grid, UNTURNED)
    voxel_mm = torch.tensor([stage.sampling.target_mm])
    total = torch.zeros_like(seen)
    for axes in flips:
        output = net(seen.flip(axes))  # with gradients: the filters are standardised anew
        total += READOUTS[readout].probability(output, voxel_mm, stage.method.steepness).detach().flip(axes)
    back = NetworkGrid(image.shape, tuple(1 / factor for factor in grid.factor))
    return resample(total / len(flips), back, UNTURNED, beyond="border")[0, 0].numpy()


def plain_components(mask: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return np.isin(labels, 1 + np.flatnonzero(sizes > 0.5 * sizes.max(initial=0)))


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("flips", [FLIPS, NO_FLIPS], ids=["eight flips", "fast"])
@pytest.mark.parametrize("target_mm", [(2.0, 0.9, 0.9), (4.0, 2.0, 2.0)])
def test_masks_are_those_of_the_plain_form(readout, flips, target_mm):
    """Noise has the most voxels near the threshold."""
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(70, 400, SHAPE), 1.5).astype(np.int16)
    stage = STAGES["tumor_coarse"]
    stage = replace(stage, sampling=replace(stage.sampling, target_mm=target_mm))
    torch.manual_seed(0)
    plain_net = DualTaskNet(width=8, heads=("seg", "sdf")).eval()
    torch.manual_seed(0)
    net = (
        DualTaskNet(width=8, heads=("seg", "sdf")).eval().requires_grad_(False).to(memory_format=torch.channels_last_3d)
    )
    avoid_slow_convolutions(net)
    probability = plain_probability(plain_net, image, stage, readout, flips)
    threshold = float(np.quantile(probability, 0.6))
    expected = plain_components(probability > threshold)
    options = {"stage": stage, "device": torch.device("cpu"), "readout": readout, "flips": flips}
    for _ in range(2):  # the second time with filters that were standardised before
        mask = segment_box(net, image, SPACING, threshold, **options)
        assert 2 * (mask & expected).sum() >= 0.999 * (mask.sum() + expected.sum()) > 1000
