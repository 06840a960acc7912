"""A training step and the predictor of nnU-Net v2, with the network that its planner chooses for a patch."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers.process import serve

MOST_FEATURES = 320  # of the 3-D networks of the default planner
LEAST_SIDE = 4  # of its coarsest features, in voxels


def plan_network(shape: Sequence[int], spacing: Sequence[float], features: int) -> tuple[nn.Module, list[int], Any]:
    """Build the network of the configuration 3d_fullres, as nnU-Net's default planner does for a patch.

    Args:
        shape: Of the patch (D, H, W).
        spacing: Of its voxels (z, y, x) in mm.
        features: Channels at full resolution; the planner takes 32.

    Returns:
        The network, the shape of the patch enlarged to what it can pool, and its strides.
    """
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from dynamic_network_architectures.initialization.weight_init import InitWeights_He
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    _, strides, kernels, patch, _ = get_pool_and_conv_props(spacing, shape, LEAST_SIDE, 999999)
    stages = len(strides)
    net = PlainConvUNet(
        input_channels=1,
        n_stages=stages,
        features_per_stage=[min(MOST_FEATURES, features * 2**stage) for stage in range(stages)],
        conv_op=nn.Conv3d,
        kernel_sizes=kernels,
        strides=strides,
        n_conv_per_stage=[2] * stages,
        num_classes=2,
        n_conv_per_stage_decoder=[2] * (stages - 1),
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    net.apply(InitWeights_He(1e-2))
    return net, [int(side) for side in patch], strides


def build_step(
    device: torch.device, *, shape: Sequence[int], spacing: Sequence[float], batch: int, features: int
) -> tuple[Callable[[], object], dict[str, Any]]:
    """Build ``nnUNetTrainer.train_step`` on random images: deep supervision, Dice + cross entropy, SGD, clipping.

    On a GPU it is compiled and computes in mixed precision, as the trainer does.
    """
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    torch.manual_seed(0)
    net, patch, _ = plan_network(shape, spacing, features)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    net = net.to(device)
    optimiser = torch.optim.SGD(net.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    loss = DC_and_CE_loss(dice, {}, weight_ce=1, weight_dice=1, dice_class=MemoryEfficientSoftDiceLoss)
    on_gpu = device.type == "cuda"
    image = torch.randn(batch, 1, *patch, device=device)
    with FlopCounterMode(display=False) as counter:
        scales = net(image)
        sum(scale.mean() for scale in scales).backward()
    sides = [scale.shape[2:] for scale in scales]
    targets = [(torch.rand(batch, 1, *side, device=device) < 0.03).float() for side in sides]
    weights = [0.5**scale for scale in range(len(sides) - 1)]  # the coarsest output has weight 0
    criterion = DeepSupervisionWrapper(loss, [*(weight / sum(weights) for weight in weights), 0.0])
    scaler = torch.amp.GradScaler("cuda", enabled=on_gpu)
    model = torch.compile(net) if on_gpu else net
    if on_gpu:
        loss.dc = torch.compile(loss.dc)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, enabled=on_gpu):
            value = criterion(model(image), targets)
        scaler.scale(value).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(net.parameters(), 12)
        scaler.step(optimiser)
        scaler.update()
        return float(value.detach())

    return step, {"patch": patch, "parameters": parameters, "operations": counter.get_total_flops()}


def build_predictor(
    device: torch.device, *, shape: Sequence[int], patch: Sequence[int], spacing: Sequence[float], features: int
) -> tuple[Callable[[], object], dict[str, Any]]:
    """Build nnU-Net's prediction of an image on its grid: half-overlapping patches, Gaussian weights, all eight flips.

    Args:
        device: Where to compute.
        shape: Of the image (D, H, W), on the grid of the network.
        patch: Of the network.
        spacing: Of the voxels (z, y, x) in mm.
        features: Channels at full resolution.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.manual_seed(0)
    net, patch, _ = plan_network(patch, spacing, features)
    net.decoder.deep_supervision = False
    predictor = nnUNetPredictor(device=device, perform_everything_on_device=device.type == "cuda", allow_tqdm=False)
    # Of the plans that manual_initialization reads from files, the prediction needs only these.
    predictor.network = net.eval()
    predictor.configuration_manager = SimpleNamespace(patch_size=patch)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=2)
    predictor.allowed_mirroring_axes = (0, 1, 2)
    image = torch.randn(1, *shape)

    def predict() -> object:
        with torch.inference_mode():
            return predictor.predict_sliding_window_return_logits(image).argmax(0).cpu()

    return predict, {"patch": patch}


if __name__ == "__main__":
    serve({"nnU-Net": build_step, "nnU-Net predictor": build_predictor})
