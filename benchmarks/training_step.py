"""How long does a training step take on the CPU, and what does each measure against slow steps contribute?

    python benchmarks/training_step.py

Prints the median time of a step, and its speed relative to the plain step, for

- two views, as in training: in torch's default memory format, with channels last, and with freed memory pages kept;
- one image: without and with the hooks of ``engine.device.avoid_slow_convolutions``.
"""

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.common.process import set_up_process
from engine.device import avoid_slow_convolutions
from models.dual_task_net import DualTaskNet


def seconds_per_step(
    shape: Sequence[int],
    *,
    width: int,
    steps: int,
    images: int = 2,
    memory_format: torch.memory_format = torch.channels_last_3d,
    hooks: bool = True,
) -> float:
    """Time forward pass, backward pass and update; return the median in seconds over all steps but the first.

    Args:
        shape: Sides (D, H, W) of an image in voxels.
        width: Channels of the network at full resolution.
        steps: Number of timed steps.
        images: Images per step.
        memory_format: Memory format of weights and images.
        hooks: Whether the network gets the hooks of ``avoid_slow_convolutions``.
    """
    torch.manual_seed(0)
    net = DualTaskNet(width=width, heads=("seg", "sdf", "embedding"))
    net.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's stubs lack this argument
    if hooks:
        avoid_slow_convolutions(net)
    optimiser = torch.optim.Adam(net.parameters())
    batch = torch.rand(images, 1, *shape).contiguous(memory_format=memory_format)
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        output = net(batch)
        loss = output.seg.square().mean() + output.sdf.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[steps // 2]


def main() -> None:
    """Time the steps and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        metavar=("D", "H", "W"),
        default=(32, 64, 80),
        help="sides of an image in voxels, multiples of 8 (default: 32 64 80)",
    )
    parser.add_argument(
        "--width",
        type=int,
        metavar="INT",
        default=8,
        help="channels of the network at full resolution, a multiple of 8 (default: 8)",
    )
    parser.add_argument("--steps", type=int, metavar="INT", default=7, help="timed steps of each kind (default: 7)")
    args = parser.parse_args()

    measure = functools.partial(seconds_per_step, args.shape, width=args.width, steps=args.steps)
    plain = measure(memory_format=torch.contiguous_format)
    channels_last = measure()
    # Last, because it cannot be undone. The commands of this project set up their process before they import torch.
    set_up_process(computes=True)
    pages_kept = measure()
    single, single_hooked = measure(images=1, hooks=False), measure(images=1)

    box = " x ".join(map(str, args.shape))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {box} voxels, width {args.width}")
    for name, seconds, reference in (
        ("two views, plain", plain, plain),
        ("two views, channels last", channels_last, plain),
        ("two views, freed pages kept too", pages_kept, plain),
        ("one image", single, single),
        ("one image, slow path avoided", single_hooked, single),
    ):
        print(f"{name:<34}{seconds:8.3f} s {reference / seconds:6.2f} x")


if __name__ == "__main__":
    main()
