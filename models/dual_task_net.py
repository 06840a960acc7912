"""The network: one residual 3-D U-Net with a head for the mask, one for the signed distance and two small ones."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import GROUPS, ResidualBlock, StandardisedConv3d, norm_relu_conv
from models.signed_distance import distance_to_mask, steepness_on

REDUCTION = 8  # the bottom grid is 1/8 of the input along each axis
HEADS = ("seg", "sdf", "embedding", "slice")


class DualTaskOutput(NamedTuple):
    """What the network returns; None for a head that it was built without.

    seg: logits of the mask, (B, 1, D, H, W).
    sdf: raw regression output r, (B, 1, D, H, W); the signed distance is tanh(r), negative inside.
    embedding: features for the contrast, (B, 32, D/8, H/8, W/8), non-negative.
    slice: one logit per slice, (B, D): does the slice hold the target?
    """

    seg: Tensor
    sdf: Tensor | None
    embedding: Tensor | None
    slice: Tensor | None


class SliceHead(nn.Module):
    """Pools each bottom slice over its plane and classifies it; every 8 input slices share one bottom slice.

    The logit is computed once a bottom slice and then repeated, which equals repeating the features first.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.hidden = nn.Linear(channels, hidden)
        self.logit = nn.Linear(hidden, 1)

    def forward(self, bottom: Tensor) -> Tensor:
        pooled = F.relu(self.norm(bottom)).mean(dim=(3, 4)).transpose(1, 2)  # (B, D/8, C)
        logits = self.logit(F.relu(self.hidden(pooled))).squeeze(-1)  # (B, D/8)
        return logits.repeat_interleave(REDUCTION, dim=1)  # (B, D)


class DualTaskNet(nn.Module):
    """Residual 3-D U-Net whose skips are added, with the heads that a stage asks for.

    Args:
        width: channels at full resolution, a multiple of 8; 32 is the published network (18.97 M parameters).
        heads: any of "seg" (required), "sdf", "embedding", "slice".

    Input (B, 1, D, H, W) with sides that are multiples of 8, values in [0, 1]. Returns a DualTaskOutput.
    Raises ValueError for other widths, heads or sides.
    """

    def __init__(self, *, width: int = 32, heads: Sequence[str] = HEADS):
        super().__init__()
        if width < GROUPS or width % GROUPS:
            raise ValueError(f"width {width} is not a positive multiple of {GROUPS}")
        if "seg" not in heads or not set(heads) <= set(HEADS):
            raise ValueError(f"heads {tuple(heads)}: 'seg' is required, the others are {HEADS[1:]}")
        self.width, self.heads = width, tuple(head for head in HEADS if head in heads)
        w1, w2, w4, w8 = (width * n for n in (1, 2, 4, 8))
        self.stem = StandardisedConv3d(1, w1)
        self.encoder1 = ResidualBlock(w1, w1)
        self.down2 = norm_relu_conv(w1, w2, stride=2)
        self.encoder2 = nn.Sequential(ResidualBlock(w2, w2), ResidualBlock(w2, w2))
        self.down4 = norm_relu_conv(w2, w4, stride=2)
        self.encoder4 = nn.Sequential(ResidualBlock(w4, w4), ResidualBlock(w4, w4))
        self.down8 = norm_relu_conv(w4, w8, stride=2)
        self.encoder8 = nn.Sequential(ResidualBlock(w8, w8), ResidualBlock(w8, w8))
        self.bottom = nn.Sequential(ResidualBlock(w8, w8, dilation=2), ResidualBlock(w8, w8, dilation=2))
        self.fusion = norm_relu_conv(w8, w4, dropout=0.1)
        self.decoder4 = ResidualBlock(w4, w2)
        self.decoder2 = ResidualBlock(w2, w1)
        self.decoder1 = ResidualBlock(w1, w1)
        self.seg = nn.Conv3d(w1, 1, 1)
        self.sdf = nn.Conv3d(w1, 1, 1) if "sdf" in heads else None
        self.embedding = nn.Sequential(nn.Conv3d(w8, 32, 1), nn.ReLU()) if "embedding" in heads else None
        self.slice = SliceHead(w8, w4) if "slice" in heads else None

    def forward(self, x: Tensor) -> DualTaskOutput:
        if any(side % REDUCTION for side in x.shape[2:]):
            raise ValueError(f"sides {tuple(x.shape[2:])} are not all multiples of {REDUCTION}; pad the input")
        skip1 = self.encoder1(self.stem(x))  # (B, w, D, H, W)
        skip2 = self.encoder2(self.down2(skip1))  # (B, 2w, D/2, H/2, W/2)
        skip4 = self.encoder4(self.down4(skip2))  # (B, 4w, D/4, H/4, W/4)
        bottom = self.bottom(self.encoder8(self.down8(skip4)))  # (B, 8w, D/8, H/8, W/8)
        y = self.decoder4(upsample(self.fusion(bottom)) + skip4)  # (B, 2w, D/4, H/4, W/4)
        y = self.decoder2(upsample(y) + skip2)  # (B, w, D/2, H/2, W/2)
        y = self.decoder1(upsample(y) + skip1)  # (B, w, D, H, W)
        return DualTaskOutput(
            seg=self.seg(y),
            sdf=self.sdf(y) if self.sdf is not None else None,
            embedding=self.embedding(bottom) if self.embedding is not None else None,
            slice=self.slice(bottom) if self.slice is not None else None,
        )


def upsample(x: Tensor) -> Tensor:
    """Nearest, x2 along each axis."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def segmentation_probability(output: DualTaskOutput) -> Tensor:
    """P = sigmoid(s) in float32, (B, 1, D, H, W)."""
    return torch.sigmoid(output.seg.float())


def averaged_probability(output: DualTaskOutput, spacing: Tensor, steepness: float) -> Tensor:
    """The mean of p and T(d), what both tasks make of the image, (B, 1, D, H, W). Needs the head "sdf".

    ``spacing`` (B, 3) mm and ``steepness``, the k that the network was trained with, say how steep T is; of a T that
    was cut off (k = inf) the mean is that of p and the mask d < 0.
    """
    transformed = distance_to_mask(torch.tanh(output.sdf.float()), steepness_on(spacing, steepness))
    return (segmentation_probability(output) + transformed) / 2
