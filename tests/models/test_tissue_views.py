"""Curves, the contrast of a lesion in its gland, and which random convolutions are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from models import tissue_views
from models.tissue_views import (
    INVERTED,
    LEAST_CONTRAST,
    apply_curve,
    keeps_target,
    move_tissues,
    noise_like,
    random_curve,
)
from models.views import random_tissues
from tests.models.test_views import abdomen

MM = torch.tensor([2.0, 1.0, 1.0])


def scene(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A gland in fat with a darker lesion: image, mask of the lesion, mask of the gland with it."""
    image, lesion = abdomen(seed)
    pancreas = torch.zeros_like(image)
    pancreas[..., 6:26, 6:26] = 1
    return image, lesion.float(), pancreas


def contrast(image: torch.Tensor, target: torch.Tensor, pancreas: torch.Tensor) -> float:
    return float(image[target > 0].mean() - image[(pancreas - target) > 0].mean())


@pytest.fixture
def curves_only(monkeypatch):
    for share in ("BLURRED", "THICKENED", "NOISY"):
        monkeypatch.setattr(tissue_views, share, 0.0)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_curve_rises_from_0_to_1(seed):
    curve = random_curve(Generator().manual_seed(seed))
    assert (curve.diff() > 0).all() and abs(float(curve[0])) < 1e-6 and float(curve[-1]) == pytest.approx(1)
    grey = torch.linspace(0, 1, 101)
    mapped = apply_curve(grey, curve)
    assert (mapped.diff() > 0).all()
    knots = torch.linspace(0, 1, len(curve))
    assert torch.allclose(apply_curve(knots, curve), curve, atol=1e-6)
    assert torch.allclose(mapped.double(), torch.from_numpy(np.interp(grey, knots, curve)), atol=1e-5)


def test_a_fifth_of_the_views_inverts_the_contrast_and_none_loses_it(curves_only):
    image, target, pancreas = scene()
    before = contrast(image, target, pancreas)
    inside = torch.nn.functional.avg_pool3d(target, 3, 1, 1) == 1  # where no softened mask mixes tissues
    gland = torch.nn.functional.avg_pool3d(pancreas * (1 - target), 3, 1, 1) == 1
    ratios, of_gland = [], []
    for seed in range(150):
        view = move_tissues(image, target, pancreas, MM, Generator().manual_seed(seed))
        ratios.append(float(view[inside].mean() - view[gland].mean()) / before)
        of_gland.append(float(view[gland].mean()))
    assert sum(r < 0 for r in ratios) / len(ratios) == pytest.approx(INVERTED, abs=0.1)
    assert min(abs(r) for r in ratios) > 0.5 * LEAST_CONTRAST  # of the voxels inside, without those at the boundary
    assert torch.tensor(of_gland).std() > 0.05


def test_tissues_move_independently(curves_only):
    """The order of gland and surroundings changes with the seed, which no single monotone curve does."""
    image, target, pancreas = scene()
    image = torch.where(pancreas > 0, image, 0.5)  # surroundings a little darker than the gland
    orders = set()
    for seed in range(40):
        view = move_tissues(image, target, pancreas, MM, Generator().manual_seed(seed))
        orders.add(bool(view[..., 10:24, 22:25].mean() > view[..., :4, :4].mean()))
    assert orders == {True, False}


@pytest.mark.parametrize("kind", ["no target", "all target", "nothing"])
def test_without_target_or_gland_nothing_is_shifted(kind, curves_only):
    image, target, pancreas = scene()
    masks = {
        "no target": (0 * target, pancreas),
        "all target": (pancreas, pancreas),
        "nothing": (0 * target, 0 * target),
    }
    for seed in range(10):
        view = move_tissues(image, *masks[kind], MM, Generator().manual_seed(seed))
        assert torch.isfinite(view).all() and float(view.min()) >= 0 and float(view.max()) <= 1


def test_views_are_degraded_and_repeat_with_the_seed():
    image, target, pancreas = scene()

    def view(seed: int) -> torch.Tensor:
        return random_tissues(image, MM, Generator().manual_seed(seed), target, pancreas)

    assert torch.equal(view(3), view(3)) and not torch.equal(view(3), view(4))
    rough = [float(view(seed)[..., 8:24, 20:25].diff(dim=3).abs().mean()) for seed in range(30)]
    assert max(rough) > 3 * min(rough)  # blurred and noisy ones
    assert not torch.equal(noise_like(image, Generator().manual_seed(1)), noise_like(image, Generator().manual_seed(2)))


def test_a_convolution_may_change_the_surroundings_but_not_erase_or_invert_the_lesion():
    image, target, pancreas = scene()
    inverted, erased = 1 - image, torch.where(target > 0, image + 15 / 340, image)
    brighter_fat = torch.where(pancreas > 0, image, 0.9)
    found = {}
    for name, view in {"same": image, "inverted": inverted, "erased": erased, "fat": brighter_fat}.items():
        found[name] = bool(keeps_target(view, image, target, pancreas, MM))
    assert found == {"same": True, "inverted": False, "erased": False, "fat": True}
    # Without a target, it is the pancreas that has to stand out from the ring around it.
    nothing = 0 * target
    assert not keeps_target(inverted, image, nothing, pancreas, MM) and keeps_target(
        erased, image, nothing, pancreas, MM
    )
