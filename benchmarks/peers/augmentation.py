"""Augmentations of MONAI, TorchIO and batchgeneratorsv2 that do the work of ``data.augment``, on the same box.

Each does what ours does with the same probabilities: rotation about every axis, scale, elastic deformation, flips,
blur, brightness, contrast, low resolution, gamma and noise, of image and mask. Where a package can resample once for
several of them, it does. MONAI and batchgeneratorsv2 cut the box out of the larger one that was read, as ours does;
TorchIO gets only the box, so it has less to compute, and brings in zeros from beyond it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.boxes import random_sample
from benchmarks.peers.process import serve
from data.augment import MOST_DEVIATIONS, Augmentation, window
from data.samples import Sample
from data.scans.boxes import Box, triple

SPLINE_SIGMA = math.sqrt(1 / 3)  # of a cubic B-spline, in distances between its control points
Augment = Callable[[Tensor, Tensor], object]  # image and mask, both (1, D, H, W), float32


def build(device: torch.device, sample: Sample, augment: Augment) -> tuple[Callable[[], object], dict[str, Any]]:
    """Return the work on one sample, from Hounsfield units in memory to a pair on the device."""
    image, mask = torch.from_numpy(sample.image)[None], torch.from_numpy(sample.mask)[None]

    def work() -> object:
        return augment(window(image, (-100.0, 240.0)), mask.float())

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # batchgeneratorsv2 draws from numpy's global generator
    return work, {}


def build_monai(
    device: torch.device, *, shape: Sequence[int], spacing: Sequence[float]
) -> tuple[Callable[[], object], dict[str, Any]]:
    """Build MONAI's dictionary transforms; rotation, scale and elastic deformation are one resampling."""
    from monai import transforms as mt

    a, both = Augmentation(), ("image", "mask")
    voxel_mm = math.prod(spacing) ** (1 / 3)
    sigma = a.elastic_spacing_mm * SPLINE_SIGMA / voxel_mm
    angle = math.radians(a.rotation_degrees)
    common: dict[str, Any] = {
        "keys": both,
        "prob": 1.0,
        "spatial_size": tuple(shape),
        "rotate_range": (angle,) * 3,
        "scale_range": [(low - 1, high - 1) for low, high in [a.scale] * 3],
        "mode": ("bilinear", "nearest"),
        "padding_mode": "zeros",
    }
    # MONAI smooths noise from U(-1, 1), of standard deviation 1 / sqrt(3), of which (2 sqrt(pi) sigma)^-1.5 is left.
    magnitude = a.elastic_mm / voxel_mm * math.sqrt(3) * (2 * math.sqrt(math.pi) * sigma) ** 1.5
    elastic = mt.Rand3DElasticd(sigma_range=(sigma, sigma), magnitude_range=(magnitude, magnitude), **common)
    grey = a.grey_probability
    chain = mt.Compose(
        [
            mt.OneOf([elastic, mt.RandAffined(**common)], weights=(a.probability, 1 - a.probability)),
            *(mt.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
            mt.RandGaussianSmoothd(("image",), a.blur, a.blur, a.blur, prob=grey),
            mt.RandScaleIntensityd(("image",), factors=tuple(f - 1 for f in a.brightness), prob=grey),
            mt.RandScaleIntensityFixedMeand(("image",), factors=tuple(f - 1 for f in a.contrast), prob=grey),
            mt.RandSimulateLowResolutiond(
                ("image",), prob=a.low_resolution_probability, zoom_range=(1 / max(a.low_resolution), 1.0)
            ),
            mt.RandAdjustContrastd(("image",), prob=a.probability, gamma=a.gamma),
            mt.RandGaussianNoised(("image",), prob=a.probability, std=a.noise),
            mt.ScaleIntensityRanged(("image",), 0, 1, 0, 1, clip=True),
        ]
    )
    chain.set_random_state(0)
    return build(
        device,
        random_sample(shape, spacing, a),
        lambda image, mask: chain({"image": image, "mask": mask}),
    )


def build_torchio(
    device: torch.device, *, shape: Sequence[int], spacing: Sequence[float]
) -> tuple[Callable[[], object], dict[str, Any]]:
    """Build TorchIO's transforms of a subject; brightness and contrast, which it lacks, are two lines of torch."""
    import torchio as tio

    a = Augmentation()
    points = tuple(max(4, round(n * mm / a.elastic_spacing_mm) + 3) for n, mm in zip(shape, spacing, strict=True))
    most = MOST_DEVIATIONS * a.elastic_mm
    affine = 1 - (1 - a.probability) ** 4  # that at least one of three rotations and the scale happens

    def brightness(image: Tensor) -> Tensor:
        return (image * np.random.uniform(*a.brightness)).clamp(0, 1)  # noqa: NPY002

    def contrast(image: Tensor) -> Tensor:
        mean = image.mean()
        return (mean + (image - mean) * np.random.uniform(*a.contrast)).clamp(0, 1)  # noqa: NPY002

    only_image: dict[str, Any] = {"include": ["image"]}
    chain = tio.Compose(
        [
            tio.RandomAffine(scales=a.scale, degrees=a.rotation_degrees, isotropic=True, p=affine),
            tio.RandomElasticDeformation(points, max_displacement=most, locked_borders=0, p=a.probability),
            tio.RandomFlip(axes=(0, 1, 2), flip_probability=0.5),
            tio.RandomBlur(a.blur, p=a.grey_probability, **only_image),
            tio.Lambda(brightness, p=a.grey_probability, **only_image),
            tio.Lambda(contrast, p=a.grey_probability, **only_image),
            tio.RandomAnisotropy(
                axes=(0, 1, 2), downsampling=(1, max(a.low_resolution)), p=a.low_resolution_probability, **only_image
            ),
            tio.RandomGamma(tuple(math.log(g) for g in a.gamma), p=a.probability, **only_image),
            tio.RandomNoise(std=(0, a.noise), p=a.probability, **only_image),
        ]
    )
    whole = random_sample(shape, spacing, a)
    start = triple(int(n) for n in whole.grid.start)
    part = Box(start, triple(a + n for a, n in zip(start, shape, strict=True))).slices
    placed = np.diag([*spacing, 1.0])

    def augment(image: Tensor, mask: Tensor) -> object:
        subject = tio.Subject(
            image=tio.ScalarImage(tensor=image, affine=placed), mask=tio.LabelMap(tensor=mask, affine=placed)
        )
        return chain(subject)

    return build(device, whole._replace(image=whole.image[part].copy(), mask=whole.mask[part].copy()), augment)


def build_batchgenerators(
    device: torch.device, *, shape: Sequence[int], spacing: Sequence[float]
) -> tuple[Callable[[], object], dict[str, Any]]:
    """Build the transforms of batchgeneratorsv2 as nnU-Net composes them; all spatial ones are one resampling."""
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    a = Augmentation()
    angle = math.radians(a.rotation_degrees)
    sigma = a.elastic_spacing_mm * SPLINE_SIGMA / max(n * mm for n, mm in zip(shape, spacing, strict=True))
    voxel_mm = math.prod(spacing) ** (1 / 3)
    once: dict[str, Any] = {"synchronize_channels": True, "p_per_channel": 1}
    grey = [
        (GaussianBlurTransform(a.blur, synchronize_axes=True, **once), a.grey_probability),
        (MultiplicativeBrightnessTransform(BGContrast(a.brightness), **once), a.grey_probability),
        (ContrastTransform(BGContrast(a.contrast), preserve_range=True, **once), a.grey_probability),
        (
            SimulateLowResolutionTransform(
                (1 / max(a.low_resolution), 1), synchronize_axes=False, ignore_axes=None, **once
            ),
            a.low_resolution_probability,
        ),
        (
            GammaTransform(BGContrast(a.gamma), p_invert_image=a.inverted_gamma, p_retain_stats=0, **once),
            a.probability,
        ),
        (GaussianNoiseTransform((0, a.noise), **once), a.probability),
    ]
    chain = ComposeTransforms(
        [
            SpatialTransform(
                tuple(shape),
                patch_center_dist_from_border=0,
                random_crop=False,
                p_elastic_deform=a.probability,
                elastic_deform_scale=(sigma, sigma),
                elastic_deform_magnitude=(MOST_DEVIATIONS * a.elastic_mm / voxel_mm,) * 2,
                p_rotation=1 - (1 - a.probability) ** 3,
                rotation=(-angle, angle),
                p_scaling=a.probability,
                scaling=a.scale,
                p_synchronize_scaling_across_axes=1,
            ),
            *(RandomTransform(transform, apply_probability=share) for transform, share in grey),
            MirrorTransform(allowed_axes=(0, 1, 2)),
        ]
    )
    return build(
        device,
        random_sample(shape, spacing, a),
        lambda image, mask: chain(image=image, segmentation=mask.to(torch.int16)),
    )


if __name__ == "__main__":
    serve({"MONAI": build_monai, "TorchIO": build_torchio, "batchgeneratorsv2": build_batchgenerators})
