import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Generator

from data.augment import Augmentation, Batch, Pose, draw_pose, make_batch, resample, window
from data.cases.labels import HU_WINDOW
from data.samples import NetworkGrid, Sample

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
        generator=Generator().manual_seed(seed),
    )


def test_window_maps_the_published_range():
    hu = torch.tensor([-1000, -100, 70, 240, 3000], dtype=torch.int16)
    assert window(hu, HU_WINDOW).tolist() == [0, 0, 0.5, 1, 1]


def test_without_a_generator_the_box_is_only_windowed_and_padded():
    sample = ball_sample(shape=(5, 20, 24))
    batch = make_batch([sample], CPU, hu_window=HU_WINDOW)
    assert batch.image.shape == (1, 1, 8, 24, 24)
    assert torch.equal(batch.image[0, 0, :5, :20, :24], window(torch.from_numpy(sample.image), HU_WINDOW))
    assert torch.equal(batch.mask[0, 0, :5, :20, :24], torch.from_numpy(sample.mask).float())
    assert batch.mask[..., 5:, :, :].sum() == 0


def test_halving_is_the_mean_of_eight_voxels_and_doubles_the_spacing():
    sample = ball_sample(factor=(2.0, 2.0, 2.0))
    batch = make_batch([sample], CPU, hu_window=HU_WINDOW)
    expected = torch.nn.functional.avg_pool3d(window(torch.from_numpy(sample.image), HU_WINDOW)[None, None], 2)
    assert torch.allclose(batch.image[:, :, :16, :24, :20], expected, atol=1e-5)
    assert batch.spacing.tolist() == [[4, 2, 2]]


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
        [sample], CPU, hu_window=HU_WINDOW, augmentation=settings_, generator=Generator().manual_seed(seed)
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
        [sample], CPU, hu_window=HU_WINDOW, augmentation=settings_, generator=Generator().manual_seed(seed)
    )
    assert float(batch.mask.sum() / sample.mask.sum()) == pytest.approx(1.2**3, rel=0.05)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_image_and_mask_move_together(seed):
    sample = ball_sample()
    settings_ = Augmentation(noise=0.0, gamma=(1.0, 1.0))
    batch = make_batch(
        [sample], CPU, hu_window=HU_WINDOW, augmentation=settings_, generator=Generator().manual_seed(seed)
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
            generator=Generator().manual_seed(seed),
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(batches[0].image, batches[1].image)
    assert not torch.equal(batches[0].image, batches[2].image)


def test_boxes_of_different_shapes_share_a_batch():
    batch = make_batch([ball_sample((16, 40, 40)), ball_sample((24, 32, 48))], CPU, hu_window=HU_WINDOW)
    assert batch.image.shape == (2, 1, 24, 40, 48) and batch.keys == ("c/ball", "c/ball")


def test_elastic_displacement_has_the_asked_size():
    grid = NetworkGrid((64, 160, 160), (1.0, 1.0, 1.0))
    pose = draw_pose(grid, (2.5, 1.0, 1.0), Augmentation(probability=1.0, elastic_mm=3.0), Generator().manual_seed(0))
    assert float(pose.displacement.std()) == pytest.approx(3.0, rel=0.15)
    assert pose.displacement.shape == (3, 7, 7, 7)
