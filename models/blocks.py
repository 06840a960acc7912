"""Building blocks of the network: a weight-standardised convolution and a pre-activation residual block."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.channels_last import NormReLU, convolve


@dataclass(frozen=True)
class Activation:
    """How features are normalised and passed on between two convolutions.

    Attributes:
        groups: Groups of channels that are normalised together; 0 normalises every channel on its own (instance norm).
        leak: Slope for negative values; 0 is ReLU.
    """

    groups: int = 8
    leak: float = 0.0

    def build(self, channels: int) -> NormReLU:
        """Build it for features (B, channels, D, H, W)."""
        return NormReLU(self.groups or channels, channels, self.leak)


class StandardisedConv3d(nn.Conv3d):
    """A 3-D convolution without bias whose filters are standardised before use.

    Each output filter is centred on its mean and divided by ``sqrt(unbiased variance + 1e-12)``. Together with group
    normalisation this stabilises training with a batch size of one, where batch normalisation fails.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        kernel_size: Side of the kernel in voxels; odd, so that padding keeps the size of the input.
        stride: Step of the kernel in voxels.
        dilation: Distance between the kernel's taps in voxels.

    References:
        Qiao et al., Micro-batch training with batch-channel normalization and weight standardization, 2019.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1
    ) -> None:
        padding = dilation * (kernel_size // 2)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)
        self._kept: tuple[tuple[int, int], Tensor] | None = None  # filters for inference, and of which weights

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, in_channels, D, H, W) with the standardised filters."""
        return convolve(x, self._filters(), self.stride[0], self.dilation[0])

    def _filters(self) -> Tensor:
        """Return the standardised weights; without gradients they are computed again only after a change."""
        if torch.is_grad_enabled():
            self._kept = None
            return self.standardised()
        version = (self.weight.data_ptr(), self.weight._version)
        if self._kept is None or self._kept[0] != version:
            self._kept = version, self.standardised()
        return self._kept[1]

    def standardised(self) -> Tensor:
        """Return the standardised filters, shape (out_channels, in_channels, k, k, k)."""
        voxels, count = self.weight[0, 0].numel(), self.weight[0].numel()
        # Layer normalisation divides by the biased variance, which is the unbiased one times this.
        biased = 1 - 1 / count
        is_channels_last = self.weight.stride(1) != voxels
        filters = self.weight.movedim(1, -1) if is_channels_last else self.weight  # in the order of the memory
        standardised = F.layer_norm(filters.flatten(1), (count,), eps=1e-12 * biased) * biased**0.5
        standardised = standardised.view(filters.shape)
        return standardised.movedim(-1, 1) if is_channels_last else standardised


class PointwiseConv3d(nn.Conv3d):
    """A 1x1x1 convolution that is computed as a product of matrices.

    For a single output channel in channels last, torch has no fast convolution on a CPU and copies the features into
    another layout and back.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, D, H, W) to (B, out_channels, D, H, W)."""
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


def norm_relu_conv(
    in_channels: int,
    out_channels: int,
    activation: Activation,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build GroupNorm - ReLU - convolution, the step that changes the number of channels or the resolution.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        activation: Normalisation and ReLU.
        kernel_size: Side of the kernel in voxels.
        stride: Step of the kernel in voxels.
        dropout: Probability of zeroing a whole channel before the convolution; 0 builds no dropout layer.
    """
    # The names of the parameters are places in the published network, where the ReLU is a layer of its own.
    layers: dict[str, nn.Module] = {"0": activation.build(in_channels)}
    if dropout:
        layers["2"] = nn.Dropout3d(dropout)
    layers[str(3 if dropout else 2)] = StandardisedConv3d(in_channels, out_channels, kernel_size, stride)
    return nn.Sequential(OrderedDict(layers))


class ResidualBlock(nn.Module):
    """Pre-activation residual block: twice GroupNorm - ReLU - 3x3x3 convolution, added to the input.

    Where the number of channels changes, the shortcut is GroupNorm - ReLU - 1x1x1 convolution; otherwise it is the
    identity.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        activation: Normalisation and ReLU.
        dilation: Distance between the taps of both 3x3x3 kernels in voxels.

    References:
        He et al., Identity mappings in deep residual networks, ECCV 2016.
    """

    def __init__(self, in_channels: int, out_channels: int, activation: Activation, dilation: int = 1) -> None:
        super().__init__()
        self.norm1 = activation.build(in_channels)
        self.conv1 = StandardisedConv3d(in_channels, out_channels, dilation=dilation)
        self.norm2 = activation.build(out_channels)
        self.conv2 = StandardisedConv3d(out_channels, out_channels, dilation=dilation)
        same_width = in_channels == out_channels
        self.shortcut = (
            nn.Identity() if same_width else norm_relu_conv(in_channels, out_channels, activation, kernel_size=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, D, H, W) to (B, out_channels, D, H, W)."""
        y = self.conv1(self.norm1(x))
        y = self.conv2(self.norm2(y))
        return y + self.shortcut(x)
