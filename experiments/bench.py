"""Make the bench of the evidence study: the same patients in every domain, as prepared centres of a store.

    python -m experiments.bench OUT [--anatomy DIR] [--patients 90] [--seed 0] [--workers 1]

Every patient is scanned in each domain of ``experiments.bench_domains``, with a lesion and as the lesion-free twin
(see ``experiments.bench_anatomy``). OUT/splits_bench.json holds the split "bench", which trains and is tested in the
domains of the training, and for each held-out domain NAME the split "to_NAME", with the same training and validation
cases, which is tested there and, for the gap, on the same patients in the domain from which NAME differs. A patient is
in the same part everywhere. The same command makes the same voxels; an interrupted one goes on.
"""

import argparse
import json
import sys
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.cases.case import write_case
from data.cases.store import read_store
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import replacing
from data.common.parallel import in_parallel
from data.phantom.label_maps import AnatomyLabels
from data.scans.grid import Grid
from data.splits.frozen import write_splits
from data.splits.split import Split
from experiments.bench_anatomy import LESION_CODE, draw_patient, scan
from experiments.bench_domains import DOMAINS, HELD_OUT, TRAINING

VERSION = 1  # to be raised when the same seed gives other voxels
PATIENTS = 90
# Every nine patients one after the other: four are trained on, two validated on, three kept for the test.
PARTS = ("train", "test", "validation", "train", "test", "train", "validation", "test", "train")
BENCH = "bench"
LESION, FREE = "lesion", "free"  # the two versions of a patient


@dataclass(frozen=True)
class Job:
    """A patient to scan in all domains; sent to the process that does it.

    Attributes:
        index: Number of the patient.
        seed: Seed of all randomness.
        anatomy: The label map, or None for a procedural pancreas.
        out: The store.
    """

    index: int
    seed: int
    anatomy: Path | None
    out: Path

    @property
    def patient(self) -> str:
        """Name of the patient."""
        return f"{self.anatomy.stem}" if self.anatomy else f"patient_{self.index:03d}"

    @property
    def part(self) -> str:
        """The part of the splits that the patient is in."""
        return PARTS[self.index % len(PARTS)]

    @property
    def mark(self) -> Path:
        """The file that exists once all scans of the patient are written; it lists them."""
        return self.out / "patients" / f"{self.patient}.json"

    def run(self) -> InputError | None:
        """Scan the patient in all domains, unless that has been done.

        Returns:
            The error of a label map that cannot be used, so that it does not stop the other patients; otherwise None.
        """
        if self.mark.exists():
            return None
        try:
            patient = draw_patient(np.random.default_rng(np.random.SeedSequence([self.seed, self.index])), self.anatomy)
        except InputError as error:
            return error
        written = []
        for domain in DOMAINS:
            if domain.duct_only and patient.duct is None:
                continue  # nothing would show the lesion
            entropy = [self.seed, self.index, zlib.crc32(domain.name.encode())]
            for version in (LESION, FREE):
                image, label, spacing = scan(patient, domain, entropy, lesion=version == LESION)
                source = {
                    "root": BENCH,  # patients have the same names in all domains
                    "bench": VERSION,
                    "domain": asdict(domain),
                    "index": self.index,
                    "seed": self.seed,
                    "anatomy": self.anatomy and self.anatomy.name,
                    "version": version,
                    "drawn_lesion": patient.drawn,
                    "dilated_duct": bool(patient.duct and (domain.duct_only or patient.obstructed)),
                }
                name = f"{self.patient}_{version}"
                grid = Grid.plain(image.shape, spacing)
                write_case(
                    self.out,
                    domain.name,
                    name,
                    image,
                    label,
                    patient=self.patient,
                    spacing=spacing,
                    grid=grid,
                    source=source,
                )
                written.append(f"{domain.name}/{name}")
        with replacing(self.mark) as unfinished:
            unfinished.write_text(json.dumps(written, indent=1))
        return None


def find_anatomies(folder: Path, count: int) -> list[Path]:
    """Choose label maps, one without a lesion and one with a drawn lesion in turn as long as there are both.

    Args:
        folder: With label maps (.npz) in it or in its sub-folders.
        count: How many.

    Raises:
        InputError: If a map cannot be read, two have the same name, or there are too few.
    """
    paths = sorted(chain(folder.glob("*.npz"), folder.glob("*/*.npz")), key=lambda path: (path.name, path))
    if len({path.stem for path in paths}) < len(paths):
        raise InputError(folder, "two label maps have the same name", "rename one, as the patient is named after it")
    if len(paths) < count:
        raise InputError(folder, f"holds {len(paths)} label maps (.npz)", f"give --patients {len(paths)} or fewer")
    drawn = [bool((AnatomyLabels.read(path).labels == LESION_CODE).any()) for path in paths]
    kinds = ([path for path, has in zip(paths, drawn, strict=True) if has is kind] for kind in (False, True))
    return [path for pair in zip_longest(*kinds) for path in pair if path is not None][:count]


def make_splits(jobs: Sequence[Job]) -> dict[str, Split]:
    """Return the splits of the bench by name."""
    cases = [(job.part, key) for job in jobs for key in json.loads(job.mark.read_text())]

    def keys(part: str, domains: Sequence[str]) -> tuple[str, ...]:
        return tuple(key for where, key in cases if where == part and key.split("/")[0] in domains)

    seen = [domain.name for domain in TRAINING]
    train = keys("train", seen)
    # Every validation patient counts in one domain and one version, in turn: the other scans would add little but time.
    patients = [job.patient for job in jobs if job.part == "validation"]
    versions = [LESION if n // len(seen) % 2 == 0 else FREE for n in range(len(patients))]
    wanted = {f"{seen[n % len(seen)]}/{patient}_{versions[n]}" for n, patient in enumerate(patients)}
    validation = tuple(key for key in keys("validation", seen) if key in wanted)
    tests = {BENCH: seen, **{f"to_{domain.name}": [domain.base, domain.name] for domain in HELD_OUT}}
    return {name: Split(name, train, validation, keys("test", domains)) for name, domains in tests.items()}


def claim_folder(out: Path, settings: dict) -> None:
    """Make sure that a folder is new, empty, or from an earlier call with the same settings.

    Raises:
        InputError: If it is not.
    """
    mark, text = out / "bench.json", json.dumps(settings, indent=1)
    if mark.exists():
        if mark.read_text() != text:
            raise InputError(out, "holds a bench made with other settings", "delete it or choose another folder")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(out, "exists already and is not a bench", "choose another folder")
    else:
        with replacing(mark) as unfinished:
            unfinished.write_text(text)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Make the bench and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="store to make")
    parser.add_argument(
        "--anatomy",
        type=Path,
        metavar="DIR",
        help="folder of label maps (.npz, or sub-folders of them), one a patient (default: procedural patients)",
    )
    parser.add_argument(
        "--patients", type=int, default=PATIENTS, metavar="INT", help="number of patients (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="INT", help="seed of all randomness (default: 0)")
    parser.add_argument("--workers", type=int, default=1, metavar="INT", help="number of processes (default: 1)")
    args = parser.parse_args(argv)
    if args.patients < len(PARTS) or args.seed < 0 or args.workers < 1:
        problem = f"needs at least {len(PARTS)} patients, a seed from 0 on and a worker"
        raise InputError("experiments.bench", problem, "change --patients, --seed or --workers")
    anatomies = find_anatomies(args.anatomy, args.patients) if args.anatomy else [None] * args.patients
    jobs = [Job(index, args.seed, anatomy, args.out) for index, anatomy in enumerate(anatomies)]
    claim_folder(
        args.out,
        {
            "version": VERSION,
            "seed": args.seed,
            "patients": [job.patient for job in jobs],
            "domains": [asdict(d) for d in DOMAINS],
        },
    )
    errors = [error for error in in_parallel(Job.run, jobs, args.workers, "bench") if error]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if errors:
        return EXIT_BAD_INPUT
    splits = make_splits(jobs)
    write_splits(args.out / f"splits_{BENCH}.json", splits)
    centres = read_store(args.out)
    print(f"{'domain':<18}{'scans':>6}{'lesion':>8}  spacing z y x (mm)")
    for domain in DOMAINS:
        cases = centres[domain.name]
        lesions = sum(case.tumour_box is not None for case in cases)
        print(f"{domain.name:<18}{len(cases):>6}{lesions:>8}  {' '.join(f'{mm:.1f}' for mm in cases[0].spacing)}")
    print("patients: " + ", ".join(f"{sum(job.part == part for job in jobs)} {part}" for part in dict.fromkeys(PARTS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
