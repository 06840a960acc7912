"""Command: a centre's scans -> prepared cases in the store, in parallel; the same command goes on after a stop.

python -m data.prepare folder ~/my_hospital --centre my_hospital
python -m data.prepare --list

Scans are cropped to the body (``--crop``) and resampled if asked to (``--spacing``), which a whole store has in
common. Masks of such cases are written back onto the scan's own voxels all the same.
"""

import argparse
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.cases.labels import PANCREAS, TUMOUR
from data.cases.preparation import Preparation
from data.cases.resample import apply_preparation
from data.cases.store import Case, content_of, read_case, renew_source, write_case
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import exclusive_lock, remove_unfinished
from data.common.parallel import in_parallel
from data.duplicates.thumbnail import load_thumbnail
from data.prepare.disk import check_space
from data.prepare.provenance import source_of
from data.scans.boxes import bounding_box
from data.scans.grid import Grid
from data.sources.catalogue import Entry, load_entry
from data.sources.centres import Centre, argument_parser, find_centres, notes_on
from data.splits.frozen import describe_new_cases

BUSY = "wait for the other run that prepares this centre, or choose another --centre or --store"


class Outcome(NamedTuple):
    """How one case went: ``prepared``, ``already there`` or ``failed``, and what there is to say about it."""

    name: str
    state: str
    line: str = ""


def prepare_entry(entry: Entry, centre: Centre, preparation: Preparation) -> Outcome:
    """Read, check and store one case; nothing to do where the store has it from the same files and settings."""
    folder = centre.folder / entry.name
    earlier = _earlier(folder)
    try:
        source = source_of(entry, centre, earlier.source if earlier else {})
        if earlier and earlier.preparation == preparation and content_of(earlier.source) == content_of(source):
            if earlier.source != source:  # moved or touched: the next run must find it where it lies now
                renew_source(earlier, source)
            load_thumbnail(earlier)
            return Outcome(entry.name, "already there")
        notes = _read_and_write(entry, centre, preparation, source)
        load_thumbnail(read_case(folder))  # now, by many processes: else the first training would make all of them
    except InputError as error:
        kept = " (the store keeps an earlier version of this case)" if folder.exists() else ""
        return Outcome(entry.name, "failed", f"{error}{kept}")
    except MemoryError:
        return Outcome(entry.name, "failed", f"{entry.image}: too large for the memory; use fewer --workers")
    return Outcome(entry.name, "prepared", "; ".join(note for note in notes if "resampled" in note))


def _read_and_write(entry: Entry, centre: Centre, preparation: Preparation, source: dict) -> list[str]:
    scan, label, notes = load_entry(entry, centre.labels)
    fitted = apply_preparation(scan.array, scan.spacing, preparation, bounding_box(label))
    grid = replace(scan.grid, part=fitted.part)
    write_case(
        centre.store,
        centre.name,
        entry.name,
        fitted.image,
        _fitted_label(entry, label, grid),
        patient=entry.patient,
        spacing=fitted.spacing,
        grid=grid,
        source=source,
        preparation=preparation,
    )
    return notes


def _fitted_label(entry: Entry, label: np.ndarray, grid: Grid) -> np.ndarray:
    """Raises InputError where resampling would make a case without a tumour, or a pancreas, out of one with it."""
    part = grid.to_prepared(label)
    for code, organ in ((PANCREAS, "pancreas"), (TUMOUR, "tumour")):
        if not (part == code).any() and (label == code).any():
            raise InputError(f"{entry.label}: its {organ} is too small for --spacing and vanishes; give a finer one")
    return part


def _earlier(folder: Path) -> Case | None:
    try:
        return read_case(folder)
    except InputError:  # not there, unreadable, or of another version: all are made anew
        return None


def _check_same_way(centres: Sequence[Centre], preparation: Preparation) -> None:
    """What the store has of other centres must have been prepared in the same way."""
    store, ours = centres[0].store, {centre.name for centre in centres}
    for path in sorted(store.glob("[!.]*/[!.]*/case.json")):
        case = None if path.parent.parent.name in ours else _earlier(path.parent)
        if case and case.preparation != preparation:
            other = f"has {case.centre} prepared with {case.preparation}"
            raise InputError(f"{store}: {other}, not {preparation}; do the same, or choose another --store")


def _replaced(centre: Centre, preparation: Preparation) -> str:
    """What of the centre is made anew in another way, in words; empty where nothing is."""
    there = (_earlier(centre.folder / entry.name) for entry in centre.entries)
    other = [case.preparation for case in there if case and case.preparation != preparation]
    return f"replaces {len(other)} cases of {centre.name} prepared with {other[0]}" if other else ""


def _make_room(centre: Centre) -> None:
    try:
        centre.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{centre.folder}: cannot be made ({error.strerror}); choose another --store") from error


def _remove_unfinished(centre: Centre) -> None:
    """What stopped runs left: whole cases, and single files beside cases. Only who is alone there knows them for it."""
    for leftover in centre.folder.glob(".*.unfinished"):
        shutil.rmtree(leftover, ignore_errors=True)
    remove_unfinished(centre.folder.glob("[!.]*/"))


def _to_prepare(centre: Centre, preparation: Preparation) -> list[Path]:
    """The images of which the store has no case prepared like this."""
    sound = [entry for entry in centre.entries if entry.image and not entry.fault]
    there = {entry.name: _earlier(centre.folder / entry.name) for entry in sound}
    return [e.image for e in sound if there[e.name] is None or there[e.name].preparation != preparation]


def _report(centre: Centre, outcomes: list[Outcome]) -> int:
    count = {state: sum(o.state == state for o in outcomes) for state in ("prepared", "already there", "failed")}
    print(f"{centre.folder}: " + ", ".join(f"{number} {state}" for state, number in count.items()))
    gone = {path.parent.name for path in centre.manifests()} - {e.name for e in centre.entries}
    if gone:
        print(f"no longer in {centre.root}, still in the store: {', '.join(sorted(gone))}; delete them if not wanted")
    for outcome in sorted(outcomes):
        if outcome.state == "failed":
            print(f"failed: {outcome.name}: {outcome.line}", file=sys.stderr)
        elif outcome.line:
            print(f"note: {outcome.name}: {outcome.line}")
    return EXIT_BAD_INPUT if count["failed"] else 0


class _List(argparse.Action):
    """``--list``: like ``--help`` it needs no other argument."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        from data.sources.catalogue import listing

        print(listing())
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argument_parser("data.prepare", "Read a centre's scans once and keep them ready for training.")
    parser.add_argument("--list", action=_List, nargs=0, help="say which data sets can be read, and where to get them")
    parser.add_argument("--crop", choices=("body", "none"), default="body", help="what to keep of a scan: all is none")
    parser.add_argument(
        "--spacing", type=float, nargs=3, metavar=("Z", "Y", "X"), help="resample to voxels of this size in mm"
    )
    parser.add_argument("--fill-disk", action="store_true", help="start even where the disk may be too small")
    return parser


def _preparation(args: argparse.Namespace) -> Preparation:
    spacing = args.spacing and tuple(args.spacing)
    if spacing and not all(math.isfinite(s) and 0.1 <= s <= 20 for s in spacing):
        raise InputError(f"--spacing {' '.join(f'{s:g}' for s in spacing)}: not voxels of a CT; give 0.1 to 20 mm")
    return Preparation(crop=args.crop, spacing=spacing)


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    preparation, centres = _preparation(args), find_centres(args)
    _check_same_way(centres, preparation)
    images = [image for centre in centres for image in _to_prepare(centre, preparation)]
    for line in notes_on(centres, args.centre_by):
        print(f"note: {line}")
    for line in filter(None, (_replaced(centre, preparation) for centre in centres)):
        print(f"note: {line}")
    print(check_space(centres[0].store, images, preparation, args.fill_disk))
    code = max([_prepare(centre, preparation, args.workers) for centre in centres])
    keys = [f"{centre.name}/{path.parent.name}" for centre in centres for path in centre.manifests()]
    if line := describe_new_cases(centres[0].store, keys):
        print(f"note: {line}")
    return code


def _prepare(centre: Centre, preparation: Preparation, workers: int) -> int:
    where = f"{len(centre.entries)} cases of {centre.root} ({centre.adapter}) -> {centre.folder}"
    settings = f"labels {centre.labels}, {preparation}, {workers} workers"
    print(f"centre {centre.name}: {where}, {settings}", flush=True)
    _make_room(centre)
    with exclusive_lock(centre.folder, BUSY):
        _remove_unfinished(centre)
        try:
            # It is sent to a process with every case, so it must not hold all of them.
            work = partial(prepare_entry, centre=replace(centre, entries=()), preparation=preparation)
            outcomes = list(in_parallel(work, centre.entries, workers, f"preparing {centre.name}"))
        finally:
            _remove_unfinished(centre)
    return _report(centre, outcomes)
