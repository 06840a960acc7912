"""A trained network made of torch's own layers only, for programs that do not know those of this project."""

import copy

import torch
from torch import Tensor, nn

from models.blocks import PointwiseConv3d, StandardisedConv3d
from models.channels_last import NormReLU
from models.dual_task_net import HEADS, DualTaskNet, segmentation_probability


class ProbabilityNet(nn.Module):
    """The probability of the target in every voxel, from torch's own layers.

    The filters are standardised once, when it is built: it is for inference only.

    Args:
        net: A trained network; it is left as it is.
    """

    def __init__(self, net: DualTaskNet) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).cpu()
        self.net.recomputed = 0
        for head in set(HEADS) - {"seg"}:
            setattr(self.net, head, None)  # nobody reads it
        _replace_layers(self.net)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the probability of the target.

        Args:
            image: Windowed to [0, 1], shape (B, 1, D, H, W); each side is a multiple of 8.

        Returns:
            float32 in [0, 1], shape (B, 1, D, H, W).
        """
        return segmentation_probability(self.net(image))


@torch.no_grad()
def _replace_layers(module: nn.Module) -> None:
    """Replace the layers of this project inside a module by those of torch that compute the same."""
    for name, layer in module.named_children():
        if isinstance(layer, StandardisedConv3d):
            setattr(module, name, _convolution(layer, layer.standardised()))
        elif isinstance(layer, PointwiseConv3d):
            setattr(module, name, _convolution(layer, layer.weight))
        elif isinstance(layer, NormReLU):
            norm = nn.GroupNorm(layer.num_groups, layer.num_channels, layer.eps)
            norm.load_state_dict(layer.state_dict())
            setattr(module, name, nn.Sequential(norm, nn.LeakyReLU(layer.leak) if layer.leak else nn.ReLU()))
        else:
            _replace_layers(layer)


def _convolution(layer: nn.Conv3d, weight: Tensor) -> nn.Conv3d:
    side, dilation = layer.kernel_size[0], layer.dilation[0]  # the same along all axes
    plain = nn.Conv3d(
        layer.in_channels,
        layer.out_channels,
        side,
        layer.stride[0],
        dilation * (side // 2),
        dilation,
        bias=layer.bias is not None,
    )
    plain.weight.copy_(weight)
    if layer.bias is not None and plain.bias is not None:
        plain.bias.copy_(layer.bias)
    return plain
