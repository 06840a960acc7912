"""Try everything that needs a GPU in one go, on a machine that is there for some minutes only.

    python benchmarks/gpu_session.py FOLDER [--peers PYTHON]
    python benchmarks/gpu_session.py FOLDER --device cpu --tiny       (a rehearsal)

It runs the GPU tests, the training step beside its plain form, a short training of each stage with a profile, and the
other benchmarks; with --peers, the step of tumour fine and the inference beside nnU-Net.
Every part writes its output to a file of its own in FOLDER; a part that fails or takes too long does not stop the
others, and FOLDER/summary.txt says how each has ended.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers.process import DEFAULT_PEERS
from data.common.errors import EXIT_BAD_INPUT, command
from data.common.files import REPOSITORY, make_folder
from engine.stages import STAGES

TIME_LIMIT_S = 480.0
LEAST_S = 10.0  # in which a part is worth starting


class Part(NamedTuple):
    """A part of the session: a command of this interpreter, and the seconds that it may take."""

    name: str
    arguments: Sequence[str]
    limit_s: float


def list_parts(folder: Path, device: str, tiny: bool, peers: str = "none") -> list[Part]:
    """Return the parts in the order in which they are run."""
    gpu = "cpu" if device == "cpu" else "0"
    sizes = ["--tiny"] if tiny else []
    scans = ["--prepared", "--cases", "3", "--size", "small" if tiny else "full", "--centres", "north", "south"]
    scans += ["--workers", str(min(6, os.cpu_count() or 1))]
    train = ["--store", str(folder / "scans"), "--path", str(folder / "checkpoints"), "--data", "none", "--gpu", gpu]
    train += ["--epochs", "8", "--validate-every", "8", "--profile", "5"]
    train += ["--width", "8", "--target-mm", "8,8,8", "--workers", "0"] if tiny else []

    def benchmark(script: str, limit_s: float, *options: str, name: str = "") -> Part:
        output = ["--device", device, *sizes, "--json", str(folder / f"{name or script}.json")]
        return Part(name or script, [f"benchmarks/{script}.py", *output, *options], limit_s)

    step = ["--width", "32", "--repeats", "3", "--stages"]
    beside = benchmark("training_step", 100, "--peers", peers, *step, "tumor_fine", name="beside_nnunet")
    stages = [name for name in STAGES if peers == "none" or name != "tumor_fine"]
    parts = [
        Part("machine", ["-m", "torch.utils.collect_env"], 20),
        Part("tests", ["-m", "pytest", "tests/test_gpu.py", "-v", "--durations=0", "-p", "no:cacheprovider"], 100),
        beside if peers != "none" else None,
        benchmark("training_step", 120, "--peers", "none", *step, *stages),
        Part("memory", ["benchmarks/memory.py", "--measure", "--gpu", gpu], 40) if device == "cuda" else None,
        Part("scans", ["-m", "data.phantom", str(folder / "scans"), *scans], 40),
        *(Part(stage.name, [str(stage.script_path("train")), *train], 60) for stage in STAGES.values()),
        benchmark("inference", 80, "--peers", peers),
        benchmark("signed_distance", 20, "--peers", "none"),
        benchmark("augmentation", 20, "--peers", "none"),
        benchmark("input_pipeline", 60),
    ]
    return [part for part in parts if part]


def run_part(part: Part, folder: Path, limit_s: float) -> str:
    """Run a part and return how it has ended, in a few words."""
    with (folder / f"{part.name}.log").open("w") as log:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TRITON_CACHE_DIR": str(folder / "compiled")}
        process = subprocess.Popen(
            [sys.executable, *part.arguments],
            cwd=REPOSITORY,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started, which hold the GPU
            process.wait()
            return "took too long"
    return "done" if code == 0 else f"failed with exit code {code}"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts one after the other.

    Returns:
        The exit code: 2 if a part failed, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="gets all output")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="where to compute (default: %(default)s)"
    )
    parser.add_argument("--tiny", action="store_true", help="rehearse on the smallest sizes")
    parser.add_argument(
        "--peers",
        metavar="PYTHON",
        default=str(DEFAULT_PEERS) if DEFAULT_PEERS.exists() else "none",
        help="interpreter that has nnU-Net, or none (default: %(default)s)",
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        default=TIME_LIMIT_S,
        help="for all parts together (default: %(default)g)",
    )
    args = parser.parse_args(argv)
    folder = args.folder.absolute()
    make_folder(folder)
    begin, lines = time.monotonic(), []
    for part in list_parts(folder, args.device, args.tiny, args.peers):
        start = time.monotonic()
        left_s = args.time_limit - (start - begin)
        ended = run_part(part, folder, min(part.limit_s, left_s)) if left_s > LEAST_S else "left out, no time"
        lines.append(f"{part.name:<16}{time.monotonic() - start:7.1f} s  {ended}")
        print(lines[-1], flush=True)
        (folder / "summary.txt").write_text("\n".join(lines) + "\n")
    return 0 if all(line.endswith("done") for line in lines) else EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
