"""Which share of its time does a training wait for data?

    python benchmarks/input_pipeline.py

Synthetic scans are prepared in a temporary folder, and each stage is trained on them with 0, 1 and 2 processes that
read boxes; an epoch has every scan several times. The epochs of the three take turns. The goal is that less than 5 % of
the time is spent waiting. Without processes the training reads the boxes itself, so that waiting is reading. As the
scans have just been written, they are read from memory: where data do not fit into memory, the disk decides.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.common.process import set_up_process

if __name__ == "__main__":
    set_up_process(computes=True)  # before torch starts its threads

from benchmarks.common import add_options, positive, report, start, wait_for
from benchmarks.trainings import make_step, make_training
from data.cases.case import Case
from data.cases.store import read_store
from data.common.errors import InputError, command
from data.phantom import command as phantom
from engine.stages import STAGES, Stage
from engine.train.loader import read_batches
from engine.train.training import Training

WORKERS = (0, 1, 2)
SMALL_MM = (3.0, 3.0, 3.0)  # on the small synthetic scans
COARSE_MM, TINY_MM = (6.0, 6.0, 6.0), (9.0, 9.0, 9.0)  # there in the stage that sees the whole body; for a rehearsal


def make_cases(folder: Path, count: int, size: str) -> list[Case]:
    """Prepare synthetic scans of a centre and return those with a tumour, which every stage can be trained on."""
    options = ["--cases", str(count), "--size", size, "--workers", str(os.cpu_count() or 1), "--quiet"]
    if phantom.main([str(folder), "--prepared", "--centres", "north", *options]) != 0:
        raise InputError(folder, "no synthetic scans could be written here", "look at the line above")
    return [case for case in read_store(folder)["north"] if case.tumour_box]


def run_epoch(training: Training, epoch: int) -> tuple[float, float]:
    """Train for one epoch and return the seconds that it waited for samples, and those of all of it."""
    training.sampler.epoch = epoch
    waited, begin = 0.0, time.perf_counter()
    before = begin
    for step, samples in enumerate(read_batches(training.loader)):
        waited += time.perf_counter() - before
        make_step(training, samples, step)
        wait_for(training.device)
        before = time.perf_counter()
    return waited, before - begin


def measure_stage(
    stage: Stage, cases: Sequence[Case], folder: Path, args: argparse.Namespace, device: torch.device
) -> list[dict[str, Any]]:
    """Train a stage with 0, 1 and 2 processes in turns and return a row of each."""
    cases = [*cases] * -(-args.boxes // len(cases))
    trainings = {
        workers: make_training(
            stage, device, cases, folder, width=args.width, batch_size=args.batch_size, workers=workers
        )
        for workers in WORKERS
    }
    epochs: dict[int, list[tuple[float, float]]] = {workers: [] for workers in WORKERS}
    for epoch in range(args.repeats + 1):
        for workers, training in trainings.items():
            seconds = run_epoch(training, epoch + 1)
            if epoch > 0:  # the first one starts the processes, and opens every case
                epochs[workers].append(seconds)
    rows = []
    for workers, runs in epochs.items():
        steps = len(trainings[workers].loader)
        rows.append(
            {
                "stage": stage.title,
                "workers": workers,
                "s a step": statistics.median(whole for _, whole in runs) / steps,
                "s waited": statistics.median(waited for waited, _ in runs) / steps,
                "% waited": 100 * sum(waited for waited, _ in runs) / sum(whole for _, whole in runs),
            }
        )
    return rows


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train for a few epochs and print the share of waiting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--stages", nargs="+", choices=tuple(STAGES), default=list(STAGES), help="stages to measure (default: all)")
    add("--cases", type=positive, metavar="INT", default=8, help="synthetic scans (default: 8)")
    add("--boxes", type=positive, metavar="INT", default=16, help="boxes of an epoch, at least (default: 16)")
    add("--width", type=positive, metavar="INT", help="channels at full resolution (default: 32 on a GPU, else 8)")
    add("--batch-size", type=positive, metavar="INT", default=2, help="boxes per step (default: 2)")
    add(
        "--size",
        choices=("small", "full"),
        help="small for scans of 3 mm and a network grid of 3 mm, or 6 mm for pancreas coarse; full for clinical scans "
        "on the grid of the stage (default: full on a GPU, small on the CPU)",
    )
    add_options(parser, repeats=2)
    args = parser.parse_args(argv)
    device = start(args)
    if args.clock == "cpu":
        raise InputError("--clock cpu", "does not count waiting", "give --clock wall")
    on_gpu = device.type == "cuda" and not args.tiny
    args.width, args.size = args.width or (32 if on_gpu else 8), args.size or ("full" if on_gpu else "small")
    if args.tiny:
        args.cases, args.boxes, args.repeats, args.stages = 3, 4, 1, args.stages[-1:]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cases = make_cases(Path(folder, "store"), args.cases, args.size)
        for name in args.stages:
            stage = STAGES[name]
            if args.size == "small":
                voxel_mm = TINY_MM if args.tiny else COARSE_MM if stage.sampling.roi == "scan" else SMALL_MM
                stage = replace(stage, sampling=replace(stage.sampling, target_mm=voxel_mm))
            rows += measure_stage(stage, cases, Path(folder), args, device)
    report(args, device, {"Waiting for data": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
