"""How much memory does a training step take, estimated and measured?

    python benchmarks/memory.py                # the estimate for every stage with its default settings
    python benchmarks/memory.py --measure      # estimate and measured peak of smaller steps on the CPU
    python benchmarks/memory.py --measure --gpu 0

The first command prints the table of the README. The second one also prints the time of a step relative to one in which
no features are recomputed.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from torch.autograd.profiler import profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.common.memory import GB
from data.common.process import set_up_process
from data.samples import patch_shape
from data.scans.boxes import Index3D
from engine.device import avoid_slow_convolutions, choose_device, choose_execution
from engine.memory import cells_of, step_memory
from engine.method import Method
from engine.recipe import NetworkSettings, TrainSettings, new_network
from engine.stages import STAGES, with_variant
from models.dual_task_net import MOST_RECOMPUTED

# Stage, variant, width, sides of a box and boxes of a step: small enough for two CPU cores and a few seconds each.
MEASURED = (
    ("tumor_fine", "full", 8, (32, 64, 64), 2),
    ("tumor_coarse", "sdf", 8, (48, 64, 80), 2),
    ("pancreas_coarse", "full", 16, (32, 48, 64), 1),
    ("pancreas_fine", "baseline", 32, (32, 48, 48), 2),
)


def measured_step(
    network: NetworkSettings,
    method: Method,
    shape: Index3D,
    *,
    batch_size: int,
    device: torch.device,
    recomputed: int = 0,
) -> tuple[int, float]:
    """Run two training steps on random images; the arguments are those of ``engine.memory.step_memory``.

    Returns:
        The peak in bytes of what torch allocated, and the processor time of the second step in seconds.
    """
    if device.type == "cuda":
        torch.cuda.init()  # without which there are no statistics yet
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        seconds = _train_two_steps(network, method, shape, batch_size, device, recomputed)
        return torch.cuda.max_memory_allocated(device) - before, seconds
    with profile(use_kineto=True, profile_memory=True) as profiler:
        seconds = _train_two_steps(network, method, shape, batch_size, device, recomputed)
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak, seconds


def _train_two_steps(
    network: NetworkSettings, method: Method, shape: Index3D, batch_size: int, device: torch.device, recomputed: int
) -> float:
    torch.manual_seed(0)
    net = new_network(network, method).to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    avoid_slow_convolutions(net)
    net.recomputed = recomputed
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    criterion = method.build_loss()
    seconds = 0.0
    for _ in range(2):
        start = time.process_time()
        image = torch.rand(batch_size, 1, *shape, device=device)
        mask = torch.zeros_like(image)
        mask[(..., *(slice(n // 4, 3 * n // 4) for n in shape))] = 1
        spacing = torch.ones(batch_size, 3)
        phi = method.distance_target(mask, spacing)
        images = image if method.images == 1 else torch.cat([image, image])
        with choose_execution(device).autocast():
            output = net(images.contiguous(memory_format=torch.channels_last_3d))
        generators = [torch.Generator().manual_seed(0)] * len(mask)
        loss, _ = criterion(output, mask, phi, spacing, generators, cells=cells_of(method, mask))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        seconds = time.process_time() - start
    return seconds


def print_estimates(width: int, batch_size: int) -> None:
    """Print the estimate for the largest patch of every stage, on a GPU and on the CPU."""
    print("| stage | voxels | images | device | " + " | ".join(map(str, range(MOST_RECOMPUTED + 1))) + " |")
    print("|---" * (5 + MOST_RECOMPUTED) + "|")
    for stage in STAGES.values():
        for gpu in (True, False):
            shape = patch_shape(stage.sampling)
            peaks = [
                step_memory(
                    NetworkSettings(width),
                    stage.method,
                    shape,
                    batch_size=batch_size,
                    half=gpu,
                    ahead=gpu,
                    recomputed=n,
                )
                for n in range(MOST_RECOMPUTED + 1)
            ]
            images = batch_size * stage.method.images
            columns = [stage.name, f"{math.prod(shape) / 1e6:.1f} M", str(images), "GPU" if gpu else "CPU"]
            print("| " + " | ".join([*columns, *(f"{peak / GB:.1f}" for peak in peaks)]) + " |", flush=True)


def print_measurements(device: torch.device) -> None:
    """Print estimate, measured peak and time of the steps in MEASURED."""
    print("| stage | variant | width | box | boxes | recomputed | estimated (MB) | measured (MB) | ratio | time |")
    print("|---" * 10 + "|")
    for name, variant, width, shape, batch_size in MEASURED:
        plain = 0.0
        for recomputed in range(MOST_RECOMPUTED + 1):
            method, network = with_variant(STAGES[name], variant).method, NetworkSettings(width)
            peak, seconds = measured_step(
                network, method, shape, batch_size=batch_size, device=device, recomputed=recomputed
            )
            estimate = step_memory(
                network, method, shape, batch_size=batch_size, half=device.type == "cuda", recomputed=recomputed
            )
            plain = plain or seconds
            box = " x ".join(map(str, shape))
            columns = [name, variant, width, box, batch_size, recomputed, f"{estimate / 1e6:.1f}", f"{peak / 1e6:.1f}"]
            print(
                "| " + " | ".join(map(str, columns)) + f" | {estimate / peak:.3f} | {seconds / plain:.2f} |", flush=True
            )


def main() -> None:
    """Print the table that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure smaller steps beside estimating them")
    parser.add_argument("--gpu", default="cpu", metavar="GPU", help="device to measure on (default: cpu)")
    parser.add_argument("--width", type=int, default=32, metavar="N", help="channels at full resolution (default: 32)")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=TrainSettings().batch_size,
        metavar="N",
        help=f"boxes of a step (default: {TrainSettings().batch_size})",
    )
    args = parser.parse_args()
    set_up_process()
    if args.measure:
        print_measurements(choose_device(args.gpu))
    else:
        print_estimates(args.width, args.batch_size)


if __name__ == "__main__":
    main()
