"""A small world in which commands are run to be disturbed: two centres, and every long command on them.

Commands run in processes of a fork server that has imported torch already, so that a process starts in
milliseconds and can be disturbed hundreds of times.
"""

import csv
import functools
import json
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import torch

from data.common.process import set_up_process
from data.prepare import command as prepare
from data.scans.volume import check_file, write_lps
from engine.evaluate import stage as evaluate
from engine.infer import predict
from engine.stages import STAGES
from engine.study import command as study
from engine.train import command as train
from tests.fire.faults import build_library

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__])
SPACING = (3.0, 2.5, 2.5)
STAGE = "pancreas_coarse"
NARROW = ["--width", "8", "--lr", "5e-3", "--gpu", "cpu", "--sampling", "target_mm=3,2.5,2.5"]
RUN = re.compile(r"\d{4}(_\d{2}){5}")
VOLATILE = ("seconds", "date", "started")  # columns and keys that tell when or how fast, not what


@dataclass(frozen=True)
class Job:
    """A command to disturb.

    Attributes:
        name: For messages.
        run: Runs it into the folder and returns its exit code; called again, it goes on.
        start: Makes the folder as it is before the command.
    """

    name: str
    run: Callable[[Path], int]
    start: Callable[[Path], None]


def write_scans(root: Path) -> None:
    """Write the scans of two centres, and one that belongs to none."""
    for number, (centre, name) in enumerate(
        [*((c, f"scan{i}") for c in ("west", "east") for i in range(3)), ("unseen", "new")]
    ):
        rng = np.random.default_rng(number)
        label = np.zeros((16, 32, 32), np.uint8)
        z, y, x = rng.integers((2, 4, 4), (4, 8, 8))
        label[z : z + 10, y : y + 16, x : x + 16] = 1
        label[z + 2 : z + 7, y + 3 : y + 11, x + 4 : x + 12] = 2
        image = (rng.normal(0, 12, label.shape) + 180 * (label > 0) - 120 * (label == 2)).astype(np.int16)
        write_lps(root / centre / "images" / f"{name}.nii.gz", image, SPACING)
        write_lps(root / centre / "labels" / f"{name}.nii.gz", label, SPACING)


def make_jobs(root: Path) -> dict[str, Job]:
    """Write the scans, prepare and train on them once, and return the commands to disturb."""
    raw, store, checkpoints = root / "raw", root / "store", root / "checkpoints"
    write_scans(raw)
    for centre in ("west", "east"):
        assert _prepare(raw, store, centre, workers=1) == 0
    for stage in STAGES:
        places = ["--store", str(store), "--path", str(checkpoints), "--data", "east"]
        assert train.main(stage, [*NARROW, *places, "--epochs", "20", "--workers", "0"]) == 0

    def copy_store(folder: Path) -> None:
        shutil.copytree(store, folder / "store")

    def copy_models(folder: Path) -> None:
        copy_store(folder)
        shutil.copytree(checkpoints, folder / "checkpoints")

    jobs = [
        Job("prepare", partial(_prepare_into, raw), lambda folder: None),
        Job("train", partial(_train_into, 0), copy_store),
        Job("train with a loader process", partial(_train_into, 1), copy_store),
        Job("evaluate", _evaluate_into, copy_models),
        Job("predict", partial(_predict_into, raw), copy_models),
        Job("study", _study_into, copy_store),
    ]
    return {job.name: job for job in jobs}


def _prepare(raw: Path, store: Path, centre: str, workers: int) -> int:
    argv = ["folder", str(raw / centre), "--centre", centre, "--store", str(store), "--workers", str(workers)]
    return prepare.main(argv)


def _prepare_into(raw: Path, folder: Path) -> int:
    return max(_prepare(raw, folder / "store", centre, workers=2) for centre in ("west", "east"))


def _places(folder: Path) -> list[str]:
    return ["--store", str(folder / "store"), "--path", str(folder / "checkpoints"), "--data", "east"]


def _train_into(workers: int, folder: Path) -> int:
    more = ["--epochs", "6", "--validate-every", "2", "--workers", str(workers), "--resume"]
    return train.main(STAGE, [*NARROW, *_places(folder), *more])


def _evaluate_into(folder: Path) -> int:
    return max(evaluate.main(stage, [*_places(folder), "--gpu", "cpu"]) for stage in STAGES)


def _predict_into(raw: Path, folder: Path) -> int:
    scans = [str(path) for path in sorted(raw.glob("*/images/*.nii.gz"))[:4]]
    places = ["--path", str(folder / "checkpoints"), "--data", "east"]
    return predict.main([*scans, "-o", str(folder / "out"), *places, "--gpu", "cpu"])


def _study_into(folder: Path) -> int:
    more = ["--stage", STAGE, "--variants", "baseline", "full", "--centres", "east", "--jobs", "1", "--epochs", "2"]
    return study.main(["run", str(folder / "study"), "--store", str(folder / "store"), *NARROW, *more])


def begin(job: Job, folder: Path, log: Path, before: Callable[[], None] | None = None) -> ForkServerProcess:
    """Start a job in a process and a session of its own; its output is appended to ``log``.

    Args:
        job: The job.
        folder: Where it works.
        log: File for its output.
        before: Called in its process first.
    """
    _start_server()
    process = SERVER.Process(target=_perform, args=(job.run, folder, log, before))
    process.start()
    return process


@functools.cache
def _start_server() -> None:
    """Start the fork server with the library that makes file operations fail when it is asked to."""
    earlier, library = os.environ.get("LD_PRELOAD"), build_library()
    if library:
        os.environ["LD_PRELOAD"] = str(library)
    try:
        forkserver.ensure_running()
    finally:
        if library:
            os.environ.pop("LD_PRELOAD")
        if earlier is not None:
            os.environ["LD_PRELOAD"] = earlier


def _perform(run: Callable[[Path], int], folder: Path, log: Path, before: Callable[[], None] | None) -> None:
    os.setsid()
    set_up_process(computes=True)
    torch.set_num_threads(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that it starts
    if before is not None:
        before()
    os._exit(run(folder))


def measure(job: Job, folder: Path) -> float:
    """Run a job undisturbed in a new folder and return its seconds."""
    folder.mkdir()
    job.start(folder)
    start = time.monotonic()
    process = begin(job, folder, folder / "log.txt")
    process.join()
    assert process.exitcode == 0, (folder / "log.txt").read_text()
    return time.monotonic() - start


def snapshot(folder: Path) -> dict[str, object]:
    """Read all results in a folder; two snapshots are equal if the results are, to the last bit.

    The names of run folders, the folder itself, dates and durations are taken out, and so are event files of
    TensorBoard, locks, and the thumbnails and pictures, of which only the names count.
    """
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = RUN.sub("RUN", str(path.relative_to(folder)))
        if not path.is_file() or path.name.startswith((".lock", "events.out")) or path.suffix in (".log", ".txt"):
            continue
        assert ".unfinished" not in name, f"{path} was left behind"
        found[name] = read_whole(path, folder)
    return found


def read_whole(path: Path, folder: Path) -> object:
    """Read a result so that two equal results are equal objects; raises if the file is not whole."""
    if path.suffix == ".pt":
        return _plain(torch.load(path, weights_only=True))
    if path.suffix == ".npy":
        return np.load(path).tobytes()
    if path.suffix == ".npz":
        return {key: value.tobytes() for key, value in np.load(path).items()}
    if path.name.endswith(".nii.gz"):
        check_file(path)
        return path.read_bytes()
    if path.suffix == ".csv":
        rows = list(csv.DictReader(path.open()))
        assert rows and not any(None in row or None in row.values() for row in rows), f"{path} is not whole"
        return [{key: value for key, value in row.items() if key not in VOLATILE} for row in rows]
    if path.suffix == ".png":
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG") and content[-8:-4] == b"IEND", f"{path} is not whole"
        return None
    text = RUN.sub("RUN", path.read_text().replace(str(folder), "FOLDER"))
    if path.suffix == ".json":
        return _lasting(json.loads(text))
    return [line for line in text.splitlines() if not line.strip().startswith(VOLATILE)]


def _plain(content: object) -> object:
    """Replace the tensors in nested dicts and lists by their bytes, which can be compared."""
    if isinstance(content, torch.Tensor):
        return str(content.dtype), tuple(content.shape), content.contiguous().numpy().tobytes()
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    return [_plain(value) for value in content] if isinstance(content, list | tuple) else content


def _lasting(content: object) -> object:
    """Leave the volatile keys out of nested dicts."""
    if isinstance(content, dict):
        return {key: _lasting(value) for key, value in content.items() if key not in VOLATILE}
    return [_lasting(value) for value in content] if isinstance(content, list) else content


def check_nothing_half_written(folder: Path) -> None:
    """Read every file of a disturbed folder that a reader would take for a result."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and not path.name.startswith("events.out"):
            if path.suffix in (".log", ".txt", ".yaml"):
                continue
            read_whole(path, folder)
