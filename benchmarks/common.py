"""What the benchmarks share: options, interleaved timing, the machine they ran on, and how figures are shown and kept.

Pieces of work that are compared take turns (a, b, a, b, ...), so that whatever else the machine does, and the clock
frequency it allows itself, meets all of them alike. Ratios are therefore more reliable than the times themselves.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from data.common.errors import InputError
from data.common.files import REPOSITORY, replacing

Work = Callable[[], float]  # does its work once and returns the seconds that this took
Row = Mapping[str, Any]  # of a table: cells by column

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
MATRIX_SIDES = {"cpu": 2048, "cuda": 8192}
WIDE_CONVOLUTION = {"cpu": (128, (16, 32, 40)), "cuda": (256, (64, 64, 64))}  # channels, shape
PACKAGES = ("torch", "numpy", "scipy")


class Timing(NamedTuple):
    """The seconds of several runs of one piece of work.

    Attributes:
        median: Their median.
        least: The shortest run, which other programs on the machine have disturbed least.
        mean: Their mean, for work that differs from run to run because it is drawn at random.
        runs: Their number.
    """

    median: float
    least: float
    mean: float
    runs: int


def add_shape(parser: argparse.ArgumentParser, default: Sequence[int]) -> None:
    """Add ``--shape``, the sides of the volume that a benchmark works on."""
    parser.add_argument(
        "--shape",
        type=positive,
        nargs=3,
        metavar=("D", "H", "W"),
        default=tuple(default),
        help=f"sides of the volume in voxels (default: {' '.join(map(str, default))})",
    )


def add_options(parser: argparse.ArgumentParser, *, repeats: int) -> None:
    """Add the options of every benchmark; ``repeats`` is the default of ``--repeats``."""
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: %(default)s)")
    add("--tiny", action="store_true", help="rehearse on the smallest sizes in seconds; the figures mean nothing")
    add("--json", type=Path, metavar="FILE", help="also write the tables, the machine and the versions to this file")
    add("--repeats", type=positive, default=repeats, metavar="INT", help="timed runs of each (default: %(default)s)")
    add("--threads", type=positive, metavar="INT", help="threads of torch (default: as torch chooses)")
    add(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="cpu counts the processor time of this process instead, for a machine that is shared with other work; "
        "with more than one --threads it adds them up (default: %(default)s)",
    )


def positive(text: str) -> int:
    """Read a positive whole number of the command line."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def start(args: argparse.Namespace) -> torch.device:
    """Prepare this process as the options of ``add_options`` say and return the device.

    Raises:
        InputError: If the device does not exist, or its work cannot be timed by the clock.
    """
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda", "this machine has no GPU that torch can use", "give --device cpu")
    if args.device == "cuda" and args.clock == "cpu":
        raise InputError("--clock cpu", "does not count the time of a GPU", "give --clock wall")
    if args.tiny:
        args.repeats = min(args.repeats, 2)
    if args.threads:
        torch.set_num_threads(args.threads)
    return torch.device(args.device)


def timed(work: Callable[[], object], device: torch.device, clock: str = "wall") -> Work:
    """Make a piece of work return its seconds; on a GPU until the GPU has finished.

    Several processes share the memory of a GPU here. Each run therefore leaves none of it allocated, and does its work
    once before it is timed, so that the allocator does not count.
    """
    on_gpu = device.type == "cuda"

    def run() -> float:
        if on_gpu:
            work()
        wait_for(device)
        begin = CLOCKS[clock]()
        work()
        wait_for(device)
        seconds = CLOCKS[clock]() - begin
        if on_gpu:
            torch.cuda.empty_cache()
        return seconds

    return run


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleave(works: Mapping[str, Work], repeats: int, warm_up: int = 1) -> dict[str, Timing]:
    """Time several pieces of work in turns.

    Args:
        works: By name.
        repeats: Timed runs of each.
        warm_up: Runs of each before them, which do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-warm_up, repeats):
        for name, work in works.items():
            took = work()
            if turn >= 0:
                seconds[name].append(took)
    return {
        name: Timing(statistics.median(runs), min(runs), statistics.fmean(runs), repeats)
        for name, runs in seconds.items()
    }


def measure_peaks(device: torch.device, dtype: torch.dtype, clock: str, *, tiny: bool = False) -> dict[str, float]:
    """Measure how many operations a second the machine reaches, the fastest of five runs.

    Args:
        device: Where.
        dtype: Of the operands.
        clock: A name in CLOCKS.
        tiny: For a rehearsal.

    Returns:
        Multiplications and additions a second of the product of two large matrices ("matrix"), and of a 3 x 3 x 3
        convolution of many channels, forward and backward ("convolution"). Some processors multiply matrices slowly, as
        the library that does it was made for another brand.
    """
    side = 128 if tiny else MATRIX_SIDES[device.type]
    matrix = torch.randn(side, side, device=device).to(dtype)
    product = timed(lambda: matrix @ matrix, device, clock)
    channels, shape = (8, (8, 8, 8)) if tiny else WIDE_CONVOLUTION[device.type]
    convolve = timed(wide := convolution(2, channels, shape, device, dtype), device, clock)
    seconds = interleave({"matrix": product, "convolution": convolve}, repeats=5)
    return {
        "matrix": 2 * side**3 / seconds["matrix"].least,
        "convolution": count_operations(wide) / seconds["convolution"].least,
    }


def convolution(
    images: int, channels: int, shape: Sequence[int], device: torch.device, dtype: torch.dtype
) -> Callable[[], object]:
    """Return forward and backward pass of a 3 x 3 x 3 convolution between equally many channels, channels last."""
    x = torch.randn(images, channels, *shape, device=device).to(dtype)
    weight = torch.randn(channels, channels, 3, 3, 3, device=device).to(dtype)
    x, weight = (t.contiguous(memory_format=torch.channels_last_3d).requires_grad_() for t in (x, weight))
    gradient = torch.randn_like(x)
    return lambda: torch.autograd.grad(F.conv3d(x, weight, padding=1), (x, weight), gradient)


def count_operations(work: Callable[[], object]) -> int:
    """Count the multiplications and additions of the convolutions and matrix products in a piece of work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures depend on: processor, GPU, threads, load, versions, and the commit of this code."""
    commit = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    try:
        said = subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        said = "unknown"  # without git, or in a copy of the files without their history
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),  # of the last minute, with that of this benchmark itself
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": said,
    }


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def report(
    args: argparse.Namespace,
    device: torch.device,
    tables: Mapping[str, Sequence[Row]],
    peers: Mapping[str, str] | None = None,
) -> None:
    """Print the tables with the machine that they were measured on, and write them to the file of ``--json``.

    Args:
        args: The options of the benchmark.
        device: Where it computed.
        tables: Rows by the title of their table.
        peers: Versions of the packages that were compared with.
    """
    machine = describe_machine(device) | {"peers": dict(peers or {})}
    for title, rows in tables.items():
        print(f"\n{title}\n{format_table(rows)}")
    where = f"{machine['gpu'] or machine['processor']}, {machine['threads']} threads, load {machine['load']}"
    versions = ", ".join(f"{name} {version}" for name, version in {"torch": machine["torch"], **(peers or {})}.items())
    print(f"\n{where}; {args.clock} clock; {versions}" + ("; a rehearsal, no figures" if args.tiny else ""))
    if args.json:
        options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        record = {
            "options": options,
            "machine": machine,
            "tables": {title: list(rows) for title, rows in tables.items()},
        }
        with replacing(args.json) as unfinished:
            unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def format_table(rows: Sequence[Row]) -> str:
    """Align the cells of a table; numbers get three significant digits, and what is missing a dash."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, *([format_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    texts = [any(isinstance(row.get(column), str) for row in rows) for column in columns]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, texts, strict=True)
        ).rstrip()
        for line in lines
    )


def format_cell(value: object) -> str:
    """Return a cell of a table as text."""
    if value is None:
        return "-"
    if isinstance(value, float):
        if value and abs(value) < 1e-3:
            return f"{value:.1e}"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
