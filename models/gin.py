"""The second family of views: a shallow random network of intensities (GIN, Ouyang et al., IEEE TMI 2023), in 3-D."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

LAYERS = 4
CHANNELS = 2  # between the layers
KERNEL_SIZES = (1, 3)


def random_intensity(image: Tensor, generator: Generator) -> Tensor:
    """One view: ``alpha * net(x) + (1 - alpha) * x``, rescaled to the Frobenius norm of x; alpha from U(0, 1).

    The network has four convolutions with weights and biases from N(0, 1), kernel sizes of 1 or 3 and leaky ReLUs in
    between. Its values may leave [0, 1].

    Args and returns: (1, 1, D, H, W); ``generator`` on the CPU.
    """
    y = image
    for layer in range(LAYERS):
        size = KERNEL_SIZES[int(torch.randint(len(KERNEL_SIZES), (), generator=generator))]
        channels = 1 if layer == LAYERS - 1 else CHANNELS
        weight = torch.randn(channels, y.shape[1], size, size, size, generator=generator).to(image)
        bias = torch.randn(channels, generator=generator).to(image)
        y = F.conv3d(y, weight, bias, padding=size // 2)
        if layer < LAYERS - 1:
            y = F.leaky_relu(y)
    mixed = torch.lerp(image, y, float(torch.rand((), generator=generator)))
    return mixed * (image.norm() / mixed.norm().clamp_min(1e-5))
