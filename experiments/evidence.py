"""Does a method generalise better than the baseline? The test of the evidence study, as docs/evidence.md wrote it down.

    python -m experiments.evidence FOLDER [--ours redesigned] [--theirs fair-baseline]

FOLDER holds a study for each admitted domain, FOLDER/NAME of the split "to_NAME" of the bench, each with seeds of its
own: the training cases of all these splits are the same, so that a seed that is used twice makes the same network twice
and its two pairs would count as one. Prints the primary contrast, the held-out Dice, and the secondary outcomes with
p values after Holm. A study that lacks a run or a case is refused, because leaving it out could favour one arm.
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.common.errors import InputError, command
from engine.report.lost import is_missed
from engine.report.side_by_side import format_difference
from engine.report.tables import CaseRow, failed, read_case_table
from engine.stages import MIN_TUMOUR_ML
from engine.statistics import FEWEST_TRAININGS, hierarchical_interval, holm, sign_flip_p
from engine.study.compare import choose_tables, find_trainings
from experiments.bench import FREE, LESION
from experiments.bench_domains import HELD_OUT, Domain

BY_NAME = {domain.name: domain for domain in HELD_OUT}


class Seen(NamedTuple):
    """What one training made of one patient: the rows of the scans by centre and version."""

    rows: Mapping[tuple[str, str], CaseRow]

    def value(self, centre: str, version: str, metric: str) -> float:
        """Return a metric of a scan."""
        return float(self.rows[centre, version].get(metric, math.nan))


Outcome = Callable[[Seen, Domain], float]
PRIMARY = "Dice, held out"
SAFETY = "Dice, in-domain"  # not tested: its interval says whether anything was lost
OUTCOMES: dict[str, Outcome] = {
    PRIMARY: lambda seen, domain: seen.value(domain.name, LESION, "dice"),
    "gap in Dice": lambda seen, domain: (
        seen.value(domain.base, LESION, "dice") - seen.value(domain.name, LESION, "dice")
    ),
    "missed lesions": lambda seen, domain: float(is_missed(seen.rows[domain.name, LESION])),
    "false positives in twins": lambda seen, domain: float(
        seen.value(domain.name, FREE, "prediction_ml") >= MIN_TUMOUR_ML
    ),
    "NSD 2 mm, held out": lambda seen, domain: seen.value(domain.name, LESION, "nsd_2mm"),
    SAFETY: lambda seen, domain: seen.value(domain.base, LESION, "dice"),
}

Arm = dict[int, dict[str, Seen]]  # by seed and patient


class Domains(NamedTuple):
    """The trainings of both arms in every admitted domain.

    Attributes:
        arms: Ours and theirs by domain; both have the same seeds and patients.
        patients: The patients of each domain.
    """

    arms: dict[str, tuple[Arm, Arm]]
    patients: dict[str, list[str]]

    def values(self, outcome: Outcome) -> dict[str, np.ndarray]:
        """Return an outcome by domain, shape (2 arms, pairs of trainings, patients)."""
        return {
            name: np.array(
                [[[outcome(of[p], BY_NAME[name]) for p in self.patients[name]] for of in arm.values()] for arm in arms]
            )
            for name, arms in self.arms.items()
        }


def read_domains(folder: Path, ours: str, theirs: str) -> Domains:
    """Read the evaluations of all studies in a folder.

    Raises:
        InputError: If there is none, one is incomplete, or two of them have a seed in common.
    """
    found = [name for name in BY_NAME if (folder / name).is_dir()]
    if not found:
        raise InputError(folder, f"holds no study of {', '.join(BY_NAME)}", "make them as docs/evidence.md says")
    arms: dict[str, tuple[Arm, Arm]] = {}
    patients: dict[str, list[str]] = {}
    taken: dict[int, str] = {}
    for name in found:
        arms[name] = read_arm(folder / name / ours, name), read_arm(folder / name / theirs, name)
        first, second = arms[name]
        for seed in first:
            if (other := taken.setdefault(seed, name)) != name:
                problem = f"seed {seed} was used for {other} already, which makes the same network"
                raise InputError(folder / name, problem, "train with other seeds")
        people = {frozenset(of) for arm in (first, second) for of in arm.values()}
        if first.keys() != second.keys() or len(people) != 1:
            problem = f"{ours} and {theirs} differ in their seeds or patients"
            raise InputError(folder / name, problem, "finish the study with the same command")
        patients[name] = sorted(people.pop())
    return Domains(arms, patients)


def read_arm(folder: Path, domain: str) -> Arm:
    """Read the trainings of a variant that hold a domain out.

    Raises:
        InputError: If there is none, or a scan of a patient was not evaluated.
    """
    base = BY_NAME[domain].base
    arm: Arm = {}
    for training, run in find_trainings(folder).items() if folder.is_dir() else ():
        if training.split != f"to_{domain}":
            continue
        path, _ = choose_tables(run, run, None)
        rows: dict[str, dict[tuple[str, str], CaseRow]] = {}
        for row in read_case_table(path):
            centre, _, name = row["case"].partition("/")
            patient, _, version = name.rpartition("_")
            if failed(row):
                raise InputError(path, f"{row['case']} could not be evaluated", "evaluate it again")
            rows.setdefault(patient, {})[centre, version] = row
        needed = {(centre, version) for centre in (base, domain) for version in (LESION, FREE)}
        complete = {patient: Seen(of) for patient, of in rows.items() if of.keys() >= needed}
        # A patient without a sign of the lesion has no scan in a domain; one with some of the scans is incomplete.
        lacking = [p for p, of in rows.items() if p not in complete and any(centre == domain for centre, _ in of)]
        if lacking or not complete:
            raise InputError(path, f"lacks scans of {lacking[0] if lacking else 'all patients'}", "evaluate it again")
        arm[training.seed] = complete
    if not arm:
        raise InputError(folder, f"has no evaluated run of to_{domain}", "make the study as docs/evidence.md says")
    return dict(sorted(arm.items()))


def describe(domains: Domains) -> list[str]:
    """Compute the test; returns the lines."""
    counts = {name: len(first) for name, (first, _) in domains.arms.items()}
    lines = [
        "pairs of trainings: " + ", ".join(f"{name} {count}" for name, count in counts.items()),
        "",
        f"{'outcome':<26}{'ours':>8}{'theirs':>8}{'difference':>12}   {'95 % interval':<20}{'p':>8}{'Holm':>8}",
    ]
    enough = min(counts.values()) >= FEWEST_TRAININGS
    rows, p = {}, {}
    for name, outcome in OUTCOMES.items():
        values = domains.values(outcome)
        differences = {domain: a - b for domain, (a, b) in values.items()}
        means = [float(np.mean([np.nanmean(group[arm]) for group in values.values()])) for arm in (0, 1)]
        rows[name] = (means, hierarchical_interval(differences, domains.patients))
        if enough and name != SAFETY:
            p[name] = sign_flip_p({domain: np.nanmean(d, axis=1) for domain, d in differences.items()})
    corrected = holm({name: value for name, value in p.items() if name != PRIMARY})
    for name, (means, (mean, low, high)) in rows.items():
        difference, interval, raw = format_difference(mean, low, high, p.get(name, math.nan))
        after = format_difference(0, 0, 0, corrected[name])[2] if name in corrected else ""
        cells = (interval, raw if name in p else "", after) if enough else ("-", "-", "")
        figures = f"{means[0]:>8.3f}{means[1]:>8.3f}{difference:>12}"
        lines.append(f"{name:<26}{figures}   {cells[0]:<20}{cells[1]:>8}{cells[2]:>8}")
    gap, held_out = rows["gap in Dice"][0][1], rows[PRIMARY][1][0]
    closed = f"{100 * held_out / gap:.0f} %" if gap > 0 else "undefined, as theirs has none"
    return [*lines, "", f"share of their gap that ours closes by its held-out Dice: {closed}"]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder with the study of each admitted domain")
    parser.add_argument("--ours", default="redesigned", metavar="VARIANT", help="the method (default: %(default)s)")
    parser.add_argument(
        "--theirs", default="fair-baseline", metavar="VARIANT", help="compared with it (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    print("\n".join(describe(read_domains(args.folder, args.ours, args.theirs))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
