"""The dual-task network: a residual 3-D U-Net that predicts a mask and its signed distance from shared features."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.blocks import Activation, PointwiseConv3d, ResidualBlock, StandardisedConv3d, norm_relu_conv
from models.channels_last import add_upsampled
from models.signed_distance import distance_to_mask, scale_steepness

R = TypeVar("R")

REDUCTION = 8  # voxels of the input per cell of the bottom grid, along each axis
HEADS = ("seg", "sdf", "embedding", "slice", "deep", "projection")
PROJECTION = 32  # channels of it
HEAD_INPUTS = ("normalised", "raw")
ENCODER = re.compile(r"stem\.|encoder\d\.|down\d\.")  # how the names of its parameters start
MOST_RECOMPUTED = 3  # resolutions whose features can be recomputed; those of the coarsest one take too little to matter
GROUP_NORM_RELU = Activation()  # of the published network
# How heads that read normalised features start. A probability of 0.02, near the share of the target, saves the hundreds
# of steps that Adam would need to move the bias there. Weights of 1 give logits that differ between voxels from the
# start. The distance starts near 0, where T(d) = sigmoid(-50 d) has a slope; with larger weights it has none.
SEGMENTATION_BIAS, SEGMENTATION_DEVIATION = -4.0, 1.0
DISTANCE_DEVIATION = 0.01


class DualTaskOutput(NamedTuple):
    """Output of the network. A head that the network was built without gives None.

    Attributes:
        seg: Logits of the mask, shape (B, 1, D, H, W).
        sdf: Raw regression output r, shape (B, 1, D, H, W). The signed distance is tanh(r), negative inside.
        embedding: Non-negative features for the contrast, shape (B, 32, D/8, H/8, W/8).
        slice: One logit per slice for "this slice holds the target", shape (B, D).
        deep: Logits of the mask on the coarser grids of the decoder, shapes (B, 1, D/2, H/2, W/2) and
            (B, 1, D/4, H/4, W/4).
        projection: Features for the contrast of tissues, shape (B, 32, D/2, H/2, W/2).
    """

    seg: Tensor
    sdf: Tensor | None
    embedding: Tensor | None
    slice: Tensor | None
    deep: tuple[Tensor, Tensor] | None = None
    projection: Tensor | None = None


class SliceHead(nn.Module):
    """Classify every slice as holding the target or not, from the bottom features averaged over the plane.

    Eight input slices share one bottom slice, so their logits are equal: the logit is computed once per bottom slice
    and then repeated.

    Args:
        channels: Channels of the bottom features.
        hidden: Units of the hidden layer.
        activation: Normalisation and ReLU.
    """

    def __init__(self, channels: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.norm = activation.build(channels)
        self.hidden = nn.Linear(channels, hidden)
        self.logit = nn.Linear(hidden, 1)

    def forward(self, bottom: Tensor) -> Tensor:
        """Map bottom features (B, channels, D/8, H/8, W/8) to slice logits (B, D)."""
        pooled = self.norm(bottom).mean(dim=(3, 4)).transpose(1, 2)  # (B, D/8, C)
        logits = self.logit(F.relu(self.hidden(pooled))).squeeze(-1)  # (B, D/8)
        return logits.repeat_interleave(REDUCTION, dim=1)  # (B, D)


class DualTaskNet(nn.Module):
    """Residual 3-D U-Net with additive skip connections and the heads that a stage needs.

    Args:
        width: Channels at full resolution, a multiple of the groups. The published network has 32 (18.97 M parameters).
        heads: Heads to build, from "seg" (required), "sdf", "embedding", "slice", "deep" (deep supervision) and
            "projection".
        head_input: What the heads of mask and distance read: the features "normalised", by GroupNorm - ReLU, or "raw",
            the sum of the residual blocks. The published network has "raw". Its deviation of about 10 at the start
            saturates both heads.
        activation: Normalisation and ReLU between the convolutions.

    Attributes:
        recomputed: At how many resolutions, from the full one on, a training step keeps only what enters and leaves a
            block and computes the rest again for the backward pass (gradient checkpointing): 0 (none) to
            MOST_RECOMPUTED. It takes time instead of memory and changes no result.

    Raises:
        ValueError: If the width is not a positive multiple of the groups, "seg" is missing, or a head or ``head_input``
            is unknown.
    """

    def __init__(
        self,
        *,
        width: int = 32,
        heads: Sequence[str] = HEADS,
        head_input: str = "normalised",
        activation: Activation = GROUP_NORM_RELU,
    ) -> None:
        super().__init__()
        if width < 1 or width % (activation.groups or 1):
            raise ValueError(f"width {width} is not a positive multiple of {activation.groups} groups")
        if "seg" not in heads or not set(heads) <= set(HEADS):
            raise ValueError(f"heads {tuple(heads)}: 'seg' is required, the others are {HEADS[1:]}")
        if head_input not in HEAD_INPUTS:
            raise ValueError(f"head_input is {head_input!r}, not one of {', '.join(HEAD_INPUTS)}")
        self.width, self.heads = width, tuple(head for head in HEADS if head in heads)
        self.recomputed = 0
        w1, w2, w4, w8 = (width * n for n in (1, 2, 4, 8))
        self.stem = StandardisedConv3d(1, w1)
        block = functools.partial(ResidualBlock, activation=activation)
        step = functools.partial(norm_relu_conv, activation=activation)
        self.encoder1 = block(w1, w1)
        self.down2 = step(w1, w2, stride=2)
        self.encoder2 = nn.Sequential(block(w2, w2), block(w2, w2))
        self.down4 = step(w2, w4, stride=2)
        self.encoder4 = nn.Sequential(block(w4, w4), block(w4, w4))
        self.down8 = step(w4, w8, stride=2)
        self.encoder8 = nn.Sequential(block(w8, w8), block(w8, w8))
        self.bottom = nn.Sequential(block(w8, w8, dilation=2), block(w8, w8, dilation=2))
        self.fusion = step(w8, w4, dropout=0.1)
        self.decoder4 = block(w4, w2)
        self.decoder2 = block(w2, w1)
        self.decoder1 = block(w1, w1)

        def head(channels: int) -> nn.Sequential:
            return nn.Sequential(activation.build(channels), PointwiseConv3d(channels, 1))

        normalised = head_input == "normalised"
        self.head_input = nn.Sequential(activation.build(w1)) if normalised else nn.Identity()
        self.seg = PointwiseConv3d(w1, 1)
        self.sdf = PointwiseConv3d(w1, 1) if "sdf" in heads else None
        if normalised:
            _initialise(self.seg, SEGMENTATION_DEVIATION, SEGMENTATION_BIAS)
        if normalised and self.sdf is not None:
            _initialise(self.sdf, DISTANCE_DEVIATION, 0.0)
        self.embedding = nn.Sequential(PointwiseConv3d(w8, 32), nn.ReLU()) if "embedding" in heads else None
        self.slice = SliceHead(w8, w4, activation) if "slice" in heads else None
        self.deep = nn.ModuleList([head(w1), head(w2)]) if "deep" in heads else None
        self.projection = projection(w1, activation) if "projection" in heads else None

    def forward(self, x: Tensor) -> DualTaskOutput:
        """Run the network.

        Args:
            x: Images with values in [0, 1], shape (B, 1, D, H, W); each side is a multiple of 8.

        Returns:
            The outputs of all heads, with None for those that were not built.

        Raises:
            ValueError: If a side is not a multiple of 8.
        """
        if any(side % REDUCTION for side in x.shape[2:]):
            raise ValueError(f"sides {tuple(x.shape[2:])} are not all multiples of {REDUCTION}; pad the input")
        skip1 = self._run(1, lambda x: self.encoder1(self.stem(x)), x)  # (B, w, D, H, W)
        skip2 = self._encode(2, self.encoder2, self._run(1, self.down2, skip1))  # (B, 2w, D/2, H/2, W/2)
        skip4 = self._encode(3, self.encoder4, self._run(2, self.down4, skip2))  # (B, 4w, D/4, H/4, W/4)
        bottom = self.bottom(self.encoder8(self._run(3, self.down8, skip4)))  # (B, 8w, D/8, H/8, W/8)
        y4 = self._run(3, self._decode, self.decoder4, self.fusion(bottom), skip4)  # (B, 2w, D/4, H/4, W/4)
        y2 = self._run(2, self._decode, self.decoder2, y4, skip2)  # (B, w, D/2, H/2, W/2)
        y = self._run(1, self._decode, self.decoder1, y2, skip1)  # (B, w, D, H, W)
        seg, sdf = self._run(1, self._head_outputs, y)
        return DualTaskOutput(
            seg=seg,
            sdf=sdf,
            embedding=self.embedding(bottom) if self.embedding is not None else None,
            slice=self.slice(bottom) if self.slice is not None else None,
            deep=(self.deep[0](y2), self.deep[1](y4)) if self.deep is not None else None,
            projection=self.projection(y2) if self.projection is not None else None,
        )

    def freeze_encoder(self) -> None:
        """Let the training leave the encoder as it is: the stem, the blocks before the bottom and the steps between."""
        for name, parameter in self.named_parameters():
            if ENCODER.match(name):
                parameter.requires_grad_(False)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that do not belong to a single head."""
        return [parameter for name, parameter in self.named_parameters() if name.split(".")[0] not in HEADS]

    def _run(self, resolution: int, part: Callable[..., R], *inputs: Tensor | nn.Module) -> R:
        """Run a part of the network at a resolution (1 is the full one); keep its features or recompute them."""
        if resolution > self.recomputed or not torch.is_grad_enabled():
            return part(*inputs)
        # No part draws random numbers: the dropout is in the fusion, which is not among them.
        return checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)

    def _encode(self, resolution: int, blocks: nn.Sequential, x: Tensor) -> Tensor:
        for block in blocks:
            x = self._run(resolution, block, x)
        return x

    def _decode(self, block: nn.Module, coarse: Tensor, skip: Tensor) -> Tensor:
        return block(add_upsampled(coarse, skip))

    def _head_outputs(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map the features of the decoder (B, width, D, H, W) to mask logits and raw distance, (B, 1, D, H, W)."""
        y = self.head_input(y)
        return self.seg(y), self.sdf(y) if self.sdf is not None else None


def projection(channels: int, activation: Activation) -> nn.Sequential:
    """Build the head of the contrast of tissues: normalisation, then two layers."""
    hidden, out = PointwiseConv3d(channels, PROJECTION), PointwiseConv3d(PROJECTION, PROJECTION)
    return nn.Sequential(activation.build(channels), hidden, nn.ReLU(), out)


def _initialise(head: nn.Conv3d, deviation: float, bias: float) -> None:
    nn.init.normal_(head.weight, std=deviation)
    nn.init.constant_(cast("Tensor", head.bias), bias)


def segmentation_probability(output: DualTaskOutput) -> Tensor:
    """Return p = sigmoid(s) in float32, shape (B, 1, D, H, W)."""
    return torch.sigmoid(output.seg.float())


def averaged_probability(output: DualTaskOutput, spacing: Tensor, steepness: float) -> Tensor:
    """Average the probabilities of both tasks, p of the segmentation and T(d) of the regression.

    Args:
        output: Output of a network with the head "sdf".
        spacing: Voxel spacing (z, y, x) in mm, shape (B, 3).
        steepness: The k of T that the network was trained with, at voxels of 0.9 mm and its own tau. With ``math.inf``
            T(d) is the mask d < 0.

    Returns:
        The mean of p and T(d) in float32, shape (B, 1, D, H, W).

    Raises:
        ValueError: If the network has no head "sdf".
    """
    if output.sdf is None:
        raise ValueError("the network has no head 'sdf' to average with")
    transformed = distance_to_mask(torch.tanh(output.sdf.float()), scale_steepness(spacing, steepness))
    return (segmentation_probability(output) + transformed) / 2
