"""The two bricks of the network: a weight-standardised convolution and a pre-activation residual block."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8  # of every GroupNorm
ONEDNN_ABOVE = 20480  # channels x slices x rows: for one sample of fewer torch leaves oneDNN for a slow path on a CPU


class StandardisedConv3d(nn.Conv3d):
    """A 3-D convolution without bias whose filters are standardised (Qiao et al., 2019).

    From each output filter its mean is subtracted and the result divided by ``sqrt(unbiased variance + 1e-12)``:
    with batches of one this steadies training where batch normalisation cannot.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1):
        padding = dilation * (kernel_size // 2)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3, 4), keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-12)
        count = len(x)
        if count == 1 and not x.is_cuda and math.prod(x.shape[1:4]) <= ONEDNN_ABOVE:
            x = x.expand(2, -1, -1, -1, -1)  # two take less than half the time of one there
        return F.conv3d(x, weight, None, self.stride, self.padding, self.dilation)[:count]


def norm_relu_conv(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, dropout: float = 0.0
) -> nn.Sequential:
    """GroupNorm - ReLU - (dropout of whole channels) - convolution: every step between two widths of the network."""
    layers = [nn.GroupNorm(GROUPS, in_channels), nn.ReLU()]
    if dropout:
        layers.append(nn.Dropout3d(dropout))
    return nn.Sequential(*layers, StandardisedConv3d(in_channels, out_channels, kernel_size, stride))


class ResidualBlock(nn.Module):
    """Twice GroupNorm - ReLU - 3x3x3 convolution, plus the input (He et al., 2016, pre-activation).

    Where the width changes, the shortcut is GroupNorm - ReLU - 1x1x1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, in_channels)
        self.conv1 = StandardisedConv3d(in_channels, out_channels, dilation=dilation)
        self.norm2 = nn.GroupNorm(GROUPS, out_channels)
        self.conv2 = StandardisedConv3d(out_channels, out_channels, dilation=dilation)
        same_width = in_channels == out_channels
        self.shortcut = nn.Identity() if same_width else norm_relu_conv(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        y = self.conv2(F.relu(self.norm2(y)))
        return y + self.shortcut(x)
