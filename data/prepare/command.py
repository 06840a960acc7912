"""Command: read the scans of a centre once and store them as prepared cases, in several processes.

    python -m data.prepare folder ~/my_hospital --centre my_hospital
    python -m data.prepare --list

The command can be interrupted at any time. Run again, it prepares only what is missing or has changed.

All cases of a store are prepared in the same way: cropped to the body or not (``--crop``), resampled or not
(``--spacing``). Predicted masks are written on the voxel grid of the original scan in any case.
"""

import argparse
import math
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from data.cases.case import EARLIER, Case, content_of, read_case, renew_source, restore_earlier, write_case
from data.cases.labels import PANCREAS, TUMOUR, codes_in
from data.cases.preparation import Preparation
from data.cases.resample import apply_preparation
from data.cases.store import UNFINISHED, refuse_centre
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import check_writable, exclusive_lock, remove_unfinished
from data.common.parallel import in_parallel
from data.common.program import command_name
from data.common.text import add_examples
from data.duplicates.thumbnail import load_thumbnail
from data.prepare.disk import estimate_disk_use
from data.prepare.provenance import source_of
from data.scans.boxes import bounding_box
from data.scans.hounsfield import find_hu_problem
from data.sources.base import Entry
from data.sources.catalogue import listing, load_entry
from data.sources.centres import Centre, CentreOptions, add_centre_arguments, find_centres, notes_on
from data.sources.plausible import Fault, Volumes, find_centre_fault, find_label_fault, measure_label, refuse
from data.splits.frozen import describe_new_cases

BUSY = "wait for the other run that prepares this centre, or choose another --centre or --store"
ALLOWED_SPACING_MM = (0.1, 20.0)
ACCEPTED = "accepted"  # in a case's source: what is implausible about its label that --accept-labels accepted

State = Literal["prepared", "already there", "failed"]


@dataclass(frozen=True)
class PrepareOptions:
    """The options of the command.

    Attributes:
        centres: The data set, the centres made of it, the store and the number of processes.
        preparation: How to crop and resample the scans.
        fill_disk: Whether to start even if the disk may be too small.
    """

    centres: CentreOptions
    preparation: Preparation
    fill_disk: bool


class Outcome(NamedTuple):
    """What became of one case.

    Attributes:
        name: Name of the case.
        state: Whether it has been prepared now, was in the store already, or failed.
        problem: Why it failed; empty otherwise.
        notes: What the readers had to adapt while reading, such as the orientation.
        volumes: Volumes of its labels in ml; None if it failed.
    """

    name: str
    state: State
    problem: str = ""
    notes: tuple[str, ...] = ()
    volumes: Volumes | None = None


def prepare_entry(entry: Entry, centre: Centre, preparation: Preparation) -> Outcome:
    """Read, check and store one case, unless the store holds it already, made from the same files in the same way.

    A problem with the case becomes a failed outcome, so that it does not stop the others.
    """
    folder = centre.folder / entry.name
    earlier = _read_stored(folder)
    try:
        source = source_of(entry, centre, earlier.source if earlier else {})
        if earlier and centre.accept_labels and ACCEPTED in earlier.source:
            source[ACCEPTED] = earlier.source[ACCEPTED]
        if earlier and _is_complete(earlier, preparation) and content_of(earlier.source) == content_of(source):
            if earlier.source != source:  # moved or touched: record the files as the next run will find them
                renew_source(earlier, source)
            load_thumbnail(earlier)
            return Outcome(entry.name, "already there", volumes=_volumes(earlier))
        notes = _read_and_write(entry, centre, preparation, source)
        case = read_case(folder)
        load_thumbnail(case)  # in this process, or the first training would have to make all of them
        return Outcome(entry.name, "prepared", notes=tuple(notes), volumes=_volumes(case))
    except InputError as error:
        problem = str(error)
    except MemoryError:
        problem = str(InputError(f"{entry.image}", "the scan is too large for the memory", "use fewer --workers"))
    if earlier and earlier.preparation != preparation:
        problem += (
            f" (The store keeps an earlier version of this case, prepared with {earlier.preparation}. Training refuses"
            f" such a mixture until the case is prepared again or {folder} is deleted.)"
        )
    elif folder.exists():
        problem += " (The store keeps an earlier version of this case.)"
    return Outcome(entry.name, "failed", problem)


def _read_and_write(entry: Entry, centre: Centre, preparation: Preparation, source: dict[str, str]) -> list[str]:
    scan, label, notes = load_entry(entry, centre.labels, accept=centre.accept_labels)
    source = {key: value for key, value in source.items() if key != ACCEPTED}
    if fault := find_label_fault(scan.array, label, scan.spacing):
        if not centre.accept_labels:
            raise refuse(entry.label, fault)
        source[ACCEPTED] = fault.problem
        notes = [*notes, f"accepted although {fault.problem}"]
    fitted = apply_preparation(scan.array, scan.spacing, preparation, bounding_box(label))
    grid = replace(scan.grid, part=fitted.part)
    fitted_label = grid.to_prepared(label)
    kept, given = codes_in(fitted_label), codes_in(label)
    for code, organ in ((PANCREAS, "pancreas"), (TUMOUR, "tumour")):
        if code in given and code not in kept:
            problem = f"the {organ} is too small for the voxels of --spacing and would vanish"
            raise InputError(f"{entry.label}", problem, "give a finer --spacing")
    write_case(
        centre.store,
        centre.name,
        entry.name,
        fitted.image,
        fitted_label,
        patient=entry.patient,
        spacing=fitted.spacing,
        grid=grid,
        source=source,
        preparation=preparation,
        scan_label=label[fitted.part.slices] if fitted.part else None,
    )
    doubt = find_hu_problem(scan.array)
    return notes + ([f"image {': '.join(doubt)}"] if doubt else [])


def _volumes(case: Case) -> Volumes:
    """Measure the labels of a stored case, of which only the box around them is read."""
    if case.pancreas_box is None:
        return Volumes(0.0, 0.0)
    return measure_label(case.label()[case.pancreas_box.slices], case.spacing)


def _read_stored(folder: Path) -> Case | None:
    """Read a stored case; None if it is missing, unreadable or of another format, so that it is prepared anew."""
    try:
        return read_case(folder)
    except InputError:
        return None


def _is_complete(case: Case, preparation: Preparation) -> bool:
    """Whether a stored case was prepared in this way and has everything that the current version stores."""
    return case.preparation == preparation and case.has_scan_label and bool(case.files)


def _compare_with_store(centres: Sequence[Centre], preparation: Preparation) -> tuple[list[Path], list[str]]:
    """Find out what has to be prepared.

    Returns:
        The images of the cases that the store does not hold in this preparation, and a note on each of the centres
        whose cases were prepared in another way and will be replaced.

    Raises:
        InputError: If any other centre of the store was prepared in another way.
    """
    store, names = centres[0].store, {centre.name for centre in centres}
    for path in sorted(store.glob("[!.]*/[!.]*/case.json")):
        case = None if path.parent.parent.name in names else _read_stored(path.parent)
        if case and case.preparation != preparation:
            problem = f"centre {case.centre} of this store was prepared with {case.preparation}, not {preparation}"
            raise InputError(store, problem, "use the same options, or choose another --store")
    images, notes = [], []
    for centre in centres:
        replaced = []
        for entry in centre.entries:
            case = _read_stored(centre.folder / entry.name)
            if case and case.preparation != preparation:
                replaced.append(case)
            if entry.image and not entry.fault and not (case and _is_complete(case, preparation)):
                images.append(entry.image)
        if replaced:
            earlier = replaced[0].preparation
            notes.append(f"replaces the cases of {centre.name} that were prepared with {earlier} ({len(replaced)})")
    return images, notes


def _prepare_centre(centre: Centre, preparation: Preparation, workers: int) -> tuple[list[Outcome], Fault | None]:
    """Prepare all cases of a centre and check its labels as a whole; return the outcomes and what is implausible."""
    origin = f"{len(centre.entries)} cases of {centre.root} ({centre.adapter})"
    settings = f"labels {centre.labels}, {preparation}, {workers} workers"
    print(f"centre {centre.name}: {origin} -> {centre.folder}, {settings}", flush=True)
    with exclusive_lock(centre.folder, BUSY):
        _remove_unfinished(centre.folder)
        try:
            if not all(_is_stored(centre, entry) for entry in centre.entries):
                refuse_centre(centre.folder, UNFINISHED)  # until its labels have been judged as a whole
            # The partial is sent to a process with every case, so it must not carry the entries of the whole centre.
            work = partial(prepare_entry, centre=replace(centre, entries=()), preparation=preparation)
            outcomes = list(in_parallel(work, centre.entries, workers, f"preparing {centre.name}"))
            fault = find_centre_fault([outcome.volumes for outcome in outcomes if outcome.volumes is not None])
            # Its cases stay, because reading them took hours; but nothing can be trained on them until this is settled.
            refuse_centre(centre.folder, fault.problem if fault and not centre.accept_labels else "")
            return outcomes, fault
        finally:
            _remove_unfinished(centre.folder)


def _is_stored(centre: Centre, entry: Entry) -> bool:
    return (centre.folder / entry.name / "case.json").is_file()


def _remove_unfinished(folder: Path) -> None:
    """Remove what interrupted runs have left in the folder of a centre: unfinished cases, and files beside cases.

    The caller must hold the lock of the folder; otherwise another process may still be writing them.
    """
    for earlier in folder.glob(f".*{EARLIER}"):
        restore_earlier(earlier)
    for leftover in folder.glob(".*.unfinished"):
        shutil.rmtree(leftover, ignore_errors=True)
    remove_unfinished(folder.glob("[!.]*/"))


def _report(centre: Centre, outcomes: Sequence[Outcome]) -> None:
    counts = Counter(outcome.state for outcome in outcomes)
    print(f"{centre.folder}: " + ", ".join(f"{counts[state]} {state}" for state in get_args(State)))
    gone = {path.parent.name for path in centre.manifests()} - {entry.name for entry in centre.entries}
    if gone:
        cases = ", ".join(sorted(gone))
        print(f"note: no longer in {centre.root} but still in the store: {cases}; delete those you do not want")
    noted: dict[str, list[str]] = {}
    for outcome in sorted(outcomes):
        for note in outcome.notes:
            noted.setdefault(note, []).append(outcome.name)
        if outcome.state == "failed":
            print(f"failed: {outcome.name}: {outcome.problem}", file=sys.stderr)
    for note, names in noted.items():
        print(f"note: {note}: {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else ""))


class _PrintSources(argparse.Action):
    """``--list``: print the data sets that can be read and exit, whatever else is on the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        print(listing())
        parser.exit()


def parse_options(argv: Sequence[str] | None) -> PrepareOptions:
    """Parse and validate the command line.

    Raises:
        InputError: If the value of an option is not valid.
    """
    parser = argparse.ArgumentParser(
        prog=command_name("python -m data.prepare", "prepare"),
        description="Read the scans of a centre once and store them ready for training.",
    )
    output = add_centre_arguments(parser)
    parser.add_argument(
        "--list",
        action=_PrintSources,
        nargs=0,
        help="print which data sets can be read, their licences and where to download them, and exit",
    )
    preparation = parser.add_argument_group("preparation")
    preparation.add_argument(
        "--crop",
        choices=("body", "none"),
        default="body",
        help="crop each scan to the body, with a margin and the whole label, or do not crop (default: %(default)s)",
    )
    preparation.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="voxel size in mm to resample the scans to, one number per axis (default: each scan keeps its own)",
    )
    output.add_argument(
        "--fill-disk",
        action="store_true",
        help="start even if the prepared cases may need more space than the disk has (default: refuse to start)",
    )
    add_examples(
        parser,
        ("folder /data/hospital_a --centre hospital_a", "prepare your own scans, in the folders images/ and labels/"),
        ("msd Task07_Pancreas --centre msd", "prepare a public data set as it was unpacked"),
        ("folder scans.csv --centre b --centre-by scanner", "prepare the scans of a table, a centre for each scanner"),
        ("--list", "list the data sets that can be read, with their licences and addresses"),
    )
    args = parser.parse_args(argv)
    spacing = args.spacing and tuple(args.spacing)
    if spacing and not all(math.isfinite(s) and ALLOWED_SPACING_MM[0] <= s <= ALLOWED_SPACING_MM[1] for s in spacing):
        typed = f"--spacing {' '.join(f'{s:g}' for s in spacing)}"
        remedy = f"give three numbers from {ALLOWED_SPACING_MM[0]:g} to {ALLOWED_SPACING_MM[1]:g} mm"
        raise InputError(typed, "not the voxel size of a CT", remedy)
    return PrepareOptions(CentreOptions.from_args(args), Preparation(crop=args.crop, spacing=spacing), args.fill_disk)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prepare the centres that the command line names and return the exit code."""
    options = parse_options(argv)
    preparation, centres = options.preparation, find_centres(options.centres)
    images, replacements = _compare_with_store(centres, preparation)
    for note in (*notes_on(centres, options.centres.centre_by), *replacements):
        print(f"note: {note}")
    store = centres[0].store
    check_writable(store)
    disk_use = estimate_disk_use(store, images, preparation)
    if not disk_use.fits and not options.fill_disk:
        remedy = "free some space, choose another --store or a coarser --spacing, or start anyway with --fill-disk"
        raise InputError(store, f"the disk may be too small ({disk_use})", remedy)
    print(f"disk: {disk_use}" + ("" if disk_use.fits else ", which may not be enough"))
    failed = False
    for centre in centres:
        outcomes, fault = _prepare_centre(centre, preparation, options.centres.workers)
        _report(centre, outcomes)
        failed |= any(outcome.state == "failed" for outcome in outcomes)
        if fault and centre.accept_labels:
            print(f"note: centre {centre.name} accepted although {fault.problem}")
        elif fault:
            failed = True
            print(f"failed: {refuse(f'centre {centre.name}', fault)} Until then its store is refused.", file=sys.stderr)
    keys = [f"{centre.name}/{path.parent.name}" for centre in centres for path in centre.manifests()]
    if note := describe_new_cases(store, keys):
        print(f"note: {note}")
    return EXIT_BAD_INPUT if failed else 0
