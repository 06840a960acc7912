"""How long does one scan take in the four stages, against the plain form of the same computation?

    python benchmarks/inference.py

The scan has 200 x 512 x 512 voxels of 1.5 x 0.8 x 0.8 mm: a body of noisy soft tissue in air. The first stage segments
the box of the body, the later ones the boxes of an organ and of a lesion in it, in a single round. The networks have
random weights, and the threshold is set such that 30 % of the voxels lie above it, scattered over the box: one large
component that is full of holes, and many small ones.

The plain form (benchmarks/peers/plain_inference.py) runs in a process of its own, which is not set up for speed.
nnU-Net's predictor gets the box on the grid of the network, the same largest patch and as many channels at full
resolution; its flips and its tiles, which overlap by half, are its own. It neither resamples nor labels components.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.common.process import set_up_process

if __name__ == "__main__":
    set_up_process(computes=True)  # before torch starts its threads

from benchmarks.common import Work, add_options, add_shape, interleave, positive, report, start, timed
from benchmarks.peers.process import Peers, add_peers
from data.common.errors import command
from data.samples import mask_box, network_grid, patch_shape, scan_box
from engine.device import avoid_slow_convolutions
from engine.infer.box import FLIPS, NO_FLIPS, READOUTS, Flip, box_probability, segment_box
from engine.stages import STAGES, Stage
from models.dual_task_net import DualTaskNet

SHAPE, TINY_SHAPE = (200, 512, 512), (16, 64, 64)
SPACING_MM = (1.5, 0.8, 0.8)
BODY, ORGAN, LESION = (
    (1.5, 0.65, 0.9),
    (0.22, 0.2, 0.4),
    (0.1, 0.08, 0.08),
)  # sides of ellipsoids, as shares of those of the scan
AIR_HU, TISSUE_HU, NOISE_HU = -1000, 60, 40
ABOVE_THRESHOLD = 0.3  # share of the voxels of a box
WIDTHS = {"cpu": 8, "cuda": 32}


@dataclass(frozen=True)
class Task:
    """The box of a stage.

    Attributes:
        stage: The stage, with a single round.
        net: Its network, as in use.
        image: int16 HU, shape (D, H, W).
        spacing: (z, y, x) in mm.
        device: Where to compute.
        threshold: Probabilities above it are foreground.
    """

    stage: Stage
    net: nn.Module
    image: np.ndarray
    spacing: tuple[float, float, float]
    device: torch.device
    threshold: float = 0.5

    def segment(self, flips: Sequence[Flip]) -> Callable[[], np.ndarray]:
        """Return the segmentation of the box."""
        given = {"stage": self.stage, "device": self.device, "flips": flips}
        return lambda: segment_box(self.net, self.image, self.spacing, self.threshold, **given)

    def with_threshold(self) -> "Task":
        """Return the task with a threshold above which ABOVE_THRESHOLD of the voxels lie."""
        probability = box_probability(
            self.net, self.image, self.spacing, stage=self.stage, device=self.device, flips=NO_FLIPS
        )
        return replace(self, threshold=float(np.quantile(probability, 1 - ABOVE_THRESHOLD)))


def ellipsoid(shape: Sequence[int], sides: Sequence[float]) -> np.ndarray:
    """Return a centred ellipsoid, its sides as shares of those of the array (D, H, W), as a mask."""
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) / side for n, side in zip(shape, sides, strict=True))
    return z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= 1


def make_tasks(shape: Sequence[int], width: int, device: torch.device) -> list[Task]:
    """Make the scan and the boxes that the four stages read of it."""
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    scan = np.where(ellipsoid(shape, BODY), TISSUE_HU + NOISE_HU * noise, AIR_HU).astype(np.int16)
    rois = {"pancreas": ellipsoid(shape, ORGAN), "tumour": ellipsoid(shape, LESION)}
    tasks = []
    for stage in STAGES.values():
        sampling = stage.sampling
        box = (
            scan_box(scan, SPACING_MM, sampling)
            if stage.predecessor is None
            else mask_box(rois[sampling.roi], SPACING_MM, sampling)
        )
        torch.manual_seed(0)
        net = DualTaskNet(width=width, heads=stage.method.heads).eval().requires_grad_(False)
        for head in set(net.heads) - READOUTS["segmentation"].heads:
            setattr(net, head, None)
        net = net.to(device, memory_format=torch.channels_last_3d)
        avoid_slow_convolutions(net)
        tasks.append(Task(stage, net, np.ascontiguousarray(scan[box.slices]), SPACING_MM, device))
    return tasks


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Time both forms of every stage and print a row of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--width",
        type=positive,
        metavar="INT",
        help="channels of the networks at full resolution, a multiple of 8 (default: 8 on a CPU, 32 on a GPU)",
    )
    add_shape(parser, SHAPE)
    add_peers(parser)
    add_options(parser, repeats=1)
    args = parser.parse_args(argv)
    device = start(args)
    shape = TINY_SHAPE if args.tiny else tuple(args.shape)
    width = args.width or WIDTHS[args.device]
    rows: list[dict[str, Any]] = []
    total: dict[str, float] = {}
    this_python = argparse.Namespace(**{**vars(args), "peers": Path(sys.executable)})
    with (
        tempfile.TemporaryDirectory() as folder,
        Peers(this_python, "benchmarks.peers.plain_inference", ()) as plain,
        Peers(args, "benchmarks.peers.nnunet", ("nnunetv2", "torch"), pages_kept=True) as peers,
    ):
        box, mask = Path(folder, "box.npz"), Path(folder, "mask.npy")
        for task in make_tasks(shape, width, device):
            task = task.with_threshold()
            np.savez(box, image=task.image, spacing=task.spacing)
            np.save(mask, task.segment(FLIPS)())
            settings = {"stage": task.stage.name, "width": width, "threshold": task.threshold}
            built = plain.build("plain", **settings, box=str(box), mask=str(mask))
            assert built is not None
            works: dict[str, Work] = {"plain": built[0]}
            works |= {
                name: timed(task.segment(flips), device, args.clock)
                for name, flips in (("ours", FLIPS), ("fast", NO_FLIPS))
            }
            grid = network_grid(task.image.shape, task.spacing, task.stage.sampling).shape
            tile = [min(n, most) for n, most in zip(grid, patch_shape(task.stage.sampling), strict=True)]
            given = {"shape": grid, "patch": tile, "spacing": task.stage.sampling.target_mm, "features": width}
            if theirs := peers.build("nnU-Net predictor", **given):
                works["nnU-Net"] = theirs[0]
            seconds = {name: timing.median for name, timing in interleave(works, args.repeats, warm_up=0).items()}
            sizes = {"box": task.image.shape, "network sees": grid, "tile": tile}
            rows.append({"stage": task.stage.title} | {k: " x ".join(map(str, v)) for k, v in sizes.items()})
            rows[-1] |= compare(seconds) | {"Dice": built[1]["dice"]}
            total = {name: total.get(name, 0.0) + seconds[name] for name in seconds}
    rows.append({"stage": "all four"} | compare(total) | {"Dice": min(row["Dice"] for row in rows)})
    report(args, device, {f"One scan of {' x '.join(map(str, shape))} voxels, width {width}": rows}, peers.versions)
    return 0


def compare(seconds: dict[str, float]) -> dict[str, float]:
    """Return the cells of a row: seconds, and how many times as fast as the others ours is."""
    ours = seconds["ours"] or math.nan
    cells = {"plain s": seconds["plain"], "s": seconds["ours"], "x plain": seconds["plain"] / ours}
    if "nnU-Net" in seconds:
        cells |= {"nnU-Net s": seconds["nnU-Net"], "x nnU-Net": seconds["nnU-Net"] / ours}
    return cells | {"--fast s": seconds["fast"]}


if __name__ == "__main__":
    sys.exit(main())
