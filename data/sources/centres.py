"""What a command line asks for: which data set, read as which centre or centres of which store."""

import argparse
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data.cases.store import DEFAULT_STORE
from data.common.errors import InputError
from data.common.text import is_valid_name
from data.sources.catalogue import SOURCES, Entry, LabelMap, remarks

NAME_RULE = "letters, digits, _ - . only, and not 'none', which means no centre"


@dataclass(frozen=True)
class Centre:
    """One data set, or the part of it that one scanner or hospital made, read as one centre."""

    name: str
    adapter: str
    root: Path
    store: Path
    labels: LabelMap
    entries: tuple[Entry, ...]

    @property
    def folder(self) -> Path:
        return self.store / self.name

    def manifests(self) -> Iterator[Path]:
        """Of the cases that the store has of it."""
        return self.folder.glob("[!.]*/case.json")


def argument_parser(command_name: str, description: str) -> argparse.ArgumentParser:
    """The arguments that prepare and verify share."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {command_name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    kinds = "; ".join(f"{name}: {source.summary}" for name, source in SOURCES.items())
    parser.add_argument("source", metavar="SOURCE", choices=SOURCES, help=f"kind of data set. {kinds}")
    parser.add_argument("root", metavar="ROOT", type=Path, help="its folder, or of your own scans a table")
    parser.add_argument(
        "--centre",
        required=True,
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="what to call this centre from now on",
    )
    by = "a centre NAME_<value> for each value of this column of the data set's table, such as its scanner"
    parser.add_argument("--centre-by", metavar="COLUMN", help=by)
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, metavar="DIR", help="where prepared cases live")
    codes = 'what the label codes mean, code=label with 1 pancreas and 2 tumour, such as "10=1,*=0" (*: all others)'
    parser.add_argument(
        "--labels", default="auto", metavar="MAP", help=f"{codes}; auto: as the data set documents them"
    )
    parser.add_argument(
        "--moved", action="store_true", help="the data set lies elsewhere than when this centre was prepared"
    )
    workers = min(os.cpu_count() or 1, 4)
    parser.add_argument(
        "--workers", type=int, default=workers, metavar="N", help="processes that read at the same time"
    )
    return parser


def find_centres(args: argparse.Namespace) -> list[Centre]:
    """The centres that the data set is registered as: one, or one per value of the column ``args.centre_by``.

    The latter are called ``<centre>_<value>``. Lists their cases and settles the label map. Raises InputError for an
    empty root, a column that no case has, and a centre name that is taken.
    """
    whole = _look(args)
    centres = [whole] if args.centre_by is None else _by_column(whole, args.centre_by)
    for centre in centres:
        _check_not_taken(centre, args.moved)
    return centres


def notes_on(centres: list[Centre], by: str | None) -> list[str]:
    """What the user should know of a data set before it is read, one line each.

    Args:
        by: the column that made the centres (--centre-by), if one did.
    """
    lines = remarks(centres[0].adapter, centres[0].root)
    values = {dict(entry.columns).get("centre", "").strip() for entry in centres[0].entries} - {""}
    if by is None and len(values) > 1:
        several = f"the table's column centre has {len(values)} values"
        lines.append(f"{several}; --centre-by centre makes a centre of each, without it all are one")
    return lines


def _by_column(whole: Centre, column: str) -> list[Centre]:
    known = sorted({key for entry in whole.entries for key, _ in entry.columns})
    if column not in known:
        has = f"choose one of {', '.join(known)}" if known else "its cases have no columns, so leave it out"
        raise InputError(f"--centre-by {column}: no such column in {whole.root}; {has}")
    groups: dict[str, list[Entry]] = {}
    for entry in whole.entries:
        groups.setdefault(dict(entry.columns).get(column, "").strip(), []).append(entry)
    without = groups.pop("", [])
    if not groups:
        raise InputError(f"--centre-by {column}: empty in every case of {whole.root}; fill it in, or leave it out")
    centres = [replace(whole, name=name, entries=tuple(groups[v])) for v, name in _names(whole.name, groups).items()]
    # Cases of no centre are no centre: they are listed as failed with the first.
    fault = "{}: has no value in column {} of {}; fill it in, or leave the case out"
    lost = (replace(e, fault=e.fault or fault.format(e.image, column, whole.root)) for e in without)
    centres[0] = replace(centres[0], entries=(*centres[0].entries, *lost))
    return centres


def _names(centre: str, values: Iterable[str]) -> dict[str, str]:
    """A centre's name for each value. Raises InputError where two values would have one name."""
    names: dict[str, str] = {}
    for value in sorted(values):
        name = f"{centre}_" + re.sub(r"[^\w.-]+", "-", value).strip("-")
        if name in names.values():
            other = next(v for v, n in names.items() if n == name)
            raise InputError(f"--centre-by: {other!r} and {value!r} would both be called {name}; write them alike")
        names[value] = name
    return names


def _look(args: argparse.Namespace) -> Centre:
    if not is_valid_name(args.centre) or args.centre == "none":
        raise InputError(f"--centre {args.centre}: not usable as a name; use {NAME_RULE}")
    if args.workers < 1:
        raise InputError(f"--workers {args.workers}: at least one process is needed; give 1 or more")
    source, root = SOURCES[args.source], args.root.expanduser().resolve()
    if not root.exists():
        raise InputError(f"{root}: no such folder; check ROOT")
    if root.is_file() and not (args.source == "folder" and root.suffix.lower() == ".csv"):
        raise InputError(f"{root}: an archive or a file, not a folder; unpack it and give the folder as ROOT")
    labels = source.codes(root) if args.labels == "auto" else LabelMap.parse(args.labels)
    entries = tuple(source.entries(root))
    if not entries:
        raise InputError(f"{root}: no case in it; the layout of {args.source} is {source.summary}")
    return Centre(args.centre, args.source, root, args.store.expanduser(), labels, entries)


def _check_not_taken(centre: Centre, moved: bool) -> None:
    """One centre comes from one place, read in one way: another root or adapter under its name would mix hospitals,
    or cases whose lesions are drawn with such whose are not, unseen.
    """
    remedy = f"choose another --centre, or delete {centre.folder}"
    for path in centre.manifests():
        try:
            source = json.loads(path.read_text())["source"]
            root, adapter = source["root"], source["adapter"]
        except (ValueError, KeyError, TypeError):
            continue  # not readable: that case is prepared anew
        if adapter != centre.adapter:
            raise InputError(f"--centre {centre.name}: the store has it read as {adapter} already; {remedy}")
        if root == str(centre.root) or (moved and not Path(root).exists()):
            continue
        taken = f"--centre {centre.name}: the store has it from {root} already"
        if moved:
            raise InputError(f"{taken}, and that is still there, so it was not moved; {remedy}")
        if not Path(root).exists():
            raise InputError(
                f"{taken}, which is gone; if the data set was moved from there, add --moved, else {remedy}"
            )
        raise InputError(f"{taken}; {remedy}")
