"""Record where the time of some steps goes, with torch's profiler."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

UNRECORDED = 10  # steps before; the first ones compile and allocate
ROWS = 30  # operations in the table


@contextlib.contextmanager
def profiling(folder: Path, steps: int, device: torch.device) -> Iterator[Callable[[], None]]:
    """Record steps of a training in ``profile.json``, for https://ui.perfetto.dev, and as a table in ``profile.txt``.

    Args:
        folder: Of the run.
        steps: How many to record, after some that are not; 0 for none.
        device: Where the network is.

    Yields:
        A function to call after every step.
    """
    if steps == 0:
        yield lambda: None
        return
    on_gpu = device.type == "cuda"

    made = 0

    def count_and_record() -> None:
        nonlocal made
        made += 1
        recording.step()

    def write(recorded: profile) -> None:
        if made < UNRECORDED + steps:
            print(f"note: the training ended before {steps} steps could be recorded after the first {UNRECORDED}")
            return
        table = recorded.key_averages().table(f"self_{device.type}_time_total", row_limit=ROWS)
        (folder / "profile.txt").write_text(f"{steps} steps\n{table}\n")
        recorded.export_chrome_trace(str(folder / "profile.json"))
        print(f"{steps} steps recorded in {folder / 'profile.txt'} and profile.json")

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    plan = schedule(wait=UNRECORDED - 2, warmup=2, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as recording:
        yield count_and_record
