"""Synthetic centres: abdomens with a pancreas and its tumour, scanned by scanners that differ.

    python -m data.phantom OUT [--cases 8] [--seed 0] [--size small|full] [--anatomy DIR] [--centres NAME ...]

writes ``OUT/<centre>/images/<case>.nii.gz`` (int16 HU) and ``OUT/<centre>/labels/<case>.nii.gz`` (0 background,
1 pancreas, 2 tumour): the layout ``folder`` of ``data.prepare``. With ``--prepared`` OUT becomes a store of prepared
cases instead, ready to train on, and SimpleITK is not needed. The same seed gives the same voxels.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from data.cases.labels import TUMOUR
from data.cases.store import read_case, write_case
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import replacing
from data.common.parallel import in_parallel
from data.phantom.scanner import REAL_SCANNERS, SCANNERS, Scanner, render_case
from data.scans.grid import Grid

VERSION = 2  # to be raised when the same seed gives other voxels
DEFAULT_CENTRES = ("north", "south", "west")


@dataclass(frozen=True)
class Job:
    """One case to write: everything a worker needs."""

    scanner: Scanner
    index: int
    seed: int
    size: str
    anatomy: Path | None
    folder: Path
    prepared: bool = False  # write a prepared case, not a scan and its label

    @property
    def name(self) -> str:
        return self.anatomy.stem if self.anatomy else f"{self.scanner.name}_{self.index:03d}"

    @property
    def files(self) -> tuple[Path, ...]:
        """What there is when the case is written."""
        centre = self.folder / self.scanner.name
        if self.prepared:
            return (centre / self.name / "case.json",)
        return tuple(centre / kind / f"{self.name}.nii.gz" for kind in ("images", "labels"))

    @property
    def written(self) -> bool:
        return all(path.exists() for path in self.files)

    def run(self) -> str | None:
        """Write the case where it is not there yet; returns what is wrong with its label map, if anything is."""
        if self.written:
            return None
        try:
            image, label, spacing = render_case(self.scanner, self.index, self.seed, self.size, self.anatomy)
        except InputError as error:
            return str(error)
        if self.prepared:
            made = {"phantom": VERSION, "scanner": asdict(self.scanner), "index": self.index, "seed": self.seed}
            write_case(
                self.folder,
                self.scanner.name,
                self.name,
                image,
                label,
                patient=f"{self.scanner.name}/{self.name}",
                spacing=spacing,
                grid=Grid.plain(image.shape, spacing),
                source=made | {"size": self.size, "anatomy": self.anatomy and self.anatomy.name},
            )
            return None
        from data.scans.volume import write_lps  # SimpleITK, which a rented GPU box may lack, for files alone

        for path, array in zip(self.files, (image, label), strict=True):
            write_lps(path, array, spacing)
        return None

    def look(self) -> tuple[bool, tuple[float, ...], tuple[int, ...]]:
        """Of the written case: whether it has a tumour, its spacing and its shape, both (z, y, x)."""
        if self.prepared:
            case = read_case(self.files[0].parent)
            return case.tumour_box is not None, case.spacing, case.shape
        from data.scans.volume import read_label

        label = read_label(self.files[1])
        return bool((label.array == TUMOUR).any()), label.spacing, label.array.shape


def plan(args: argparse.Namespace) -> list[Job]:
    """The cases that the command line asks for."""
    if args.anatomy is None:
        known = {scanner.name: scanner for scanner in SCANNERS}
        names = list(dict.fromkeys(args.centres or DEFAULT_CENTRES))
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"--centres {unknown[0]}: unknown; choose from {', '.join(known)}")
        chosen = [(known[name], [None] * args.cases) for name in names]
    else:
        chosen = _real_centres(args.anatomy, args.centres, args.cases)
    return [
        Job(scanner, index, args.seed, args.size, path, args.out, args.prepared)
        for scanner, paths in chosen
        for index, path in enumerate(paths)
    ]


def _real_centres(folder: Path, names: Sequence[str] | None, cases: int) -> list[tuple[Scanner, list[Path]]]:
    found = {path.name: sorted(path.glob("*.npz")) for path in sorted(folder.glob("*/"))}
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        raise InputError(f"{folder}: no sub-folder with label maps (.npz); give the folder that holds the centres")
    if unknown := [name for name in names or () if name not in found]:
        raise InputError(f"--centres {unknown[0]}: no such folder in {folder}; choose from {', '.join(found)}")
    scanners = {name: replace(REAL_SCANNERS[i % len(REAL_SCANNERS)], name=name) for i, name in enumerate(found)}
    return [(scanners[name], found[name][:cases]) for name in dict.fromkeys(names or found)]


def _claim(folder: Path, settings: dict) -> None:
    """Make OUT ours: new, empty, or written earlier with the same settings."""
    mark = folder / "phantom.json"
    text = json.dumps(settings, indent=1)
    if mark.exists():
        if mark.read_text() != text:
            raise InputError(f"{folder}: holds a phantom made with other settings; delete it or choose another folder")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already and is not a phantom; choose another folder")
    else:
        with replacing(mark) as unfinished:
            unfinished.write_text(text)


def _summary(jobs: list[Job]) -> str:
    """One line per centre, read back from what was written."""
    lines = [f"{'centre':<10} {'cases':>5} {'with tumour':>11}  spacing z y x (mm)  shape"]
    written = [job for job in jobs if job.written]
    for centre in dict.fromkeys(job.scanner.name for job in written):
        tumours, spacings, shapes = zip(*(job.look() for job in written if job.scanner.name == centre), strict=True)
        spacing = " ".join(f"{s:.2f}" for s in np.median(spacings, axis=0))
        shape = " x ".join(str(int(n)) for n in np.median(shapes, axis=0))
        lines.append(f"{centre:<10} {len(tumours):>5} {sum(tumours):>11}  {spacing:<18}  {shape}")
    return "\n".join(lines)


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _seed(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.phantom",
        description="Write synthetic centres in the layout 'folder' (images/ + labels/).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("out", metavar="OUT", type=Path, help="folder to write; a sub-folder per centre")
    add("--cases", type=_count, default=8, help="cases per centre (with --anatomy: at most)")
    add("--seed", type=_seed, default=0, help="the same seed gives the same voxels")
    add("--size", choices=("small", "full"), default="small", help="small: voxels of about 3 mm; full: clinical")
    add("--anatomy", type=Path, metavar="DIR", help="real label maps DIR/<centre>/*.npz; else all is procedural")
    add("--centres", nargs="+", metavar="NAME", help=f"else {', '.join(DEFAULT_CENTRES)}, or all folders of DIR")
    add("--prepared", action="store_true", help="write OUT as a store of prepared cases, to be given as --store")
    add("--workers", type=_count, default=2, help="cases made at the same time")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    jobs = plan(args)
    anatomy = str(args.anatomy.resolve()) if args.anatomy else None
    scanners = [asdict(scanner) for scanner in (REAL_SCANNERS if args.anatomy else SCANNERS)]
    settings = {"version": VERSION, "seed": args.seed, "size": args.size, "anatomy": anatomy, "scanners": scanners}
    _claim(args.out, settings | {"prepared": args.prepared})
    faults = sorted(filter(None, in_parallel(Job.run, jobs, args.workers, "phantom")))  # they finish in any order
    print(_summary(jobs))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0
