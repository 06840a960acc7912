import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from models.randconv import random_convolution, random_views


def smooth_image(seed: int) -> torch.Tensor:
    coarse = torch.rand(1, 1, 4, 6, 6, generator=Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (16, 24, 24), mode="trilinear")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_view_spans_the_unit_interval_and_keeps_bright_bright(seed):
    image = smooth_image(seed)
    view = random_convolution(image, Generator().manual_seed(seed))
    assert view.shape == image.shape and torch.isfinite(view).all()
    assert (float(view.min()), float(view.max())) == (0.0, 1.0)
    assert torch.corrcoef(torch.stack([view.flatten(), image.flatten()]))[0, 1] > 0


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_image_gives_a_finite_view(value):
    image = torch.full((1, 1, 8, 8, 8), value)
    for seed in range(20):
        view = random_convolution(image, Generator().manual_seed(seed))
        assert torch.isfinite(view).all() and view.min() >= 0 and view.max() <= 1


def test_views_are_ordered_view_after_view_and_repeat_with_the_seed():
    batch = torch.cat([smooth_image(1), smooth_image(2)])
    views = random_views(batch, 2, Generator().manual_seed(5))
    assert views.shape == (4, 1, 16, 24, 24)
    assert torch.equal(views, random_views(batch, 2, Generator().manual_seed(5)))
    assert not torch.equal(views[:2], views[2:])
    similarity = torch.corrcoef(torch.cat([views.flatten(1), batch.flatten(1)]))
    for sample in (0, 1):  # each view resembles its own sample more than the other one
        for view in (sample, sample + 2):
            assert similarity[view, 4 + sample] > similarity[view, 5 - sample]
