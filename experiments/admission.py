"""Which domains of the bench can tell whether a method generalises?

    python -m experiments.admission OUT --store BENCH [--steps 5000] [--seeds 1] [-- OPTIONS OF THE TRAINING]

Trains the baseline in the domains of the training with the ordinary script (tumour coarse around the gland, on voxels
of 2 mm), and segments the same patients in every domain, those of the validation part, so that the test part stays
unseen. A held-out domain is admitted if it passes both conditions:

- the gap: in-domain less held-out Dice of the same patients is at least 0.10, where in-domain is the domain of the
  training from which the held-out one differs in one thing;
- the contrast: segmented without its lesion, the same scan loses at least half of the in-domain Dice. A network that
  knows only where lesions tend to lie outlines the same region in the lesion-free twin, which lacks nothing else.

The table is printed and written to OUT/admission.csv. An interrupted call goes on with the same command.
"""

import argparse
import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.cases.case import Case
from data.cases.options import add_store
from data.cases.store import digest, read_store
from data.common.errors import InputError, command
from data.common.files import replacing
from data.common.progress import progress
from data.common.records import read_json
from data.splits.frozen import frozen_splits
from data.splits.split import Split, choose_splits
from engine.device import choose_device
from engine.infer.models import StageModel, load_model
from engine.options import add_gpu
from engine.stages import STAGES
from engine.train.options import parse
from engine.train.plan import count_steps, plan_split
from experiments.bench import BENCH, FREE, LESION
from experiments.bench_domains import DOMAINS, HELD_OUT, TRAINING, Domain
from experiments.common import train_in
from experiments.voxel_sizes import Scan, score

STAGE = STAGES["tumor_coarse"]
STEPS = 5000
# A network that trains in 15 minutes of a core. It is validated once, after the last epoch, so that the last weights or
# their average are taken.
OPTIONS = (
    *("--variant", "baseline", "--width", "8", "--workers", "0", "--batch-size", "2", "--lr", "2e-3"),
    *("--ema-decay", "0.99", "--target-mm", "2,2,2", "--sampling", "patch_mm=64,96,96"),
)
LEAST_GAP = 0.10
LEAST_SHARE = 0.5  # of the in-domain Dice that erasing the contrast has to cost
ERASED = "erased"  # ends the key of a scan that was segmented without its lesion


class Verdict(NamedTuple):
    """Whether a held-out domain is admitted.

    Attributes:
        patients: Number of patients who have a Dice in both domains.
        in_domain: Their mean Dice in the domain of the training.
        erased: That of the same scans without the lesion.
        held_out: Their mean Dice in the held-out domain.
        reasons: Why the domain is not admitted; empty if it is.
    """

    patients: int
    in_domain: float
    erased: float
    held_out: float
    reasons: tuple[str, ...]


def judge(in_domain: Sequence[float], erased: Sequence[float], held_out: Sequence[float]) -> Verdict:
    """Apply the two conditions to the Dice of the same patients.

    Args:
        in_domain: Dice of each patient in the domain of the training; NaN if the lesion has no voxel there.
        erased: The same without the lesion.
        held_out: The same in the held-out domain.
    """
    dice = np.array([in_domain, erased, held_out], float)
    dice = dice[:, ~np.isnan(dice).any(axis=0)]
    if not dice.size:
        return Verdict(0, math.nan, math.nan, math.nan, ("no patient has a lesion in both domains",))
    seen, without, new = map(float, dice.mean(axis=1))
    reasons = []
    if seen - new < LEAST_GAP:
        reasons.append(f"the gap is {seen - new:.3f}, not {LEAST_GAP:g} or more")
    if seen - without < LEAST_SHARE * seen or seen == 0:
        reasons.append(f"the contrast of the lesion carries {seen - without:.3f} of {seen:.3f}, less than half")
    return Verdict(dice.shape[1], seen, without, new, tuple(reasons))


def epochs_for(steps: int, options: Sequence[str], split: Split, centres: dict[str, list[Case]]) -> int:
    """Return the smallest number of epochs that makes so many steps."""
    settings = parse(STAGE, [*options, "--epochs", "1"]).training
    return math.ceil(steps / count_steps(plan_split(STAGE, split, centres), settings))


def measure(model: StageModel, centres: Mapping[str, Sequence[Case]], patients: set[str], path: Path) -> dict:
    """Segment the patients in all domains, and return the Dice by the key of the case.

    A domain from which others differ also has the Dice of every lesion where its twin was segmented, under the key with
    ERASED at its end. The results are kept in ``path``, so that an interrupted call goes on with the next domain.

    Raises:
        InputError: If the file cannot be read.
    """
    record = {"sha256": model.sha256, "dice": {}}
    if path.exists():
        try:
            found = read_json(path)
            record = found if found["sha256"] == model.sha256 else record
            dict(record["dice"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(path, f"not the record of an admission ({error!r})", "delete it") from error
    dice = record["dice"]
    bases = {domain.base for domain in HELD_OUT}
    for domain in DOMAINS:
        cases = {case.name: case for case in centres[domain.name] if case.patient in patients}
        lesions = [case for name, case in cases.items() if name.endswith(f"_{LESION}") and case.key not in dice]
        for case in progress(lesions, title=domain.name, unit="case"):
            label = np.asarray(case.label())
            dice[case.key] = score(model, Scan(np.asarray(case.image()), label, case.spacing))
            if domain.name in bases:
                twin = cases[f"{case.patient}_{FREE}"]
                dice[f"{case.key} {ERASED}"] = score(model, Scan(np.asarray(twin.image()), label, case.spacing))
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(record, indent=1))
    return dice


def mean_of_seeds(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean Dice over the trainings, by the key of the case."""
    return {key: float(np.mean([dice[key] for dice in measured])) for key in measured[0]}


def judge_domain(domain: Domain, dice: Mapping[str, float], patients: Sequence[str]) -> Verdict:
    """Apply the two conditions to a held-out domain; patients who are not scanned in it do not count."""

    def column(name: str, end: str = "") -> list[float]:
        return [dice.get(f"{name}/{patient}_{LESION}{end}", math.nan) for patient in patients]

    return judge(column(domain.base), column(domain.base, f" {ERASED}"), column(domain.name))


def describe_training_domains(dice: Mapping[str, float], patients: Sequence[str]) -> str:
    """Return a line with the mean Dice of the patients in each domain of the training."""
    means = {d.name: np.nanmean([dice[f"{d.name}/{patient}_{LESION}"] for patient in patients]) for d in TRAINING}
    return "domains of the training: " + ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())


def format_table(verdicts: Mapping[str, Verdict]) -> str:
    """Write the table of admission."""
    lines = [f"{'domain':<14}{'patients':>9}{'in-domain':>11}{'erased':>8}{'held out':>10}{'gap':>8}  admitted"]
    for name, (patients, seen, without, new, reasons) in verdicts.items():
        said = f"no: {'; '.join(reasons)}" if reasons else "yes"
        lines.append(f"{name:<14}{patients:>9}{seen:>11.3f}{without:>8.3f}{new:>10.3f}{seen - new:>8.3f}  {said}")
    return "\n".join(lines)


def split_command_line(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what stands before the first "--", and what follows it."""
    end = [*words, "--"].index("--")
    return list(words[:end]), list(words[end + 1 :])


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train the baseline, measure it in every domain, and print the table of admission."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the trainings and of the table")
    parser.add_argument(
        "--steps", type=int, default=STEPS, metavar="INT", help="steps of a training (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[1], metavar="INT", help="a training for each; their mean counts"
    )
    add_store(parser)
    add_gpu(parser)
    parser.epilog = f"What follows -- changes the training, by default: {' '.join(OPTIONS)}"
    own, more = split_command_line(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(own)
    if args.steps < 1:
        raise InputError(f"--steps {args.steps}", "fewer than one step", "give 1 or more")
    centres = read_store(args.store)
    if missing := [domain.name for domain in DOMAINS if domain.name not in centres]:
        make = f"python -m experiments.bench {args.store}"
        raise InputError(args.store, f"lacks the domain {missing[0]}, so it is no bench", "make one with", command=make)
    [split] = choose_splits(frozen_splits(args.store, centres, save=False), BENCH)
    options = [*OPTIONS, *more]
    epochs = str(epochs_for(args.steps, options, split, centres))
    options += ["--store", str(args.store), "--data", BENCH, "--epochs", epochs, "--validate-every", epochs]
    validated = set(split.validation)
    patients = sorted({case.patient for cases in centres.values() for case in cases if case.key in validated})
    cases = [case for group in centres.values() for case in group]
    print(f"bench {digest(cases)[:16]}, {len(patients)} validation patients, {epochs} epochs", flush=True)
    measured = []
    for seed in args.seeds:
        folder = args.out / f"seed_{seed}"
        train_in(folder, STAGE, [*options, "--gpu", args.gpu, "--seed", str(seed)])
        model = load_model(folder, STAGE.name, BENCH, choose_device(args.gpu), fast=True, store=args.store)
        measured.append(measure(model, centres, set(patients), folder / "dice.json"))
    dice = mean_of_seeds(measured)
    verdicts = {domain.name: judge_domain(domain, dice, patients) for domain in HELD_OUT}
    with replacing(args.out / "admission.csv") as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("domain", "patients", "in_domain", "erased", "held_out", "gap", "admitted", "reasons"))
        for name, (count, seen, without, new, reasons) in verdicts.items():
            writer.writerow((name, count, seen, without, new, seen - new, not reasons, "; ".join(reasons)))
    print(f"{format_table(verdicts)}\n{describe_training_domains(dice, patients)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
