"""Command: a centre's scans -> prepared cases in the store, in parallel; the same command goes on after a stop.

python -m data.prepare folder ~/my_hospital --centre my_hospital
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data.errors import EXIT_BAD_INPUT, InputError, command
from data.parallel import in_parallel
from data.sources import SOURCES, Entry, LabelMap, load_entry
from data.store import DEFAULT_STORE, read_case, write_case


@dataclass(frozen=True)
class Centre:
    """What the command line asks for: one data set, read as one centre."""

    name: str
    adapter: str
    root: Path
    store: Path
    labels: LabelMap
    entries: tuple[Entry, ...]

    @property
    def folder(self) -> Path:
        return self.store / self.name


class Outcome(NamedTuple):
    """How one case went: ``prepared``, ``already there`` or ``failed``, and what there is to say about it."""

    name: str
    state: str
    line: str = ""


def argument_parser(command_name: str, description: str) -> argparse.ArgumentParser:
    """The arguments that prepare and verify share."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {command_name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    kinds = "; ".join(f"{name}: {source.summary}" for name, source in SOURCES.items())
    parser.add_argument("source", metavar="SOURCE", choices=SOURCES, help=f"kind of data set. {kinds}")
    parser.add_argument("root", metavar="ROOT", type=Path, help="its folder")
    parser.add_argument(
        "--centre",
        required=True,
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="what to call this centre from now on",
    )
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, metavar="DIR", help="where prepared cases live")
    codes = 'what the label codes mean, code=label with 1 pancreas and 2 tumour, such as "10=1,*=0" (*: all others)'
    parser.add_argument(
        "--labels", default="auto", metavar="MAP", help=f"{codes}; auto: as the data set documents them"
    )
    workers = min(os.cpu_count() or 1, 4)
    parser.add_argument(
        "--workers", type=int, default=workers, metavar="N", help="processes that read at the same time"
    )
    return parser


def find_centre(args: argparse.Namespace) -> Centre:
    """List the cases and settle the label map. Raises InputError for an empty root or a centre name that is taken."""
    if not re.fullmatch(r"\w[\w.-]*", args.centre) or args.centre == "none":
        rule = "letters, digits, _ - . only, and not 'none', which means no centre"
        raise InputError(f"--centre {args.centre}: not usable as a name; use {rule}")
    if args.workers < 1:
        raise InputError(f"--workers {args.workers}: at least one process is needed; give 1 or more")
    source, root = SOURCES[args.source], args.root.expanduser().resolve()
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; check ROOT")
    labels = source.codes(root) if args.labels == "auto" else LabelMap.parse(args.labels)
    entries = tuple(source.entries(root))
    if not entries:
        raise InputError(f"{root}: no case in it; the layout of {args.source} is {source.summary}")
    centre = Centre(args.centre, args.source, root, args.store.expanduser(), labels, entries)
    _check_not_taken(centre)
    return centre


def _check_not_taken(centre: Centre) -> None:
    """One centre comes from one place; a second root under its name would mix hospitals unseen."""
    for path in centre.folder.glob("[!.]*/case.json"):
        try:
            root = json.loads(path.read_text())["source"]["root"]
        except (ValueError, KeyError, TypeError):
            continue  # not readable: that case is prepared anew
        if root != str(centre.root):
            remedy = f"choose another --centre, or delete {centre.folder}"
            raise InputError(f"--centre {centre.name}: the store has it from {root} already; {remedy}")


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, or of all files of a DICOM folder: of the content, as copying changes dates but not scans."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(file.name.encode())
        if file.is_file():
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 22):
                    digest.update(chunk)
    return digest.hexdigest()


def prepare_entry(entry: Entry, centre: Centre) -> Outcome:
    """Read, check and store one case; nothing to do where the store has it from the same files and label map."""
    folder = centre.folder / entry.name
    try:
        source = _source_of(entry, centre)
        if _is_current(folder, source):
            return Outcome(entry.name, "already there")
        image, label, notes = load_entry(entry, centre.labels)
    except InputError as error:
        earlier = " (the store keeps an earlier version of this case)" if folder.exists() else ""
        return Outcome(entry.name, "failed", f"{error}{earlier}")
    write_case(
        centre.store,
        centre.name,
        entry.name,
        image.array,
        label,
        patient=entry.patient,
        spacing=image.spacing,
        grid=image.grid.to_json(),
        source=source,
    )
    return Outcome(entry.name, "prepared", "; ".join(note for note in notes if "resampled" in note))


def _source_of(entry: Entry, centre: Centre) -> dict[str, str]:
    """The manifest's record of where a case came from; equal records mean an equal case."""
    if entry.fault:
        raise InputError(entry.fault)
    files = {}
    for kind, path in (("image", entry.image), ("label", entry.label)):
        try:
            files |= {kind: str(path), f"{kind}_sha256": fingerprint(path)}
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file; it belongs to case {entry.name}") from error
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check the file") from error
    return {"adapter": centre.adapter, "root": str(centre.root), "labels": str(centre.labels), **files}


def _is_current(folder: Path, source: dict[str, str]) -> bool:
    try:
        return read_case(folder).source == source
    except InputError:  # not there, unreadable, or prepared in another way: all are made anew
        return False


def _make_room(centre: Centre) -> None:
    try:
        centre.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{centre.folder}: cannot be made ({error.strerror}); choose another --store") from error
    _remove_unfinished(centre)


def _remove_unfinished(centre: Centre) -> None:
    for leftover in centre.folder.glob(".*.unfinished"):
        shutil.rmtree(leftover, ignore_errors=True)


def _report(centre: Centre, outcomes: list[Outcome]) -> int:
    count = {state: sum(o.state == state for o in outcomes) for state in ("prepared", "already there", "failed")}
    print(f"{centre.folder}: " + ", ".join(f"{number} {state}" for state, number in count.items()))
    gone = {path.parent.name for path in centre.folder.glob("[!.]*/case.json")} - {e.name for e in centre.entries}
    if gone:
        print(f"no longer in {centre.root}, still in the store: {', '.join(sorted(gone))}; delete them if not wanted")
    for outcome in sorted(outcomes):
        if outcome.state == "failed":
            print(f"failed: {outcome.name}: {outcome.line}", file=sys.stderr)
        elif outcome.line:
            print(f"note: {outcome.name}: {outcome.line}")
    return EXIT_BAD_INPUT if count["failed"] else 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = argument_parser("data.prepare", "Read a centre's scans once and keep them ready for training.").parse_args(
        argv
    )
    centre = find_centre(args)
    where = f"{len(centre.entries)} cases of {centre.root} ({centre.adapter}) -> {centre.folder}"
    print(f"centre {centre.name}: {where}, labels {centre.labels}, {args.workers} workers", flush=True)
    _make_room(centre)
    try:
        work = partial(prepare_entry, centre=centre)
        outcomes = list(in_parallel(work, centre.entries, args.workers, f"preparing {centre.name}"))
    finally:
        _remove_unfinished(centre)
    return _report(centre, outcomes)


if __name__ == "__main__":
    sys.exit(main())
