"""The estimated memory of a training step against what torch allocates, and the rules that make a step fit."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.memory import measured_step
from data.augment import Augmentation
from data.cases.case import read_case, write_case
from data.cases.preparation import Preparation
from data.common.errors import InputError
from data.samples import network_grid, patch_shape, training_box
from data.scans.boxes import Box
from data.scans.grid import Grid
from engine import memory
from engine.memory import MemoryTracker, fit_step, fitting_shape, largest_shape, smaller_shapes, step_memory
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import STAGES, with_variant
from models.channels_last import NormReLU
from models.dual_task_net import MOST_RECOMPUTED

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def recipe_of(stage: str = "tumor_coarse", width: int = 32, batch_size: int = 2) -> Recipe:
    training = TrainSettings(batch_size=batch_size)
    sampling, method = STAGES[stage].sampling, STAGES[stage].method
    return Recipe(NetworkSettings(width), method, sampling, Augmentation(), training, Preparation())


def case_of(shape=(200, 512, 512), pancreas=(60, 150, 200), tumour=(30, 60, 60), spacing=(2.0, 0.9, 0.9)):
    """What the estimate reads of a case: its shape, its boxes and its spacing."""

    def box(sides):
        return sides and Box((60, 100, 100), tuple(60 * (i == 0) + 100 * (i > 0) + n for i, n in enumerate(sides)))

    return SimpleNamespace(shape=shape, spacing=spacing, pancreas_box=box(pancreas), tumour_box=box(tumour))


@pytest.mark.parametrize(
    ("stage", "variant", "width", "shape", "batch_size", "recomputed"),
    [
        ("tumor_fine", "full", 8, (32, 32, 40), 2, 0),
        ("tumor_fine", "full", 8, (32, 32, 40), 2, 1),
        ("tumor_coarse", "sdf", 16, (24, 40, 32), 1, 2),
        ("tumor_coarse", "redesigned", 8, (32, 32, 40), 2, 0),
        ("pancreas_coarse", "full", 8, (32, 48, 32), 1, 3),
        ("pancreas_fine", "baseline", 8, (32, 48, 48), 2, 0),
        ("tumor_coarse", "published", 8, (32, 32, 32), 2, 0),
        ("pancreas_fine", "full", 32, (16, 32, 32), 1, 0),
    ],
)
def test_estimate_is_within_a_tenth_of_what_is_allocated(stage, variant, width, shape, batch_size, recomputed):
    network, method = NetworkSettings(width), with_variant(STAGES[stage], variant).method
    measured, _ = measured_step(network, method, shape, batch_size=batch_size, device=CPU, recomputed=recomputed)
    estimate = step_memory(network, method, shape, batch_size=batch_size, half=False, recomputed=recomputed)
    assert estimate == pytest.approx(measured, rel=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("recomputed", [0, 1, 3])
def test_estimate_is_within_a_tenth_of_what_is_allocated_on_a_gpu(recomputed):
    network, method = NetworkSettings(32), STAGES["tumor_coarse"].method
    shape = (64, 96, 128)
    measured, _ = measured_step(network, method, shape, batch_size=2, device=GPU, recomputed=recomputed)
    estimate = step_memory(network, method, shape, batch_size=2, half=True, recomputed=recomputed)
    assert estimate == pytest.approx(measured, rel=0.1)


def test_two_views_of_four_million_voxels_take_no_more_than_22_gb_on_a_gpu():
    network, method = NetworkSettings(32), STAGES["tumor_fine"].method
    shape = (80, 200, 256)
    assert math.prod(shape) > 4e6
    needed = [step_memory(network, method, shape, batch_size=1, half=True, ahead=True, recomputed=n) for n in (0, 1)]
    assert needed[1] < 0.8 * needed[0] and needed[0] <= 22e9


def test_estimating_draws_no_random_numbers_and_knows_every_loss_term():
    state = torch.get_rng_state()
    method = STAGES["tumor_fine"].method.changed(["reciprocal=1", "agreement=1", "deep=1"])
    more = step_memory(NetworkSettings(8), method, (16, 16, 24), batch_size=3, half=False)
    assert more > step_memory(NetworkSettings(8), STAGES["tumor_fine"].method, (16, 16, 24), batch_size=3, half=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_tracker_counts_a_storage_once_and_until_it_is_freed():
    with MemoryTracker() as tracker:
        first = torch.ones(1000)
        views = [first[:10], first.view(10, 100)]
        second = first * 2
        assert tracker.live == 8000
        del second
        assert (tracker.live, tracker.peak) == (4000, 8000)
        del first
        assert tracker.live == 4000
        del views
        assert tracker.live == 0


def test_half_precision_keeps_no_features_in_float32():
    """Left to itself, autocast would normalise in float32 and keep a copy of the features in that type."""
    kept = []
    norm = NormReLU(2, 4)

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept.append(x)
        return x

    x = torch.rand(1, 4, 8, 8, 8, requires_grad=True)
    half = x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        result = norm(half)
    assert result.dtype == torch.bfloat16 and not [
        t for t in kept if t.dtype == torch.float32 and t.numel() >= x.numel()
    ]
    exact = F.relu(F.group_norm(half.float(), 2, norm.weight, norm.bias))
    assert torch.allclose(result.float(), exact, atol=0.02)
    result.float().square().sum().backward()
    assert torch.isfinite(x.grad).all() and norm.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("tumour", [True, False], ids=["tumour", "healthy"])
@pytest.mark.parametrize("stage", sorted(STAGES))
def test_no_box_of_the_training_is_larger_than_the_largest_shape(tmp_path, stage, tumour):
    label = np.zeros((40, 90, 100), np.uint8)
    label[15:24, 30:50, 35:70] = 1
    label[18:21, 36:42, 45:52] = 1 + tumour
    spacing = (3.0, 2.0, 2.0)
    facts = {"patient": "p", "spacing": spacing, "grid": Grid.plain(label.shape, spacing), "source": {}}
    case = read_case(write_case(tmp_path, "c", "case", np.full(label.shape, 40, np.int16), label, **facts))
    sampling = replace(STAGES[stage].sampling, target_mm=spacing)
    largest, rng = largest_shape([case], sampling), np.random.default_rng(0)
    boxes = [training_box(case, sampling, rng, around_pancreas=0.5) for _ in range(200)]
    drawn = np.array([network_grid(box.shape, spacing, sampling).shape for box in boxes])
    assert (drawn.max(axis=0) <= largest).all() and (drawn.max(axis=0) >= np.array(largest) - 8).all()


def test_patches_shrink_by_eight_voxels_and_keep_their_proportions():
    shape = (72, 192, 256)
    shapes = list(smaller_shapes(shape))
    assert shapes[0] == shape and shapes[-1] == (40, 96, 128)
    for before, after in itertools.pairwise(shapes):
        assert sorted(a - b for a, b in zip(before, after, strict=True)) == [0, 0, 8]
        shares = [n / whole for n, whole in zip(after, shape, strict=True)]
        assert max(shares) - min(shares) <= 8 / 72 + 1e-9


def test_the_largest_shape_that_fits_is_taken():
    shape = (72, 192, 256)
    assert fitting_shape(shape, math.prod(shape), math.prod) == shape
    fitting = fitting_shape(shape, 2e6, math.prod)
    shapes = list(smaller_shapes(shape))
    assert math.prod(fitting) <= 2e6 < math.prod(shapes[shapes.index(fitting) - 1])
    assert fitting_shape(shape, 1e5, math.prod) is None


@pytest.fixture
def have_gpu(monkeypatch):
    """Pretend to have a GPU, and estimate in no time."""

    def step_memory(network, method, shape, *, batch_size, recomputed, **_):
        return math.prod(shape) * batch_size * method.images * (3100, 2000, 1450, 1300)[recomputed]

    def pretend(total: float, free: float) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=total))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)

    monkeypatch.setattr(memory, "step_memory", step_memory)
    return pretend


def test_a_large_gpu_changes_nothing(have_gpu):
    have_gpu(85e9, 84e9)
    recipe = recipe_of()
    fit = fit_step(recipe, [case_of()], GPU)
    assert (fit.sampling, fit.recomputed) == (recipe.sampling, 0)
    assert "4 images of 72 x 192 x 256 voxels), 84.0 GB are free" in fit.description
    assert "twice" not in fit.description and "warning" not in fit.description


def test_a_gpu_of_24_gb_recomputes_features_and_one_of_12_gb_gets_a_smaller_patch(have_gpu):
    have_gpu(25.3e9, 25e9)
    recipe = recipe_of()
    fit = fit_step(recipe, [case_of()], GPU)
    assert fit.sampling == recipe.sampling and fit.recomputed > 0
    assert "resolution are computed twice to save memory" in fit.description and "\n" not in fit.description

    have_gpu(12.6e9, 12.3e9)
    fit = fit_step(recipe, [case_of()], GPU)
    shape = patch_shape(fit.sampling)
    assert fit.recomputed == MOST_RECOMPUTED and shape in list(smaller_shapes((72, 192, 256)))[1:]
    size = " x ".join(f"{mm:g}" for mm in fit.sampling.patch_mm)
    assert f"patches of {size} mm instead of 144 x 172.8 x 230.4 mm, because the GPU has 12.6 GB" in fit.description
    assert "warning" not in fit.description


def test_the_patch_depends_on_the_gpu_and_not_on_what_is_free(have_gpu):
    have_gpu(25.3e9, 6e9)
    recipe = recipe_of()
    fit = fit_step(recipe, [case_of()], GPU)
    assert fit.sampling == recipe.sampling and fit.recomputed == MOST_RECOMPUTED
    assert "    warning: a step needs more memory than cuda:0 has free: end other programs" in fit.description


def test_a_patch_that_was_given_is_kept(have_gpu):
    have_gpu(12.6e9, 12.3e9)
    recipe = recipe_of()
    fit = fit_step(recipe, [case_of()], GPU, keep_patch=True)
    assert fit.sampling == recipe.sampling and "warning" in fit.description


def test_a_gpu_on_which_no_patch_fits_is_refused(have_gpu):
    have_gpu(3e9, 3e9)
    with pytest.raises(InputError, match="not even with half the sides of a patch") as error:
        fit_step(recipe_of(), [case_of()], GPU)
    assert error.value.remedy == "use a smaller --batch-size or --width"


def test_small_boxes_need_no_smaller_patch(have_gpu):
    have_gpu(12.6e9, 12.3e9)
    recipe = recipe_of("pancreas_fine")
    fit = fit_step(recipe, [case_of(shape=(40, 100, 100))], GPU)
    assert fit.sampling == recipe.sampling and fit.recomputed == 0
    assert "2 images of 40 x 104 x 104 voxels" in fit.description


def test_on_a_cpu_the_patch_is_never_changed(monkeypatch, have_gpu):
    monkeypatch.setattr(memory, "free_device_memory", lambda _: 12e9)
    fit = fit_step(recipe_of(), [case_of()], CPU)
    assert fit.sampling == recipe_of().sampling and fit.recomputed == MOST_RECOMPUTED and "warning" in fit.description
    monkeypatch.setattr(memory, "free_device_memory", lambda _: math.inf)
    assert fit_step(recipe_of(), [case_of()], CPU).recomputed == 0
