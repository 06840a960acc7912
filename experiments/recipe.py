"""What does each part of the recipe gain, and what does it cost?

    python experiments/recipe.py OUT --store STORE --data CENTRE

Every arm changes the baseline, a narrow network that is trained for few steps, by one thing. It is trained with several
seeds by the ordinary training script, without the held-out centre, and judged by its best Dice on the validation cases
of the training centres. The table is printed and written to OUT/<stage>.csv. Arms that are trained already are not
trained again, and an interrupted one goes on.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.cases.options import add_store
from data.common.errors import EXIT_BAD_INPUT, command
from data.common.progress import progress_bar
from engine.checkpoint import list_runs
from engine.stages import STAGES, Stage
from experiments.common import train_in

BASELINE = "baseline"
# The network and the grey values of the release at the rate of the first studies: 512 steps at 64 training cases.
COMMON = (
    *("--width", "8", "--workers", "0", "--lr", "2e-3", "--epochs", "8", "--validate-every", "4"),
    *("--head-input", "raw", "--warm-up", "0", "--optimiser", "adam", "--weight-decay", "5e-4", "--ema-decay", "0"),
    *("--groups", "8", "--leak", "0", "--weight", "deep=0", "--batch-size", "1"),
    *("--sampling", "target_mm=3,3,3", "--augment", "grey_probability=0", "--augment", "inverted_gamma=0"),
    *("--augment", "low_resolution_probability=0"),
)
ARMS: dict[str, tuple[str, ...]] = {
    BASELINE: (),
    "twice the steps": ("--epochs", "16", "--validate-every", "8"),
    "rate 1e-4": ("--lr", "1e-4"),
    "rate 5e-4": ("--lr", "5e-4"),
    "rate 1e-3": ("--lr", "1e-3"),
    "rate 4e-3": ("--lr", "4e-3"),
    "normalised heads": ("--head-input", "normalised"),
    "warm-up": ("--warm-up", "0.05"),
    "AdamW": ("--optimiser", "adamw", "--weight-decay", "1e-2"),
    "average of the weights": ("--ema-decay", "0.99"),
    "grey values of nnU-Net": ("--augment", "grey_probability=0.15", "--augment", "inverted_gamma=0.25"),
    "loss of resolution": ("--augment", "low_resolution_probability=0.25"),
    "deep supervision": ("--weight", "deep=0.75"),
    "batch of 2": ("--batch-size", "2", "--epochs", "16", "--validate-every", "8"),
    "leaky ReLU": ("--leak", "0.01"),
    "4 channels a group": ("--groups", "2"),
    "all channels in a group": ("--groups", "1"),
}


def train(stage: Stage, arm: str, seed: int, folder: Path, options: Sequence[str]) -> None:
    """Train one arm with one seed, or finish it.

    Raises:
        InputError: If the script fails.
    """
    negatives = () if stage.segments_pancreas else ("--negatives", "0")
    train_in(folder, stage, [*COMMON, *negatives, *ARMS[arm], "--seed", str(seed), *options])


def read_run(stage: Stage, folder: Path, split: str) -> tuple[float, float]:
    """Return the best validation Dice of a finished run, and the seconds that its steps took without validation."""
    with (list_runs(folder, stage, split)[-1] / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    dice = [float(value) for row in rows for name, value in row.items() if name.startswith("validation_dice") and value]
    epoch = np.median([float(row["seconds"]) for row in rows if not row["validation_dice"]])
    return max(dice), len(rows) * float(epoch)


def summarise(dice: np.ndarray, seconds: np.ndarray) -> dict[str, str]:
    """Return the cells of an arm in the table."""
    spread = dice.std(ddof=1) if len(dice) > 1 else float("nan")
    return {
        "seeds": str(len(dice)),
        "dice": f"{dice.mean():.3f}",
        "deviation": f"{spread:.3f}",
        "seconds": f"{seconds.mean():.0f}",
    }


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train all arms and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the runs and the table")
    parser.add_argument(
        "--stage", choices=tuple(STAGES), default="pancreas_fine", help="stage to train (default: pancreas_fine)"
    )
    parser.add_argument("--data", required=True, metavar="CENTRE", help="the centre that is held out")
    parser.add_argument(
        "--arms", nargs="+", choices=tuple(ARMS), default=tuple(ARMS), metavar="ARM", help="only these (default: all)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=(1, 2, 3), metavar="INT", help="seeds (default: 1 2 3)")
    parser.add_argument("--jobs", type=int, default=2, metavar="INT", help="trainings at the same time (default: 2)")
    add_store(parser)
    args = parser.parse_args(argv)
    stage = STAGES[args.stage]
    runs = [(arm, seed, args.out / arm.replace(" ", "_") / f"seed_{seed}") for seed in args.seeds for arm in args.arms]
    options = ("--store", str(args.store), "--data", args.data)
    faults = []
    with ThreadPoolExecutor(args.jobs) as pool, progress_bar(total=len(runs), title="recipe", unit="run") as bar:
        for future in as_completed(
            [pool.submit(train, stage, arm, seed, folder, options) for arm, seed, folder in runs]
        ):
            if error := future.exception():
                faults.append(error)
            bar.update()
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if faults:
        return EXIT_BAD_INPUT
    with (args.out / f"{stage.name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("arm", "seeds", "dice", "deviation", "seconds"), lineterminator="\n")
        writer.writeheader()
        for arm in args.arms:
            results = [read_run(stage, folder, args.data) for name, _, folder in runs if name == arm]
            row = {"arm": arm, **summarise(*np.array(results).T)}
            writer.writerow(row)
            print("  ".join(f"{cell:<26}" if column == "arm" else f"{cell:>6}" for column, cell in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
