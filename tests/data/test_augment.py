import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Generator

from data.augment import (
    Augmentation,
    Batch,
    augment_intensity,
    draw_pose,
    make_batch,
    window,
)
from data.cases.labels import HU_WINDOW
from data.samples import NetworkGrid, Sample
from data.warp import Elastic, Pose, low_pass, resample

CPU = torch.device("cpu")


def ball_sample(shape=(32, 48, 40), spacing=(2.0, 1.0, 1.0), factor=(1.0, 1.0, 1.0), radius=12) -> Sample:
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    centre = np.array(shape).reshape(3, 1, 1, 1) / 2 - 0.5
    distance = np.sqrt((((grid - centre) * np.array(spacing).reshape(3, 1, 1, 1)) ** 2).sum(0))
    mask = (distance < radius).astype(np.uint8)
    image = np.where(mask, 150, 0).astype(np.int16)
    out = tuple(-(-int(n / f) // 8) * 8 for n, f in zip(shape, factor, strict=True))
    return Sample("c/ball", image, mask, spacing, NetworkGrid(out, factor))


def augmented(sample: Sample, seed: int, settings: Augmentation | None = None) -> Batch:
    return make_batch(
        [sample],
        CPU,
        hu_window=HU_WINDOW,
        augmentation=settings or Augmentation(),
        generators=[Generator().manual_seed(seed)],
    )


def test_window_maps_the_published_range():
    hu = torch.tensor([-1000, -100, 70, 240, 3000], dtype=torch.int16)
    assert window(hu, HU_WINDOW).tolist() == [0, 0, 0.5, 1, 1]


def test_without_a_generator_the_box_is_only_windowed_and_padded():
    sample = ball_sample(shape=(5, 20, 24))
    batch = make_batch([sample], CPU, hu_window=HU_WINDOW)
    assert batch.image.shape == (1, 1, 8, 24, 24)
    expected = window(torch.from_numpy(sample.image), HU_WINDOW)
    assert torch.allclose(batch.image[0, 0, :5, :20, :24], expected, atol=1e-4)
    assert torch.equal(batch.mask[0, 0, :5, :20, :24], torch.from_numpy(sample.mask).float())
    assert batch.mask[..., 5:, :, :].sum() == 0


def test_a_coarser_grid_keeps_volume_and_place_and_says_its_spacing():
    sample = ball_sample(factor=(1.75, 2.5, 2.0))
    batch = make_batch([sample], CPU, hu_window=HU_WINDOW)
    assert batch.spacing.tolist() == [[3.5, 2.5, 2.0]]
    assert float(batch.mask.sum()) * 3.5 * 2.5 * 2 == pytest.approx(float(sample.mask.sum()) * 2, rel=0.03)
    for found in (batch.mask, (batch.image - batch.image[0, 0, 1, 1, 1]).clamp(min=0)):
        centre = ndimage.center_of_mass(found[0, 0].numpy())
        expected = [n / f / 2 - 0.5 for n, f in zip(sample.image.shape, sample.grid.factor, strict=True)]
        np.testing.assert_allclose(centre, expected, atol=0.1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_low_pass_removes_what_a_coarse_grid_would_fold_and_keeps_the_rest(axis):
    shape = [8, 8, 8]
    shape[axis] = 96
    position = torch.arange(96.0).reshape([-1 if a == axis else 1 for a in range(3)])
    factor = [1.0, 1.0, 1.0]
    factor[axis] = 4.0
    middle = (0, 0, *(slice(30, 66) if a == axis else slice(None) for a in range(3)))

    def left(period: float) -> float:
        wave = (2 * torch.pi * position / period).sin().expand(shape)[None, None]
        return float(low_pass(wave, factor)[middle].std() / wave[middle].std())

    assert left(4.0) < 0.1  # a whole wave a step of the grid would become a constant of any value
    assert left(32.0) > 0.9
    constant = torch.full((1, 1, *shape), 0.3)
    assert torch.allclose(low_pass(constant, factor), constant)
    noise = torch.rand(1, 1, *shape)
    assert low_pass(noise, [1.3, 1.0, 0.4]) is noise


def test_there_and_back_again():
    smooth = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).random((24, 32, 40)), 3)).float()[
        None, None
    ]
    coarse = resample(smooth, NetworkGrid((16, 16, 24), (1.5, 2.0, 1.75)))
    back = resample(coarse, NetworkGrid((24, 32, 40), (1 / 1.5, 0.5, 1 / 1.75)), beyond="border")
    inside = (..., slice(3, -3), slice(3, -3), slice(3, -3))
    assert (back - smooth)[inside].abs().max() < 0.15 * (smooth.max() - smooth.min())


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_flip_is_about_the_true_centre(axes):
    volume = torch.rand(1, 1, 8, 16, 24)
    signs = torch.tensor([-1.0 if axis in axes else 1.0 for axis in range(3)])
    flipped = resample(volume, NetworkGrid((8, 16, 24), (1, 1, 1)), Pose(torch.diag(signs), None), (3, 1, 2))
    assert torch.allclose(flipped, volume.flip([axis + 2 for axis in axes]), atol=1e-4)


def test_no_rotation_shifts_nothing():
    volume = torch.rand(1, 1, 8, 16, 24)
    same = resample(volume, NetworkGrid((8, 16, 24), (1, 1, 1)), Pose(torch.eye(3), None), (3, 1, 2))
    assert torch.allclose(same, volume, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_a_rotated_ball_stays_a_ball_in_mm_whatever_the_spacing(seed):
    """Rotation in voxels instead of mm would shear it: the release's fault."""
    settings_ = Augmentation(probability=1.0, scale=(1.0, 1.0), elastic_mm=0.0, noise=0.0, gamma=(1.0, 1.0))
    sample = ball_sample(radius=17)  # large beside its voxels: what is left is the shape
    batch = make_batch(
        [sample], CPU, hu_window=HU_WINDOW, augmentation=settings_, generators=[Generator().manual_seed(seed)]
    )
    mask = torch.from_numpy(sample.mask)
    overlap = (batch.mask[0, 0] * mask).sum() * 2 / (batch.mask.sum() + mask.sum())
    assert overlap > 0.97


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_scaling_scales_the_volume(seed):
    settings_ = Augmentation(probability=1.0, rotation_degrees=0.0, scale=(1.2, 1.2), elastic_mm=0.0)
    sample = ball_sample()
    batch = make_batch(
        [sample], CPU, hu_window=HU_WINDOW, augmentation=settings_, generators=[Generator().manual_seed(seed)]
    )
    assert float(batch.mask.sum() / sample.mask.sum()) == pytest.approx(1.2**3, rel=0.05)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_image_and_mask_move_together(seed):
    sample = ball_sample()
    settings_ = Augmentation(noise=0.0, gamma=(1.0, 1.0), low_resolution_probability=0.0, grey_probability=0.0)
    batch = make_batch(
        [sample], CPU, hu_window=HU_WINDOW, augmentation=settings_, generators=[Generator().manual_seed(seed)]
    )
    background, ball = (float(window(torch.tensor(hu), HU_WINDOW)) for hu in (0, 150))
    # Interpolation mixes the two values at the edge, diagonally too, up to two voxels deep where the field compresses.
    inside = ndimage.binary_erosion(batch.mask[0, 0].numpy() > 0, np.ones((3, 3, 3)), iterations=3)
    assert inside.any()
    assert batch.image.min() >= 0 and batch.image.max() <= 1
    assert torch.allclose(batch.image[0, 0][torch.from_numpy(inside)], torch.tensor(ball), atol=1e-5)
    assert background < ball


def test_the_same_seed_repeats_and_another_does_not():
    batches = [
        make_batch(
            [ball_sample()],
            CPU,
            hu_window=HU_WINDOW,
            augmentation=Augmentation(),
            generators=[Generator().manual_seed(seed)],
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(batches[0].image, batches[1].image)
    assert not torch.equal(batches[0].image, batches[2].image)


def test_boxes_of_different_shapes_share_a_batch():
    batch = make_batch([ball_sample((16, 40, 40)), ball_sample((24, 32, 48))], CPU, hu_window=HU_WINDOW)
    assert batch.image.shape == (2, 1, 24, 40, 48) and batch.keys == ("c/ball", "c/ball")


def elastic_field(seed: int, size_mm: tuple[float, ...], voxel_mm: float = 4.0) -> torch.Tensor:
    """A displacement with the default settings, (D, H, W, 3) in mm."""
    grid = NetworkGrid(tuple(int(mm / voxel_mm) for mm in size_mm), (1.0, 1.0, 1.0))
    pose = draw_pose(grid, (voxel_mm,) * 3, Augmentation(probability=1.0), Generator().manual_seed(seed))
    return pose.elastic.on_grid(grid.shape, (voxel_mm,) * 3, CPU)


def test_the_elastic_displacement_has_the_asked_size_in_large_and_small_boxes():
    for size_mm in ((160.0, 240.0, 240.0), (24.0, 40.0, 64.0)):
        fields = torch.cat([elastic_field(seed, size_mm).flatten() for seed in range(40)])
        assert float(fields.std()) == pytest.approx(Augmentation().elastic_mm, rel=0.1)
        assert float(fields.abs().max()) <= 3 * Augmentation().elastic_mm


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.tuples(*[st.sampled_from([32.0, 96.0, 200.0])] * 3))
def test_no_voxel_folds(seed, size_mm):
    field = elastic_field(seed, size_mm)
    strain = torch.stack(torch.gradient(field, spacing=4.0, dim=(0, 1, 2)), dim=-1)  # (D, H, W, 3, 3)
    assert float(torch.linalg.det(torch.eye(3) + strain).min()) > 0


def test_the_spline_has_its_control_points_in_mm():
    """One control point 40 mm from the corner: the bump is centred there whatever the voxels are."""
    control = torch.zeros(3, 6, 6, 6)
    control[0, 2, 2, 2] = 1.0
    for voxel_mm in (1.0, 2.5):
        shape = (int(80 / voxel_mm),) * 3
        field = Elastic(control, 40.0, 9.0).on_grid(shape, (voxel_mm,) * 3, CPU)
        peak = ndimage.center_of_mass(field[..., 0].numpy())
        np.testing.assert_allclose((np.array(peak) + 0.5) * voxel_mm, 40.0, atol=0.1)
        assert float(field[..., 0].max()) == pytest.approx((2 / 3) ** 3, rel=0.02) and not field[..., 1:].any()


def lookup(box_mm: tuple[float, float, float], settings_: Augmentation, seed: int) -> np.ndarray:
    """Where the voxels of a box of 12 x 12 x 12 look, in mm from its centre: the largest distance along each axis."""
    grid = NetworkGrid((12, 12, 12), tuple(mm / 12 for mm in box_mm))
    pose = draw_pose(grid, (1.0, 1.0, 1.0), settings_, Generator().manual_seed(seed))
    corners = np.array(np.meshgrid(*[(-mm / 2, mm / 2) for mm in box_mm])).reshape(3, -1)
    largest = np.abs(pose.matrix.numpy() @ corners).max(axis=1)
    return largest + (3 * settings_.elastic_mm if pose.elastic else 0)


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(*[st.floats(10, 300)] * 3), st.integers(0, 10**6), st.floats(0, 40), st.floats(0.5, 1.2), st.floats(0, 5)
)
def test_the_reach_holds_all_that_is_looked_at(box_mm, seed, degrees, scale, elastic):
    settings_ = Augmentation(probability=0.8, rotation_degrees=degrees, scale=(scale, 1.3), elastic_mm=elastic)
    reach = settings_.reach([mm / 2 for mm in box_mm])
    assert (lookup(box_mm, settings_, seed) <= np.array(reach) + 1e-3).all()


def test_a_loss_of_resolution_blurs_the_image_by_no_more_than_asked_and_leaves_the_mask():
    sample = ball_sample()
    sharp = Augmentation(probability=0.0, low_resolution_probability=0.0)
    thick = Augmentation(probability=0.0, low_resolution=(3.0, 1.0), low_resolution_probability=1.0)
    equal = 0
    for seed in range(20):
        before, after = augmented(sample, seed, sharp), augmented(sample, seed, thick)
        assert torch.equal(before.mask, after.mask)
        assert float(after.image.mean()) == pytest.approx(float(before.image.mean()), rel=0.02)
        # Along z the edge of the ball is blurred; a plane where nothing changes along z is as it was.
        assert float((after.image - before.image).abs().max()) < 0.45
        middle = slice(14, 18)
        assert torch.allclose(after.image[0, 0, middle, 24, 20], before.image[0, 0, middle, 24, 20], atol=1e-3)
        steps = after.image[0, 0].diff(dim=0).abs().amax(dim=(1, 2))
        equal += int((steps < 1e-6).sum()) > int((before.image[0, 0].diff(dim=0).abs().amax(dim=(1, 2)) < 1e-6).sum())
    assert 0 < equal < 20  # some come back with visibly thick slices, others smoothly


def test_factors_of_one_lose_nothing():
    none = Augmentation(probability=0.0, low_resolution=(1.0, 1.0), low_resolution_probability=1.0)
    sharp = Augmentation(probability=0.0, low_resolution_probability=0.0)
    assert torch.allclose(augmented(ball_sample(), 3, none).image, augmented(ball_sample(), 3, sharp).image, atol=1e-5)


GREY = {"probability": 0.0, "low_resolution_probability": 0.0, "grey_probability": 1.0, "blur": (1e-3, 1e-3)}


def grey_values(**changes) -> tuple[torch.Tensor, torch.Tensor]:
    """An image of soft tissue, and the same with one change of its grey values."""
    image = 0.4 + 0.2 * torch.rand(1, 1, 12, 16, 16, generator=Generator().manual_seed(5))
    settings_ = Augmentation(**{**GREY, "brightness": (1.0, 1.0), "contrast": (1.0, 1.0), **changes})
    return image, augment_intensity(image, settings_, Generator().manual_seed(1))


def test_grey_values_change_as_their_settings_say():
    image, same = grey_values()
    assert torch.allclose(image, same, atol=1e-6)
    image, brighter = grey_values(brightness=(1.25, 1.25))
    assert torch.allclose(brighter, 1.25 * image, atol=1e-6)
    image, flat = grey_values(contrast=(0.5, 0.5))
    assert float(flat.mean()) == pytest.approx(float(image.mean()), abs=1e-5)
    assert float(flat.std()) == pytest.approx(float(image.std()) / 2, rel=1e-4)
    image, soft = grey_values(blur=(1.0, 1.0))
    assert float(soft.mean()) == pytest.approx(float(image.mean()), abs=1e-2) and soft.std() < image.std() / 3
    image, inverted = grey_values(probability=1.0, gamma=(2.0, 2.0), inverted_gamma=1.0, noise=0.0)
    assert torch.allclose(inverted, 1 - (1 - image) ** 2, atol=1e-6)


def test_no_grey_value_leaves_the_window():
    for seed in range(20):
        image = torch.rand(1, 1, 8, 16, 16, generator=Generator().manual_seed(seed))
        changed = augment_intensity(image, Augmentation(grey_probability=1.0), Generator().manual_seed(seed))
        assert torch.isfinite(changed).all() and changed.min() >= 0 and changed.max() <= 1


@pytest.mark.parametrize("beyond", ["zeros", "border"])
def test_sampling_along_one_axis_after_the_other_is_that_at_the_position_of_every_voxel(beyond):
    volume = torch.rand(1, 2, 7, 11, 9, generator=torch.Generator().manual_seed(0))
    factors, starts = (0.3, 1.0, 2.7), (-2.4, 0.0, 1.7)
    for factor, start in zip(itertools.permutations(factors), itertools.permutations(starts), strict=True):
        grid = NetworkGrid((13, 8, 5), factor, start)
        expected = resample(volume, grid, Pose(torch.eye(3), None), beyond=beyond)
        torch.testing.assert_close(resample(volume, grid, beyond=beyond), expected, atol=1e-5, rtol=0)
    assert resample(volume, grid, beyond=beyond).shape == (1, 2, 13, 8, 5)
