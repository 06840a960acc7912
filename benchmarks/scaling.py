"""What do larger boxes, larger batches, more processes and more cases cost?

    python benchmarks/scaling.py

Four tables: the training step with growing boxes and batches, the boxes that are read in a second by a growing number
of processes, an epoch of training with one and two processes on the CPU, and the start of a training, as far as the
network, on stores of 10, 100 and 1,000 cases. The cases of these stores are tiny, so that the start is measured and not
the disk. The seconds of a start are processor time; the first start makes the thumbnails by which duplicates are found
and compares them, and later ones read the result.
"""

import argparse
import contextlib
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.common.process import set_up_process

if __name__ == "__main__":
    set_up_process(computes=True)  # before torch starts its threads

from benchmarks.common import add_options, interleave, positive, report, start, timed
from benchmarks.input_pipeline import SMALL_MM, make_cases
from benchmarks.trainings import make_step, make_training, random_training
from data.cases.case import write_case
from data.cases.store import digest, read_store
from data.common.errors import InputError, command
from data.common.files import REPOSITORY
from data.common.records import CHECKSUM, checksum
from data.duplicates.leaks import check_leaks, find_inseparable_pairs
from data.samples import patch_shape
from data.scans.grid import Grid
from data.splits.frozen import frozen_splits
from data.splits.split import centres_with, choose_splits
from engine.stages import STAGES, Stage
from engine.train.loader import read_batches
from engine.train.options import parse
from engine.train.plan import plan_split

STAGE = STAGES["tumor_fine"]
WORKERS = (0, 1, 2, 4)
STORES = (10, 100, 1_000)
CASE_SHAPE, CASE_MM = (10, 22, 26), (3.0, 2.0, 2.0)
CENTRES = ("east", "north", "west")


def measure_sizes(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Time the step with boxes and batches of growing size, the smallest first: the peak is that of the last."""
    whole = (16, 16, 16) if args.tiny else patch_shape(STAGE.sampling) if device.type == "cuda" else (32, 64, 80)
    halves = tuple(max(8, side // 16 * 8) for side in whole)
    doubled = (2 * whole[0], *whole[1:])
    sizes = [(halves, 1), (halves, 2), (whole, 1), (whole, 2), *([] if args.tiny else [(doubled, 2), (doubled, 4)])]
    rows = []
    for shape, batch in sizes:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        training, samples = random_training(STAGE, device, shape, width=args.width, batch_size=batch)

        def step() -> object:
            return make_step(training, samples, 0)  # noqa: B023

        timing = interleave({"step": timed(step, device, args.clock)}, args.repeats)["step"]
        voxels = batch * int(np.prod(shape))
        rows.append(
            {
                "box": " x ".join(map(str, shape)),
                "batch": batch,
                "s": timing.median,
                "voxels/s": voxels / timing.median,
                "peak GB": peak_bytes(device) / 1e9,
            }
        )
    return rows


def peak_bytes(device: torch.device) -> int:
    """Return the largest memory that tensors took on a GPU, or that this process took on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):  # Linux counts the memory of the parent process in ru_maxrss
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_workers(args: argparse.Namespace, device: torch.device, folder: Path) -> list[dict[str, Any]]:
    """Count the boxes that are read in a second, without any training."""
    cases = make_cases(folder / "phantoms", 3, "small")
    cases = [*cases] * (2 if args.tiny else 16)
    stage = replace(STAGE, sampling=replace(STAGE.sampling, target_mm=SMALL_MM))
    works = {}
    for workers in WORKERS[:2] if args.tiny else WORKERS:
        loader = make_training(stage, device, cases, folder, width=8, batch_size=2, workers=workers).loader
        works[str(workers)] = timed(lambda loader=loader: list(read_batches(loader)), torch.device("cpu"))
    timings = interleave(works, args.repeats)
    return [
        {"workers": int(workers), "boxes/s": len(cases) / timing.median, "ms a box": 1e3 * timing.median / len(cases)}
        for workers, timing in timings.items()
    ]


def measure_processes(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Train on the CPU with one and with two processes of torchrun, with one thread each, at the same batch."""
    make_cases(folder / "phantoms", 3 if args.tiny else 24, "small")
    options = ["--store", str(folder / "phantoms"), "--data", "none", "--gpu", "cpu", "--quiet", "--workers", "0"]
    options += ["--width", "8", "--batch-size", "2", "--epochs", "3", "--validate-every", "3"]
    options += ["--target-mm", "9,9,9" if args.tiny else "3,3,3"]
    rows: list[dict[str, Any]] = []
    for count in (1, 2):
        checkpoints = folder / f"by_{count}"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        script = str(REPOSITORY / STAGE.script_path("train"))
        command = [*torchrun, script, *options, "--path", str(checkpoints)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        (table,) = checkpoints.glob("*/none/*/losses.csv")
        with table.open(newline="") as file:
            seconds = float([*csv.DictReader(file)][1]["seconds"])  # of an epoch without validation
        rows.append(
            {"processes": count, "s an epoch": seconds, "x one": rows[0]["s an epoch"] / seconds if rows else 1}
        )
    return rows


def fill_store(store: Path, count: int) -> None:
    """Write so many tiny cases of noise, in three centres; a case that is there stays."""
    label = np.zeros(CASE_SHAPE, np.uint8)
    label[2:8, 6:14, 6:20], label[4:6, 8:11, 9:13] = 1, 2

    def noise(index: int) -> np.ndarray:
        return np.random.default_rng(index).normal(40, 20, CASE_SHAPE).astype(np.int16)

    first = store / CENTRES[0] / "case00000"
    if not first.exists():
        grid = Grid.plain(CASE_SHAPE, CASE_MM)
        write_case(store, CENTRES[0], first.name, noise(0), label, patient="0", spacing=CASE_MM, grid=grid, source={})
    manifest = json.loads((first / "case.json").read_text())
    for index in range(1, count):
        centre, name = CENTRES[index % len(CENTRES)], f"case{index:05d}"
        folder = store / centre / name
        if folder.exists():
            continue
        folder.mkdir(parents=True)
        np.save(folder / "image.npy", noise(index))
        os.link(first / "label.npy", folder / "label.npy")
        own = {**manifest, "centre": centre, "name": name, "patient": str(index), "files": {}}
        del own[CHECKSUM]
        (folder / "case.json").write_text(json.dumps(own | {CHECKSUM: checksum(own)}, indent=1))


def plan_training(stage: Stage, store: Path) -> None:
    """Do what a training does before its network is built, and print the memory in bytes that it took.

    The cases are read, the splits are chosen and checked, and the cases of each are hashed for its checkpoints.
    """
    options = parse(stage, ["--store", str(store)])
    centres = read_store(store)
    splits = choose_splits(frozen_splits(store, centres), None, centres_with(centres, stage.sampling.target))
    pairs = find_inseparable_pairs(splits, chain(*centres.values()))
    for split in splits:
        plan = plan_split(stage, split, centres)
        check_leaks(split, pairs)
        options.recipe(plan.train_cases)
        digest([*plan.train_cases, *plan.validation_cases])
    print(peak_bytes(torch.device("cpu")))


def start_training(stage: Stage, store: Path) -> tuple[float, float]:
    """Start a training in a process of its own, as ``plan_training``; return its processor time in s and memory in MB.

    Raises:
        InputError: If it fails.
    """
    code = "import sys; from benchmarks import scaling; "
    code += "scaling.plan_training(scaling.STAGES[sys.argv[1]], scaling.Path(sys.argv[2]))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(
        [sys.executable, "-c", code, stage.name, str(store)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        problem = f"no training can be planned on it: {process.stderr[-500:]}"
        raise InputError(store, problem, "look at what it says")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, int(process.stdout.split()[-1]) / 1e6


def measure_stores(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Start a training on stores of growing size, for the first time and again."""
    rows = []
    for count in args.stores:
        store = folder / f"store_{count}"  # the splits of a store are those of its cases
        fill_store(store, count)
        first, first_memory = start_training(STAGE, store)
        later, memory = start_training(STAGE, store)
        rows.append(
            {
                "cases": count,
                "first start s": first,
                "its peak MB": first_memory,
                "later start s": later,
                "peak MB": memory,
            }
        )
    return rows


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--width", type=positive, metavar="INT", default=8, help="channels at full resolution (default: %(default)s)")
    add(
        "--stores",
        type=positive,
        nargs="+",
        metavar="INT",
        default=list(STORES),
        help="cases in the store (default: 10 100 1000)",
    )
    add_options(parser, repeats=3)
    args = parser.parse_args(argv)
    device = start(args)
    if args.tiny:
        args.stores = [6]
    args.stores.sort()
    tables = {"Size of a step": measure_sizes(args, device)}
    with tempfile.TemporaryDirectory() as folder:
        tables["Reading boxes"] = measure_workers(args, device, Path(folder))
        tables["Processes"] = measure_processes(args, Path(folder))
        tables["Start of a training"] = measure_stores(args, Path(folder))
    report(args, device, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
