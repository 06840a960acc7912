"""Command: write synthetic centres, abdominal CT scans with a pancreas and its tumour from scanners that differ.

    python -m data.phantom OUT [--cases 8] [--seed 0] [--size small|full] [--anatomy DIR] [--centres NAME ...]
    python -m data.phantom OUT --abdomen [DIR[:TABLE]] [--torsos] [--cases 8] [--seed 0]

The files ``OUT/<centre>/images/<case>.nii.gz`` (int16 HU) and ``OUT/<centre>/labels/<case>.nii.gz`` (0 background,
1 pancreas, 2 tumour) have the layout ``folder`` of ``data.prepare``. With ``--prepared`` OUT becomes a store of
prepared cases instead, ready to train on, and SimpleITK is not needed. The same seed gives the same voxels.

``--abdomen`` writes the randomised patients of ``data.synthesis`` as a centre ``abdomen``, each from a scanner of its
own: procedural ones, or patients around label maps of organs. With ``--torsos`` their painted torsos are written
instead, as a library from which patients are rendered faster.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from operator import methodcaller
from pathlib import Path

import numpy as np

from data.cases.case import read_case, write_case
from data.cases.labels import TUMOUR
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import remove_unfinished, replacing
from data.common.parallel import in_parallel
from data.common.program import command_name
from data.common.progress import add_quiet
from data.common.text import HelpFormatter, add_examples
from data.phantom.scanner import REAL_SCANNERS, SCANNERS, Scanner, Size, render_case
from data.prepare.provenance import PHANTOM_MARK
from data.scans.grid import Grid
from data.synthesis.organ_codes import TABLES
from data.synthesis.organ_maps import hash_maps
from data.synthesis.patient import render_patient
from data.synthesis.settings import VERSION as RENDERER
from data.synthesis.settings import Synthesis
from data.synthesis.torso_library import FORMAT, TorsoFile, describe_torsos, list_source

VERSION = 2  # to be raised when the same seed gives other voxels
DEFAULT_CENTRES = ("north", "south", "west")
ABDOMEN, ABDOMEN_MM = "abdomen", (3.0, 3.0, 3.0)  # the centre of randomised patients, and its voxels


@dataclass(frozen=True)
class PhantomOptions:
    """The options of the command.

    Attributes:
        out: Folder to write.
        cases: Number of cases per centre, or the greatest number if there are real label maps.
        seed: Seed of all randomness.
        size: Size of the voxels.
        anatomy: Folder of the real label maps, or None for procedural patients.
        centres: Names of the centres, or None for the default ones.
        abdomen: Label maps of organs around which randomised patients are drawn, as ``Synthesis.labels``; empty for
            procedural ones, None for the phantom's own centres.
        prepared: Whether to write prepared cases instead of scans and labels.
        torsos: Whether to write painted torsos instead of scans and labels.
        workers: Number of processes.
    """

    out: Path
    cases: int
    seed: int
    size: Size
    anatomy: Path | None
    centres: tuple[str, ...] | None
    abdomen: str | None
    prepared: bool
    torsos: bool
    workers: int

    @property
    def maps(self) -> str:
        """Hash of the label maps of organs, the same wherever they lie; empty for none."""
        return hash_maps(self.abdomen) if self.abdomen else ""


@dataclass(frozen=True)
class Job:
    """A case to write; sent to the process that does it.

    Attributes:
        centre: Name of the centre.
        scanner: Its scanner; None for randomised patients, each of whom has one of its own.
        index: Number of the case within the centre.
        seed: Seed of all randomness.
        size: Size of the voxels.
        anatomy: The real label map, or None for a procedural patient.
        abdomen: As in PhantomOptions.
        out: Folder of all centres.
        prepared: Whether to write a prepared case instead of a scan and its label.
    """

    centre: str
    scanner: Scanner | None
    index: int
    seed: int
    size: Size
    anatomy: Path | None
    abdomen: str | None
    out: Path
    prepared: bool

    @property
    def name(self) -> str:
        """Name of the case."""
        return self.anatomy.stem if self.anatomy else f"{self.centre}_{self.index:03d}"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that exist once the case is written: image and label, or the manifest of a prepared case."""
        centre = self.out / self.centre
        if self.prepared:
            return (centre / self.name / "case.json",)
        return tuple(centre / kind / f"{self.name}.nii.gz" for kind in ("images", "labels"))

    @property
    def written(self) -> bool:
        """Whether the case has been written."""
        return all(path.exists() for path in self.files)

    def run(self) -> InputError | None:
        """Render and write the case, unless it has been written already.

        Returns:
            The error of a label map that cannot be used, so that it does not stop the other cases; otherwise None.
        """
        if self.written:
            return None
        try:
            image, label, spacing = self._render()
        except InputError as error:
            return error
        if self.prepared:
            write_case(
                self.out,
                self.centre,
                self.name,
                image,
                label,
                patient=f"{self.centre}/{self.name}",
                spacing=spacing,
                grid=Grid.plain(image.shape, spacing),
                source={
                    "phantom": VERSION,
                    "scanner": self.scanner and asdict(self.scanner),
                    "index": self.index,
                    "seed": self.seed,
                    "size": self.size,
                    "anatomy": self.anatomy and self.anatomy.name,
                    **({} if self.abdomen is None else {"abdomen": self.abdomen}),
                },
            )
            return None
        from data.scans.volume import write_lps  # imports SimpleITK, which prepared cases do not need

        for path, array in zip(self.files, (image, label), strict=True):
            write_lps(path, array, spacing)
        return None

    def _render(self) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
        """Render image, label and spacing (z, y, x) in mm.

        Raises:
            InputError: If a label map cannot be used.
        """
        if self.scanner:
            return render_case(self.scanner, self.index, self.seed, self.size, self.anatomy)
        image, label = render_patient((self.seed, self.index), Synthesis(labels=self.abdomen or ""), ABDOMEN_MM)
        return image, label, ABDOMEN_MM

    def summarise(self) -> tuple[bool, tuple[float, ...], tuple[int, ...]]:
        """Read the written case.

        Returns:
            Whether it has a tumour, its spacing (z, y, x) in mm and its shape (D, H, W).
        """
        if self.prepared:
            case = read_case(self.files[0].parent)
            return case.tumour_box is not None, case.spacing, case.shape
        from data.scans.volume import read_label

        label = read_label(self.files[1])
        return bool((label.array == TUMOUR).any()), label.spacing, label.array.shape


def parse_options(argv: Sequence[str] | None) -> PhantomOptions:
    """Parse the command line.

    Raises:
        InputError: If options exclude each other.
    """
    parser = argparse.ArgumentParser(
        prog=command_name("python -m data.phantom", "phantom"),
        description="Write synthetic centres in the layout 'folder' (images/ and labels/), or as prepared cases.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write, with a sub-folder per centre")
    add = parser.add_argument_group("scans").add_argument
    add(
        "--cases",
        type=_positive_integer,
        default=8,
        metavar="N",
        help="number of cases per centre, with --anatomy the greatest number (default: %(default)s)",
    )
    add(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="seed of all randomness; the same seed gives the same voxels (default: %(default)s)",
    )
    add(
        "--size",
        choices=("small", "full"),
        default="small",
        help="small for voxels of about 3 mm, full for clinical scans of 512 x 512 voxels (default: %(default)s)",
    )
    add(
        "--anatomy",
        type=Path,
        metavar="DIR",
        help="folder of real label maps <centre>/*.npz around which patients are built (default: procedural patients)",
    )
    add(
        "--centres",
        nargs="+",
        metavar="NAME",
        help=f"centres to write (default: {', '.join(DEFAULT_CENTRES)}; with --anatomy all sub-folders of DIR)",
    )
    add(
        "--abdomen",
        nargs="?",
        const="",
        metavar="DIR[:TABLE]",
        help="write one centre of randomised whole torsos instead, around the label maps of organs in DIR (.npz with "
        "labels (z, y, x; LPS) and spacing, or .nii.gz); TABLE says what their codes mean, one of "
        f"{', '.join(TABLES)}, unless DIR has a codes.json; without DIR procedural torsos (default: not)",
    )
    output = parser.add_argument_group("output and machine")
    output.add_argument(
        "--prepared",
        action="store_true",
        help="write OUT as a store of prepared cases, to be given as --store (default: write scans and labels)",
    )
    output.add_argument(
        "--torsos",
        action="store_true",
        help="with --abdomen, write OUT as a library of painted torsos, for --train-on synthetic:OUT:torsos (default: "
        "write scans and labels)",
    )
    output.add_argument(
        "--workers",
        type=_positive_integer,
        default=2,
        metavar="N",
        help="number of processes that render cases at the same time (default: %(default)s)",
    )
    add_quiet(output)
    add_examples(
        parser,
        ("phantoms", "write three small centres of eight cases, to be read by data.prepare"),
        ("phantoms --cases 2 --size full", "write scans of clinical size, to measure memory and time"),
        ("store --prepared", "write prepared cases, on which the training scripts start with --store store"),
        ("library --abdomen labelsTr:amos --torsos --cases 500", "paint 500 torsos around these organs, to train on"),
    )
    args = parser.parse_args(argv)
    if args.abdomen is not None and (args.anatomy or args.centres or args.size == "full"):
        problem = "it writes one centre with voxels of 3 mm, without --anatomy, --centres and --size full"
        raise InputError("--abdomen", problem, "leave out the other option")
    if args.torsos and (args.abdomen is None or args.prepared):
        raise InputError("--torsos", "it writes the torsos of --abdomen, not cases", "add --abdomen without --prepared")
    return PhantomOptions(
        out=args.out,
        cases=args.cases,
        seed=args.seed,
        size=args.size,
        anatomy=args.anatomy,
        centres=None if args.centres is None else tuple(args.centres),
        abdomen=args.abdomen,
        prepared=args.prepared,
        torsos=args.torsos,
        workers=args.workers,
    )


def _positive_integer(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _seed(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number


def plan_jobs(options: PhantomOptions) -> list[Job | TorsoFile]:
    """List the cases or torsos to write.

    Raises:
        InputError: If the folder of label maps has none, or if a centre is not known.
    """
    if options.abdomen is not None:
        if options.torsos:
            maps = options.maps
            return [TorsoFile(options.out, k, options.seed, options.abdomen, maps) for k in range(options.cases)]
        if options.abdomen:
            list_source(options.abdomen)  # raises the error before anything is written
        return [
            Job(ABDOMEN, None, index, options.seed, options.size, None, options.abdomen, options.out, options.prepared)
            for index in range(options.cases)
        ]
    known: dict[str, tuple[Scanner, list[Path | None]]]
    if options.anatomy is None:
        known = {scanner.name: (scanner, [None] * options.cases) for scanner in SCANNERS}
        names, problem = options.centres or DEFAULT_CENTRES, "no such synthetic centre"
    else:
        known = {}
        for folder in sorted(options.anatomy.glob("*/")):
            if paths := sorted(folder.glob("*.npz")):
                scanner = REAL_SCANNERS[len(known) % len(REAL_SCANNERS)]
                known[folder.name] = (replace(scanner, name=folder.name), [*paths[: options.cases]])
        if not known:
            remedy = "give the folder that holds a sub-folder for each centre"
            raise InputError(options.anatomy, "no sub-folder with label maps (.npz)", remedy)
        names, problem = options.centres or tuple(known), f"no folder with label maps in {options.anatomy}"
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"--centres {unknown[0]}", problem, f"choose from {', '.join(known)}")
    return [
        Job(scanner.name, scanner, index, options.seed, options.size, path, None, options.out, options.prepared)
        for scanner, paths in (known[name] for name in dict.fromkeys(names))
        for index, path in enumerate(paths)
    ]


def _claim_folder(options: PhantomOptions) -> None:
    """Make sure that the output folder is new, empty, or from an earlier run with the same settings."""
    folder, scanners = options.out, REAL_SCANNERS if options.anatomy else SCANNERS
    settings = {
        "version": VERSION,
        "seed": options.seed,
        "size": options.size,
        "anatomy": str(options.anatomy.resolve()) if options.anatomy else None,
        "scanners": [asdict(scanner) for scanner in scanners],
        "prepared": options.prepared,
        **({} if options.abdomen is None or options.torsos else {"abdomen": options.abdomen}),
    }
    if options.torsos:
        settings |= {"torsos": FORMAT, "renderer": RENDERER, "maps": options.maps}
    mark = folder / PHANTOM_MARK
    text = json.dumps(settings, indent=1)
    if mark.exists():
        if mark.read_text() != text:
            raise InputError(
                folder, "it holds a phantom made with other settings", "delete it or choose another folder"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(folder, "it exists already and is not a phantom", "choose another folder")
    else:
        with replacing(mark) as unfinished:
            unfinished.write_text(text)


def _format_summary(jobs: Sequence[Job | TorsoFile]) -> str:
    """Describe each centre in one line, as read back from the written files."""
    lines = [f"{'centre':<10} {'cases':>5} {'with tumour':>11}  spacing z y x (mm)  shape"]
    written = [job for job in jobs if isinstance(job, Job) and job.written]
    for centre in dict.fromkeys(job.centre for job in written):
        summaries = (job.summarise() for job in written if job.centre == centre)
        tumours, spacings, shapes = zip(*summaries, strict=True)
        spacing = " ".join(f"{s:.2f}" for s in np.median(spacings, axis=0))
        shape = " x ".join(str(int(n)) for n in np.median(shapes, axis=0))
        lines.append(f"{centre:<10} {len(tumours):>5} {sum(tumours):>11}  {spacing:<18}  {shape}")
    return "\n".join(lines)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the centres that the command line asks for and return the exit code."""
    options = parse_options(argv)
    jobs = plan_jobs(options)
    _claim_folder(options)
    remove_unfinished([options.out])
    errors = [error for error in in_parallel(methodcaller("run"), jobs, options.workers, "phantom") if error]
    print(describe_torsos(options.out) if options.torsos else _format_summary(jobs))
    for line in sorted(f"error: {error}" for error in errors):  # cases finish in any order
        print(line, file=sys.stderr)
    return EXIT_BAD_INPUT if errors else 0
