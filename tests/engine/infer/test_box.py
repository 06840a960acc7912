"""The probability of a box lies on its own voxels, is averaged over all flips, and may be computed in slabs."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import engine.infer.box
from engine.device import inference_precision
from engine.infer import grid
from engine.infer.box import (
    FLIPS,
    NO_FLIPS,
    TILE_OVERLAP,
    _affordable_tile,
    _tile_starts,
    box_probability,
    segment_box,
)
from engine.infer.components import keep_components
from engine.stages import STAGES
from models.dual_task_net import DualTaskNet, DualTaskOutput

CPU = torch.device("cpu")
FINE = STAGES["pancreas_fine"]


def seeing(spacing, stage=FINE, **changes):
    """The stage with a network that sees voxels of this size in mm."""
    return replace(stage, sampling=replace(stage.sampling, target_mm=spacing, **changes))


STAGE = seeing((1.0, 1.0, 1.0))


class Brightness(nn.Module):
    """A network whose probability is the windowed image itself."""

    def forward(self, x):
        return DualTaskOutput(torch.logit(x.clamp(1e-6, 1 - 1e-6)), None, None, None)


class Seen(Brightness):
    """Records the shapes of the images that it gets."""

    def __init__(self):
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x):
        self.shapes.append(tuple(x.shape[2:]))
        return super().forward(x)


def hu(rng, shape):
    return rng.integers(-100, 240, shape).astype(np.int16)


@pytest.mark.parametrize("shape", [(3, 17, 20), (16, 24, 24), (33, 9, 41)])
def test_probabilities_lie_on_the_voxels_of_the_box(shape):
    image = hu(np.random.default_rng(0), shape)
    probability = box_probability(Brightness(), image, (5, 1, 1), stage=seeing((5, 1, 1)), device=CPU, flips=FLIPS)
    assert probability.dtype == np.float32 and probability.shape == shape
    assert np.abs(probability - (image + 100.0) / 340).max() < 1e-4


@pytest.mark.parametrize("target", [(5, 1.6, 1.6), (3, 2, 2), (2.0, 0.9, 0.9)])
def test_probabilities_on_another_grid_come_back_to_the_same_place(target):
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in (20, 40, 44)], indexing="ij")
    image = (np.exp(-0.5 * (z**2 + y**2 + x**2)) * 300 - 80).astype(np.int16)
    probability = box_probability(Brightness(), image, (2.5, 0.8, 0.8), stage=seeing(target), device=CPU, flips=FLIPS)
    inside = (slice(3, -3),) * 3  # at the very border the zeros beyond the box are mixed in
    found, expected = probability[inside], ((image + 100.0) / 340)[inside]
    for axis in range(3):  # what is lost to the coarser grid is the same on both sides of the middle
        assert np.abs((found - found.mean()) - np.flip(found - found.mean(), axis)).max() < 0.006
    assert np.abs(found - expected).max() < 0.03


def test_the_probability_is_the_mean_over_eight_flips():
    torch.manual_seed(0)
    net = DualTaskNet(width=8, heads=("seg",)).eval().requires_grad_(False)
    image = hu(np.random.default_rng(1), (8, 16, 16))
    options = {"spacing": (1, 1, 1), "stage": STAGE, "device": CPU, "flips": FLIPS}
    averaged = box_probability(net, image, **options)
    flipped = box_probability(net, image[:, ::-1], **options)[:, ::-1]
    once = box_probability(net, image, **options | {"flips": NO_FLIPS})
    assert np.allclose(averaged, flipped, atol=1e-5)
    assert not np.allclose(averaged, once, atol=1e-5)


def test_the_average_of_both_tasks_has_the_steepness_of_the_training_unless_the_voxels_are_too_coarse():
    class Both(nn.Module):
        """Everywhere p = 0.5, and a distance of a tenth of tau to the target."""

        def forward(self, x):
            return DualTaskOutput(torch.zeros_like(x), torch.full_like(x, float(np.arctanh(0.1))), None, None)

    image = np.zeros((8, 8, 8), np.int16)
    for voxel, trained, k in ((0.9, 50.0, 50.0), (3.0, 50.0, 15.0), (0.9, 20.0, 20.0), (3.0, math.inf, math.inf)):
        stage = replace(seeing((voxel,) * 3), method=replace(FINE.method, steepness=trained))
        probability = box_probability(
            Both(), image, (voxel,) * 3, stage=stage, device=CPU, flips=FLIPS, readout="average"
        )
        assert np.allclose(probability, (0.5 + 1 / (1 + np.exp(k * 0.1))) / 2, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_tiles_cover_every_voxel_with_a_total_weight_of_one(monkeypatch, axis):
    monkeypatch.setattr(engine.infer.box, "_affordable_voxels", lambda device: 72 * 16 * 16)
    shape = [16, 16, 16]
    shape[axis] = 200
    image = hu(np.random.default_rng(2), shape)
    probability = box_probability(Brightness(), image, (1, 1, 1), stage=STAGE, device=CPU, flips=NO_FLIPS)
    assert np.abs(probability - (image + 100.0) / 340).max() < 1e-4


def test_a_box_that_is_larger_than_a_patch_of_the_training_is_tiled_on_all_axes():
    image = hu(np.random.default_rng(2), (40, 50, 60))
    net = Seen()
    stage = seeing((1, 1, 1), patch_mm=(24, 32, math.inf))
    probability = box_probability(net, image, (1, 1, 1), stage=stage, device=CPU, flips=NO_FLIPS)
    assert np.abs(probability - (image + 100.0) / 340).max() < 1e-4
    assert set(net.shapes) == {(24, 32, 64)} and len(net.shapes) == 3 * 3


@given(st.integers(1, 60), st.integers(1, 60))
def test_tiles_overlap_and_reach_both_ends(length, tile):
    length, tile = 8 * max(length, tile), 8 * min(length, tile)
    starts = _tile_starts(length, tile)
    assert starts[0] == 0 and starts[-1] == length - tile
    assert all(0 < b - a <= tile - min(TILE_OVERLAP, tile // 2) + 1 for a, b in itertools.pairwise(starts))


def test_tiles_shrink_to_the_free_memory_along_their_longest_axis(monkeypatch):
    monkeypatch.setattr(engine.infer.box, "_affordable_voxels", lambda device: 64 * 64 * 96)
    assert _affordable_tile(torch.zeros(1, 1, 64, 64, 200), (128, 128, 128)) == (64, 64, 96)
    assert _affordable_tile(torch.zeros(1, 1, 64, 160, 200), (128, 128, 128)) == (64, 64, 96)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2.5, 0.8, 0.8), (5, 1.3, 1.3)])
def test_a_large_box_is_interpolated_in_slabs_with_the_same_result(monkeypatch, spacing):
    image = np.random.default_rng(0).integers(-100, 240, (40, 24, 32)).astype(np.int16)
    options = {"stage": seeing((2.0, 1.5, 1.0)), "device": CPU, "flips": FLIPS}
    whole = box_probability(Brightness(), image, spacing, **options)
    monkeypatch.setattr(grid, "SLAB_VOXELS", 3 * 24 * 32)
    slabs = box_probability(Brightness(), image, spacing, **options)
    np.testing.assert_allclose(slabs, whole, atol=1e-5)
    assert np.array_equal(segment_box(Brightness(), image, spacing, 0.5, **options), keep_components(slabs > 0.5))


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 8])
def test_flips_are_computed_in_batches_with_the_same_result(monkeypatch, at_a_time):
    torch.manual_seed(0)
    net = DualTaskNet(width=8, heads=("seg",)).eval().requires_grad_(False)
    image = np.random.default_rng(0).integers(-100, 240, (16, 24, 16)).astype(np.int16)
    options = {"stage": seeing((1.0, 1.0, 1.0)), "device": CPU, "flips": FLIPS}
    expected = np.mean(
        [
            torch.sigmoid(net((torch.from_numpy(image)[None, None].float() + 100).div(340).flip(axes)).seg).flip(axes)
            for axes in FLIPS
        ],
        axis=0,
    )[0, 0]
    sizes = []
    net.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    monkeypatch.setattr(engine.infer.box, "CPU_BATCH_VOXELS", at_a_time * image.size)
    np.testing.assert_allclose(box_probability(net, image, (1.0, 1.0, 1.0), **options), expected, atol=1e-5)
    assert sum(sizes) == len(FLIPS) and max(sizes) == at_a_time


def test_features_beyond_the_range_of_half_precision_are_computed_in_full(monkeypatch):
    torch.manual_seed(0)
    net = DualTaskNet(width=8, heads=("seg",)).eval()
    with torch.no_grad():
        net.encoder1.norm2.weight.fill_(1e5)
    image = hu(np.random.default_rng(0), (16, 16, 16))
    expected = box_probability(net, image, (1, 1, 1), stage=STAGE, device=CPU, flips=FLIPS)
    monkeypatch.setattr(engine.infer.box, "inference_precision", lambda device: torch.float16)
    assert np.array_equal(box_probability(net, image, (1, 1, 1), stage=STAGE, device=CPU, flips=FLIPS), expected)
    with torch.no_grad():
        net.encoder1.norm2.weight.fill_(1)
    half = box_probability(net, image, (1, 1, 1), stage=STAGE, device=CPU, flips=FLIPS)
    monkeypatch.undo()
    full = box_probability(net, image, (1, 1, 1), stage=STAGE, device=CPU, flips=FLIPS)
    assert 0 < np.abs(half - full).max() < 0.02


def test_a_gpu_infers_in_half_precision_unless_the_process_computes_plainly():
    assert inference_precision(torch.device("cuda")) == torch.float16
    assert inference_precision(CPU) == torch.float32
    torch.use_deterministic_algorithms(True)
    try:
        assert inference_precision(torch.device("cuda")) == torch.float32
    finally:
        torch.use_deterministic_algorithms(False)
