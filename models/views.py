"""Views of an image: random convolutions, random intensity networks, and tissues that move independently.

A view changes the intensities of an image but not its anatomy, so a prediction should be the same on all views.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from models.tissue_views import keeps_target, move_tissues

CONVOLVED = 0.25  # share of the views of tissues that are random convolutions

# Random convolution.
KERNELS_MM = (2.7, 4.5, 6.3)  # 3, 5 and 7 voxels of 0.9 mm
PUBLISHED_KERNELS = (3, 5, 7)  # voxels
SOFT_TISSUE = (0.3, 0.8)  # of the HU window [-100, 240]: 2 to 172 HU, where pancreas, lesion and vessels lie
LEAST_CORRELATION = 0.9  # of a view with its image in soft tissue
HALVINGS = 4

# Random intensity network.
GIN_LAYERS = 4
GIN_CHANNELS = 2  # between the layers
GIN_KERNEL_SIZES = (1, 3)


def random_convolution(
    image: Tensor, spacing: Tensor, generator: Generator, keeps: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Tensor:
    """Make a view by a random convolution that keeps the order of soft-tissue intensities.

    The view is ``alpha * conv(x) + (1 - alpha) * x``, clamped to [0, 1] and rescaled to span [0, 1]. The size of the
    kernel is drawn from KERNELS_MM; it has an odd number of voxels along each axis, three at least, as a kernel of one
    voxel only rescales intensities. The weights are drawn from N(0, 2 / fan_in), the bias from U(-1, 1) / sqrt(fan_in)
    and alpha from U(0, 1).

    While the soft tissue of the view correlates with the image's by less than LEAST_CORRELATION, alpha is halved; if
    HALVINGS do not suffice, the image is its own view. The correlation of the whole image would not protect the lesion,
    because fat and air dominate it: without this rule 12 % of the views inverted the contrast between lesion and
    pancreas, and clamping erased it in others. All halvings are tried at once and the decision stays on the device, as
    the training would otherwise wait for a GPU in every step.

    Args:
        image: One image with values in [0, 1], shape (1, 1, D, H, W).
        spacing: Voxel spacing (z, y, x) in mm, shape (3,), on the CPU.
        generator: Source of the random draws, on the CPU.
        keeps: Says of a view and its image whether the share may be as large, instead of the correlation.

    Returns:
        The view, with values in [0, 1] and the shape of the image.

    References:
        Xu et al., Robust and generalizable visual representation learning via random convolutions, ICLR 2021.
    """
    mm = KERNELS_MM[int(torch.randint(len(KERNELS_MM), (), generator=generator))]
    convolved = _convolve(image, [max(3, 1 + 2 * round((mm / s - 1) / 2)) for s in spacing.tolist()], generator)
    largest = float(torch.rand((), generator=generator))
    alpha = image.new_zeros(())
    for halvings in reversed(range(HALVINGS + 1)):  # the largest alpha has the last word
        view = torch.lerp(image, convolved, largest / 2**halvings).clamp_(0, 1)
        alpha = torch.where((keeps or _keeps_soft_tissue)(view, image), largest / 2**halvings, alpha)
    return torch.where(alpha > 0, _stretch(torch.lerp(image, convolved, alpha).clamp_(0, 1)), image)


def unchecked_random_convolution(image: Tensor, spacing: Tensor, generator: Generator) -> Tensor:
    """Make a view by a random convolution as published: a kernel in voxels, whatever becomes of the soft tissue.

    A constant view cannot be rescaled; the image is returned in its place. Arguments and result are those of
    ``random_convolution``; the spacing is not used.
    """
    size = PUBLISHED_KERNELS[int(torch.randint(len(PUBLISHED_KERNELS), (), generator=generator))]
    convolved = _convolve(image, [size] * 3, generator)
    view = torch.lerp(image, convolved, float(torch.rand((), generator=generator))).clamp_(0, 1)
    return torch.where(view.amax() > view.amin(), _stretch(view), image)


def random_intensity_network(image: Tensor, spacing: Tensor, generator: Generator) -> Tensor:
    """Make a view by a random intensity network (GIN).

    The view is ``alpha * net(x) + (1 - alpha) * x``, rescaled to the Frobenius norm of x, with alpha from U(0, 1). The
    network has four convolutions with kernel sizes of 1 or 3 and leaky ReLUs in between; its weights and biases are
    drawn from N(0, 1).

    Args:
        image: One image with values in [0, 1], shape (1, 1, D, H, W).
        spacing: Not used.
        generator: Source of the random draws, on the CPU.

    Returns:
        The view, of the shape of the image; its values may leave [0, 1].

    References:
        Ouyang et al., Causality-inspired single-source domain generalization for medical image segmentation, IEEE
        TMI 42, 2023.
    """
    y = image
    for layer in range(GIN_LAYERS):
        size = GIN_KERNEL_SIZES[int(torch.randint(len(GIN_KERNEL_SIZES), (), generator=generator))]
        channels = 1 if layer == GIN_LAYERS - 1 else GIN_CHANNELS
        weight = torch.randn(channels, y.shape[1], size, size, size, generator=generator).to(image, non_blocking=True)
        bias = torch.randn(channels, generator=generator).to(image, non_blocking=True)
        y = F.conv3d(y, weight, bias, padding=size // 2)
        if layer < GIN_LAYERS - 1:
            y = F.leaky_relu(y)
    mixed = torch.lerp(image, y, float(torch.rand((), generator=generator)))
    return mixed * (image.norm() / mixed.norm().clamp_min(1e-5))


def random_tissues(image: Tensor, spacing: Tensor, generator: Generator, target: Tensor, pancreas: Tensor) -> Tensor:
    """Make a view in which tissues move independently or, of a share of CONVOLVED, by a random convolution.

    The convolution is made milder until what is segmented keeps half of its contrast-to-noise ratio, instead of until
    soft tissue correlates by LEAST_CORRELATION: between two contrast phases of a patient it does so by less.

    Args:
        image: One image with values in [0, 1], shape (1, 1, D, H, W).
        spacing: Voxel spacing (z, y, x) in mm, shape (3,), on the CPU.
        generator: Source of the random draws, on the CPU.
        target: Mask of the target, 0 or 1, shape of the image.
        pancreas: Mask of the pancreas with its tumour, 0 or 1, shape of the image.

    Returns:
        The view, with values in [0, 1] and the shape of the image.
    """
    if float(torch.rand((), generator=generator)) >= CONVOLVED:
        return move_tissues(image, target, pancreas, spacing, generator)

    def keeps(view: Tensor, image: Tensor) -> Tensor:
        # A constant view cannot be rescaled.
        return keeps_target(view, image, target, pancreas, spacing) & (view.amax() > view.amin())

    return random_convolution(image, spacing, generator, keeps)


class Family(NamedTuple):
    """A family of views.

    Attributes:
        make: Draws a view of one image, shape (1, 1, D, H, W), with its spacing in mm, shape (3,), from a generator on
            the CPU; for a family that reads masks, also with those of the target and the pancreas.
        plain: Whether the first of the two views is the image itself. At inference the network segments plain images,
            so training shows it plain images too; the published release never does.
        reads_masks: Whether the view depends on what is segmented.
    """

    make: Callable[..., Tensor]
    plain: bool
    reads_masks: bool = False


FAMILIES: dict[str, Family] = {
    "randconv": Family(random_convolution, plain=True),
    "gin": Family(random_intensity_network, plain=True),
    "raw-randconv": Family(unchecked_random_convolution, plain=False),
    "tissues": Family(random_tissues, plain=True, reads_masks=True),
}
SINGLE = ("none", "twice")  # one view of each image; "twice" has each box in two augmentations, which are two images


def random_views(
    image: Tensor,
    spacing: Tensor,
    family: str,
    generators: Sequence[Generator],
    masks: Sequence[Tensor] = (),
) -> Tensor:
    """Make two views of every image of a batch.

    Args:
        image: Images with values in [0, 1], shape (B, 1, D, H, W).
        spacing: Voxel spacing (z, y, x) in mm, shape (B, 3).
        family: A name in FAMILIES, or in SINGLE for no views.
        generators: Source of the random draws of each image, on the CPU: a seed gives the same views on every device.
        masks: Of the target and of the pancreas with its tumour, 0 or 1, each of the shape of ``image``; only families
            that read masks need them.

    Returns:
        The first view of all images, then the second, shape (2 B, 1, D, H, W); for SINGLE the images, (B, 1, D, H, W).

    Raises:
        KeyError: If the family is unknown.
    """
    if family in SINGLE:
        return image
    make, plain, reads_masks = FAMILIES[family]

    def views() -> list[Tensor]:
        of_image = zip(*(mask[:, None] for mask in masks), strict=True) if reads_masks else [()] * len(image)
        drawn = zip(image, spacing, generators, of_image, strict=True)
        return [make(x[None], mm, generator, *regions) for x, mm, generator, regions in drawn]

    return torch.cat([*([image] if plain else views()), *views()])


def _convolve(image: Tensor, sizes: Sequence[int], generator: Generator) -> Tensor:
    """Convolve an image (1, 1, D, H, W) with random weights and a random bias; ``sizes`` of the kernel in voxels."""
    fan_in = math.prod(sizes)
    weight = torch.randn(1, 1, *sizes, generator=generator) * (2 / fan_in) ** 0.5
    bias = (2 * torch.rand(1, generator=generator) - 1) * fan_in**-0.5
    weight, bias = (parameter.to(image, non_blocking=True) for parameter in (weight, bias))
    return F.conv3d(image, weight, bias, padding=[size // 2 for size in sizes])


def soft_tissue_correlation(view: Tensor, image: Tensor) -> Tensor:
    """Return the correlation of view and image in soft tissue, a scalar on their device.

    Means of 3x3x3 voxels are compared, because the noise of single voxels would hide the order of the tissues.
    """
    dot, norms = _soft_tissue_products(view, image)
    return dot / norms


def _keeps_soft_tissue(view: Tensor, image: Tensor) -> Tensor:
    """Return whether view and image correlate by LEAST_CORRELATION in soft tissue: a boolean scalar."""
    dot, norms = _soft_tissue_products(view, image)
    return dot > LEAST_CORRELATION * norms


def _soft_tissue_products(view: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    before, after = (F.avg_pool3d(x, 3) for x in (image, view))
    tissue = ((before > SOFT_TISSUE[0]) & (before < SOFT_TISSUE[1])).float()
    count = tissue.sum().clamp(min=1)
    a, b = ((x - (x * tissue).sum() / count) * tissue for x in (before, after))
    return (a * b).sum(), (a.norm() * b.norm()).clamp_min(1e-6)


def _stretch(view: Tensor) -> Tensor:
    """Rescale a view to span [0, 1]; one that is constant becomes NaN."""
    low, high = view.aminmax()
    return (view - low) / (high - low)
