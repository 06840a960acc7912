"""A training step on the CPU: plain, channels last, and with freed pages kept. python benchmarks/training_step.py"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.device import keep_freed_pages
from models.dual_task_net import DualTaskNet


def seconds_a_step(shape: list[int], width: int, steps: int, memory_format: torch.memory_format) -> float:
    """Median over the steps after the first."""
    torch.manual_seed(0)
    net = DualTaskNet(width=width, heads=("seg", "sdf", "embedding")).to(memory_format=memory_format)
    optimiser = torch.optim.Adam(net.parameters())
    image = torch.rand(2, 1, *shape).contiguous(memory_format=memory_format)
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        output = net(image)
        loss = output.seg.square().mean() + output.sdf.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[steps // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[32, 64, 80], help="voxels of each of two views")
    parser.add_argument("--width", type=int, default=8, help="of the network")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each kind")
    args = parser.parse_args()
    plain = seconds_a_step(args.shape, args.width, args.steps, torch.contiguous_format)
    last = seconds_a_step(args.shape, args.width, args.steps, torch.channels_last_3d)
    keep_freed_pages()
    both = seconds_a_step(args.shape, args.width, args.steps, torch.channels_last_3d)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, 2 x {args.shape}, width {args.width}")
    for name, value in (("plain", plain), ("channels last", last), ("channels last, freed pages kept", both)):
        print(f"{name:<34}{value:8.3f} s {plain / value:6.2f} x")


if __name__ == "__main__":
    main()
