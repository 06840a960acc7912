import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from models.views import (
    FAMILIES,
    LEAST_CORRELATION,
    SINGLE,
    random_convolution,
    random_views,
    unchecked_random_convolution,
)

MM = torch.full((3,), 0.9)


def smooth_image(seed: int) -> torch.Tensor:
    coarse = torch.rand(1, 1, 4, 6, 6, generator=Generator().manual_seed(seed))
    return F.interpolate(coarse, (16, 24, 24), mode="trilinear")


def abdomen(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A gland in fat and air that holds a lesion 15 HU darker than itself, in noise of 15 HU; and the lesion's mask."""
    image = torch.full((1, 1, 24, 32, 32), 0.02)
    image[..., 6:26, 6:26] = 0.55
    image[..., 26:, :] = 0.0
    lesion = torch.zeros(image.shape, dtype=torch.bool)
    lesion[..., 8:16, 10:18, 10:18] = True
    image[lesion] -= 15 / 340
    noise = torch.randn(image.shape, generator=Generator().manual_seed(seed)) * 15 / 340
    return (image + noise).clamp(0, 1), lesion


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_view_spans_the_unit_interval_and_keeps_bright_bright(seed):
    image = smooth_image(seed)
    view = random_convolution(image, MM, Generator().manual_seed(seed))
    assert view.shape == image.shape and torch.isfinite(view).all()
    assert (float(view.min()), float(view.max())) == (0.0, 1.0) or torch.equal(view, image)
    assert torch.corrcoef(torch.stack([view.flatten(), image.flatten()]))[0, 1] > 0.5


def test_a_view_keeps_the_lesion_dark_where_the_published_one_does_not():
    inverted = {random_convolution: 0, unchecked_random_convolution: 0}
    for make in inverted:
        for seed in range(200):
            image, lesion = abdomen(seed)
            gland = (image > 0.35) & ~lesion
            view = make(image, MM, Generator().manual_seed(seed))
            inverted[make] += bool(view[lesion].mean() >= view[gland].mean())
    assert inverted[unchecked_random_convolution] > 40 and inverted[random_convolution] < 10


def test_many_views_differ_visibly_from_their_image():
    image, _ = abdomen(0)
    change = [
        float((random_convolution(image, MM, Generator().manual_seed(s)) - image).abs().mean()) for s in range(30)
    ]
    assert LEAST_CORRELATION < 1 and sum(c > 0.02 for c in change) > 10


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_image_gives_a_finite_view(value, family):
    image = torch.full((1, 1, 8, 8, 8), value)
    for seed in range(20):
        masks = [torch.zeros_like(image)] * 2 if FAMILIES[family].reads_masks else []
        view = FAMILIES[family].make(image, MM, Generator().manual_seed(seed), *masks)
        assert torch.isfinite(view).all()


def test_gin_keeps_the_norm_and_varies():
    image = smooth_image(3)
    views = [FAMILIES["gin"].make(image, MM, Generator().manual_seed(seed)) for seed in range(8)]
    for view in views:
        assert view.shape == image.shape and float(view.norm()) == pytest.approx(float(image.norm()), rel=1e-4)
    assert max(float((view - image).abs().mean()) for view in views) > 0.1


@pytest.mark.parametrize("family", SINGLE)
def test_families_without_views_give_the_images_themselves(family):
    batch = torch.cat([smooth_image(1), smooth_image(2)])
    assert torch.equal(random_views(batch, MM.expand(2, 3), family, [Generator()] * 2), batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_views_are_ordered_view_after_view_and_repeat_with_the_seed(family):
    batch = torch.cat([smooth_image(1), smooth_image(2)])

    masks = [(batch > 0.7).float(), (batch > 0.5).float()]

    def make() -> torch.Tensor:
        return random_views(batch, MM.expand(2, 3), family, [Generator().manual_seed(seed) for seed in (5, 6)], masks)

    views = make()
    assert views.shape == (4, 1, 16, 24, 24)
    assert torch.equal(views, make())
    assert not torch.equal(views[:2], views[2:])
    assert torch.equal(views[:2], batch) == FAMILIES[family].plain
    if family == "randconv":
        similarity = torch.corrcoef(torch.cat([views.flatten(1), batch.flatten(1)]))
        for sample in (0, 1):  # each view resembles its own sample more than the other sample
            for view in (sample, sample + 2):
                assert similarity[view, 4 + sample] > similarity[view, 5 - sample]


def test_the_kernel_of_a_view_has_its_size_in_mm(monkeypatch):
    """It has an odd number of voxels, at least three, whose length is next to 2.7, 4.5 or 6.3 mm."""
    for spacing in ((0.9, 0.9, 0.9), (2.0, 0.9, 0.9), (3.0, 1.5, 3.0)):
        drawn = set()

        def convolve(image, sizes, generator, drawn=drawn):
            drawn.add(tuple(sizes))
            return image

        monkeypatch.setattr("models.views._convolve", convolve)
        for seed in range(20):
            random_convolution(smooth_image(0), torch.tensor(spacing), Generator().manual_seed(seed))
        assert drawn == {tuple(max(3, 1 + 2 * round((mm / s - 1) / 2)) for s in spacing) for mm in (2.7, 4.5, 6.3)}


def test_a_kernel_that_inverts_soft_tissue_is_mixed_in_until_it_no_longer_does(monkeypatch):
    """Only a small share is taken of an inverted image, and all that is drawn of one that keeps the order."""
    image, generator = smooth_image(0), Generator().manual_seed(8)
    torch.randint(3, (), generator=generator)  # of the kernel
    drawn, shares = float(torch.rand((), generator=generator)), {}
    assert drawn > 0.6
    for name, convolved in (("inverted", 1 - image), ("steeper", 1.2 * image - 0.1)):
        monkeypatch.setattr("models.views._convolve", lambda *_, convolved=convolved: convolved)
        monkeypatch.setattr("models.views._stretch", lambda view: view)
        change = (random_convolution(image, MM, Generator().manual_seed(8)) - image).flatten()
        largest = (convolved - image).flatten()
        shares[name] = float(change @ largest / (largest @ largest))
    assert shares["inverted"] < 0.5 and shares["steeper"] == pytest.approx(drawn, abs=0.05)
