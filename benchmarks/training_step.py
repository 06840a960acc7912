"""How long does a training step of each stage take, against its plain form and against nnU-Net v2?

    python benchmarks/training_step.py

The step is that of the training: augmentation, signed distance, views, network, loss, update. On a GPU, several steps
follow each other as they do in the training, each prepared while the one before is computed. The plain form computes
the same in float32 and in torch's default memory format; on a GPU without the shortcut TF32, as --plain trains, or with
it, which is torch's default ("step, plain, TF32"). "network" is the network alone on ready images:
forward, backward and update, with a trivial loss. nnU-Net's step is its network and loss on ready images, at the same
patch, with as many images and as many channels at full resolution; its own default is 32 channels. Its process keeps
the memory pages of freed tensors, as the commands of this project do, which saves it a quarter of the time on the CPU;
without this it is called "as shipped".

Speed is given as images of the network, in voxels, a second, so two views of a box count twice. The share of the peak
compares the operations (multiplications and additions) of its convolutions and matrix products with what this machine
reaches, measured in the same run: the product of two large matrices or a convolution of many channels, whichever is
faster, in float32, or in bfloat16 where the step uses it on a GPU. A second table has the convolutions between features
of full resolution, which are the most expensive layers.
"""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.common.process import set_up_process

if __name__ == "__main__":
    set_up_process(computes=True)  # before torch starts its threads

from benchmarks.common import (
    Work,
    add_options,
    convolution,
    count_operations,
    interleave,
    measure_peaks,
    positive,
    report,
    start,
    timed,
)
from benchmarks.peers.process import Peers, add_peers
from benchmarks.trainings import make_step, make_steps, random_training
from data.common.errors import command
from data.samples import Sample, patch_shape
from engine.device import naming_memory_errors
from engine.stages import STAGES, Stage
from engine.train.training import Training

CPU_SHAPE, TINY_SHAPE = (32, 64, 80), (16, 16, 16)
PEERS = ("nnU-Net", "nnU-Net, as shipped")
STEPS_ON_GPU = 10  # that follow each other in a timed run


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the step computes in bfloat16."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def whole_steps(
    training: Training, samples: Sequence[Sample], count: int = 1, *, tf32: bool = True
) -> Callable[[], object]:
    """Return so many steps of the training; each call draws anew, and two trainings draw the same."""
    epochs = itertools.count()

    def steps() -> None:
        before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, tf32
        float(make_steps(training, samples, count, next(epochs)))
        torch.backends.cudnn.allow_tf32 = before

    return steps


def network_step(training: Training, images: Tensor) -> Callable[[], object]:
    """Return forward pass, backward pass and update of the network alone."""

    def step() -> None:
        with training.execution.autocast():
            output = training.net(images.contiguous(memory_format=training.execution.memory_format))
        loss = sum(head.float().square().mean() for head in output if isinstance(head, Tensor))
        assert isinstance(loss, Tensor)
        training.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        training.optimiser.step()

    return step


def measure_stage(
    stage: Stage,
    width: int,
    args: argparse.Namespace,
    device: torch.device,
    peers: Sequence[Peers],
    peaks: dict[str, float],
) -> list[dict[str, Any]]:
    """Time the forms of a stage's step in turns and return a row of each."""
    shape = tuple(args.shape or (patch_shape(stage.sampling) if device.type == "cuda" else CPU_SHAPE))
    training, samples = random_training(stage, device, shape, width=width, batch_size=args.batch_size)
    plain, _ = random_training(stage, device, shape, width=width, batch_size=args.batch_size, plain=True)
    images = args.batch_size * stage.method.images
    ready = torch.rand(images, 1, *shape, device=device)
    on_gpu = device.type == "cuda"
    counts = {"step": STEPS_ON_GPU if on_gpu else 1}
    works: dict[str, Work] = {
        "step": timed(whole_steps(training, samples, counts["step"]), device, args.clock),
        "step, plain": timed(whole_steps(plain, samples, tf32=False), device, args.clock),
        "network": timed(network_step(training, ready), device, args.clock),
    }
    if on_gpu:
        works["step, plain, TF32"] = timed(whole_steps(plain, samples), device, args.clock)
    remedy = "give a smaller --batch-size, --width or --shape"
    with naming_memory_errors(f"a step of {stage.title}", device, remedy):
        operations = dict.fromkeys(works, count_operations(lambda: make_step(plain, samples, 0)))
    patches = dict.fromkeys(works, shape)
    for name, peer in zip(PEERS, peers, strict=False):
        built = peer.build("nnU-Net", shape=shape, spacing=stage.sampling.target_mm, batch=images, features=width)
        if built:
            works[name], said = built
            patches[name], operations[name] = tuple(said["patch"]), said["operations"]
    with naming_memory_errors(f"a step of {stage.title}", device, remedy):
        timings = interleave(works, args.repeats)
    rows = []
    seconds = {
        name: (timing.median / counts.get(name, 1), timing.least / counts.get(name, 1))
        for name, timing in timings.items()
    }
    for name, (median, least) in seconds.items():
        voxels = images * torch.Size(patches[name]).numel()
        peak = peaks["float32" if name.startswith("step, plain") else "step"]
        rows.append(
            {
                "stage": stage.title,
                "width": width,
                "patch": " x ".join(map(str, patches[name])),
                "images": images,
                "form": name,
                "s": median,
                "least s": least,
                "voxels/s": voxels / median,
                "x plain": seconds["step, plain"][0] / median,
                "x nnU-Net": None,
                "GFLOP/s": operations[name] / median / 1e9,
                "of peak": operations[name] / median / peak,
            }
        )
    theirs = next((row["voxels/s"] for row in rows if row["form"] == PEERS[0]), None)
    for row in rows if theirs else ():
        row["x nnU-Net"] = row["voxels/s"] / theirs
    return rows


def measure_convolutions(
    widths: Sequence[int], args: argparse.Namespace, device: torch.device, peak: float
) -> list[dict[str, Any]]:
    """Time the convolutions between features of full resolution, forward and backward."""
    dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
    shape = tuple(args.shape or (patch_shape(STAGES["tumor_fine"].sampling) if device.type == "cuda" else CPU_SHAPE))
    convolutions = {width: convolution(2, width, shape, device, dtype) for width in widths}
    timings = interleave(
        {str(width): timed(work, device, args.clock) for width, work in convolutions.items()}, args.repeats
    )
    rows = []
    for width, work in convolutions.items():
        rate = count_operations(work) / timings[str(width)].least
        rows.append(
            {
                "channels": width,
                "patch": " x ".join(map(str, shape)),
                "type": str(dtype).removeprefix("torch."),
                "least s": timings[str(width)].least,
                "GFLOP/s": rate / 1e9,
                "of peak": rate / peak,
            }
        )
    return rows


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Time the steps and print a table of the stages and one of the convolutions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--stages", nargs="+", choices=tuple(STAGES), default=list(STAGES), help="stages to measure (default: all)"
    )
    parser.add_argument(
        "--width",
        type=positive,
        nargs="+",
        metavar="INT",
        default=[8, 32],
        help="channels of the network at full resolution, multiples of 8 (default: 8 32)",
    )
    parser.add_argument(
        "--shape",
        type=positive,
        nargs=3,
        metavar=("D", "H", "W"),
        help="sides of a box in voxels, multiples of 8 (default: the patch of the stage on a GPU, 32 64 80 on the CPU)",
    )
    parser.add_argument(
        "--batch-size", type=positive, metavar="INT", help="boxes per step (default: 1 on a GPU, 2 on the CPU)"
    )
    add_peers(parser)
    add_options(parser, repeats=5)
    args = parser.parse_args(argv)
    device = start(args)
    args.batch_size = args.batch_size or (1 if device.type == "cuda" else 2)
    if args.tiny:
        args.shape, args.width, args.batch_size = TINY_SHAPE, [8], 1
    types = [torch.float32, *([torch.bfloat16] if has_bfloat16(device) else [])]
    measured = {dtype: measure_peaks(device, dtype, args.clock, tiny=args.tiny) for dtype in types}
    peaks = {"float32": max(measured[types[0]].values()), "step": max(measured[types[-1]].values())}
    rows = []
    module, packages = "benchmarks.peers.nnunet", ("nnunetv2", "torch")
    with contextlib.ExitStack() as stack:
        kinds = (True,) if device.type == "cuda" else (True, False)  # pages are the CPU's
        peers = [stack.enter_context(Peers(args, module, packages, pages_kept=kept)) for kept in kinds]
        for width in args.width:
            for stage in args.stages:
                rows += measure_stage(STAGES[stage], width, args, device, peers, peaks)
    layers = measure_convolutions(args.width, args, device, peaks["step"])
    found = [
        {"type": str(dtype).removeprefix("torch."), **{f"{name} GFLOP/s": rate / 1e9 for name, rate in rates.items()}}
        for dtype, rates in measured.items()
    ]
    tables = {"Training step": rows, "Convolutions at full resolution": layers, "Peak": found}
    report(args, device, tables, peers[0].versions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
