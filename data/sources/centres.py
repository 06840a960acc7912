"""The centres that a command reads: which data set, registered as which centre or centres of which store.

``data.prepare`` and ``data.verify`` share these options: ``add_centre_arguments`` declares them,
``CentreOptions.from_args`` validates them once, and ``find_centres`` lists the cases.
"""

import argparse
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data.cases.options import add_series, add_store
from data.common.errors import InputError
from data.common.progress import add_quiet
from data.common.text import HelpFormatter, is_valid_name
from data.sources.base import Entry
from data.sources.catalogue import SOURCES, layouts, remarks
from data.sources.label_map import LabelMap, find_contradiction
from data.sources.label_names import names_help

# The condition belongs to the example: copied without it, the map would make another organ the pancreas.
EXAMPLE_MAP = '"4=1,7=2,*=0" if the codes are 4 for the pancreas and 7 for the tumour'


@dataclass(frozen=True)
class CentreOptions:
    """The options that say which data set is read as which centres.

    Attributes:
        source: Name of the data set's adapter, a key of SOURCES.
        root: Folder of the data set, or the table (.csv) of a ``folder`` data set; absolute.
        centre: Name of the centre.
        centre_by: Column of the data set's table whose values make one centre each, or None for a single centre.
        store: Folder of the prepared cases.
        labels: What the label codes mean, or None for what the label files and the data set say.
        accept_labels: Whether to use labels whose volume or place is implausible, or whose names contradict ``labels``.
        series: Which series of each DICOM folder is read, where the data set's table does not say it.
        moved: Whether the data set may have been moved since the centre was prepared.
        workers: Number of processes that read cases.
    """

    source: str
    root: Path
    centre: str
    centre_by: str | None
    store: Path
    labels: LabelMap | None
    accept_labels: bool
    series: str
    moved: bool
    workers: int

    @staticmethod
    def from_args(args: argparse.Namespace) -> "CentreOptions":
        """Validate the options that ``add_centre_arguments`` declares.

        Raises:
            InputError: If the centre's name, the label map or the number of workers is not valid.
        """
        if not is_valid_name(args.centre) or args.centre in ("none", "synthetic"):
            rule = 'use letters, digits, "_", "-" and "." only; "none" and "synthetic" are reserved, as names of splits'
            raise InputError(f"--centre {args.centre}", "not a valid name for a centre", rule)
        if args.workers < 1:
            raise InputError(f"--workers {args.workers}", "at least one process is needed", "give 1 or more")
        try:
            labels = None if args.labels == "auto" else replace(LabelMap.parse(args.labels), given=True)
        except ValueError as error:
            remedy = f"write pairs code=label with the labels 0, 1 or 2, such as {EXAMPLE_MAP}"
            raise InputError(f"--labels {args.labels}", str(error), remedy) from error
        return CentreOptions(
            source=args.source,
            root=args.root.expanduser().resolve(),
            centre=args.centre,
            centre_by=args.centre_by,
            store=args.store,
            labels=labels,
            accept_labels=args.accept_labels,
            series=args.series,
            moved=args.moved,
            workers=args.workers,
        )


@dataclass(frozen=True)
class Centre:
    """A data set, or the part of it that one scanner or hospital contributed, registered under one name."""

    name: str
    adapter: str  # key of SOURCES
    root: Path
    store: Path
    labels: LabelMap
    entries: tuple[Entry, ...]
    accept_labels: bool = False

    @property
    def folder(self) -> Path:
        """Folder of the centre in the store."""
        return self.store / self.name

    def manifests(self) -> Iterator[Path]:
        """Find the manifests (case.json) of the centre's cases in the store."""
        return self.folder.glob("[!.]*/case.json")


def add_centre_arguments(parser: argparse.ArgumentParser, *, or_store: bool = False) -> argparse._ArgumentGroup:
    """Declare the arguments of ``CentreOptions``, and list the layout of every data set after them in the help.

    Args:
        parser: Of the command.
        or_store: Whether the command also works on the store alone, without SOURCE, ROOT and --centre.

    Returns:
        The last group of options, "output and machine", for what the command itself adds to it.
    """
    parser.formatter_class = HelpFormatter
    parser.epilog = (
        f"what ROOT holds, by SOURCE:\n{layouts()}\n\nnames of label codes, made of these words:\n{names_help()}"
    )
    count = "?" if or_store else None
    parser.add_argument(
        "source", metavar="SOURCE", choices=SOURCES, help="kind of data set, one of those listed below", nargs=count
    )
    parser.add_argument(
        "root",
        metavar="ROOT",
        type=Path,
        help="folder of the data set, or a table (.csv) of your own scans",
        nargs=count,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--centre",
        required=not or_store,
        metavar="NAME",
        default=None if or_store else argparse.SUPPRESS,
        help="name under which the store, the splits and the results list this centre",
    )
    data.add_argument(
        "--centre-by",
        metavar="COLUMN",
        help="column of the data set's table, such as the scanner; each of its values becomes a centre NAME_<value> "
        "(default: one centre)",
    )
    add_store(data, alone=or_store)
    add_series(data)
    data.add_argument(
        "--moved",
        action="store_true",
        help="accept a ROOT other than the one from which this centre was prepared, if that no longer exists "
        "(default: refuse it)",
    )
    labels = parser.add_argument_group("labels")
    labels.add_argument(
        "--labels",
        default="auto",
        metavar="MAP",
        help="meaning of the label codes as pairs code=label, where 0 is background, 1 pancreas, 2 tumour, and the "
        f'code "*" stands for all others, such as {EXAMPLE_MAP} (default: auto, by the names that a label file or '
        "dataset.json gives to its codes, otherwise as the data set documents them)",
    )
    labels.add_argument(
        "--accept-labels",
        action="store_true",
        help="use labels whose volume or place is implausible, and --labels that contradicts the names of the codes "
        "(default: refuse them)",
    )
    output = parser.add_argument_group("output and machine")
    output.add_argument(
        "--workers",
        type=int,
        default=min(os.cpu_count() or 1, 4),
        metavar="N",
        help="number of processes that read cases at the same time (default: %(default)s)",
    )
    add_quiet(output)
    return output


def find_centres(options: CentreOptions) -> list[Centre]:
    """List the cases of the data set and assign them to one centre, or to one per value of a column.

    The centres of a column are called ``<centre>_<value>``. Cases without a value in it belong to none of them; they
    are appended to the first centre with a fault, so that they are reported.

    Raises:
        InputError: If the data set is not there or empty, ``--labels`` contradicts its dataset.json, no case has a
            value in the column, or the store already holds a centre of this name from another data set.
    """
    source, root = SOURCES[options.source], options.root
    if not root.exists():
        raise InputError(root, "no such folder", "check the path")
    if root.is_file() and not (options.source == "folder" and root.suffix.lower() == ".csv"):
        raise InputError(root, "an archive or another file, not a folder", "unpack it and give the folder as ROOT")
    labels = source.codes(root) if options.labels is None else options.labels
    entries = tuple(replace(entry, series=entry.series or options.series) for entry in source.entries(root))
    if not entries:
        raise InputError(root, "it holds no case", f"check the layout, which for {options.source} is {source.summary}")
    if options.labels is not None and not options.accept_labels:
        _check_names(options.labels, entries)
    whole = Centre(options.centre, options.source, root, options.store, labels, entries, options.accept_labels)
    centres = [whole] if options.centre_by is None else _split_by_column(whole, options.centre_by)
    for centre in centres:
        _check_name_is_free(centre, options.moved)
    return centres


def _check_names(labels: LabelMap, entries: Iterable[Entry]) -> None:
    """Refuse a map of the user that contradicts the names in the data set's dataset.json."""
    names = next((entry.names for entry in entries if entry.names), {})
    if contradiction := find_contradiction(labels, names):
        remedy = "leave --labels out to follow dataset.json, or insist on the map with --accept-labels"
        raise InputError(f"--labels {labels}", f"in dataset.json {contradiction}", remedy)


def notes_on(centres: list[Centre], centre_by: str | None) -> list[str]:
    """Collect what the user should know about a data set before it is read.

    Args:
        centres: The centres found in one data set.
        centre_by: The column that made the centres, if one did.

    Returns:
        One line per note.
    """
    lines = remarks(centres[0].adapter, centres[0].root)
    values = {dict(entry.columns).get("centre", "").strip() for entry in centres[0].entries} - {""}
    if centre_by is None and len(values) > 1:
        lines.append(
            f"the column centre of the table has {len(values)} values, but all cases are read as one centre; "
            "--centre-by centre makes a centre of each"
        )
    return lines


def _split_by_column(whole: Centre, column: str) -> list[Centre]:
    columns = sorted({key for entry in whole.entries for key, _ in entry.columns})
    if column not in columns:
        remedy = f"choose one of {', '.join(columns)}" if columns else "leave the option out: the cases have no columns"
        raise InputError(f"--centre-by {column}", f"{whole.root} has no such column", remedy)
    groups: dict[str, list[Entry]] = {}
    for entry in whole.entries:
        groups.setdefault(dict(entry.columns).get(column, "").strip(), []).append(entry)
    without = groups.pop("", [])
    if not groups:
        problem = f"the column is empty for every case of {whole.root}"
        raise InputError(f"--centre-by {column}", problem, "fill it in, or leave the option out")
    names = _centre_names(whole.name, column, groups)
    centres = [replace(whole, name=name, entries=tuple(groups[value])) for value, name in names.items()]
    for entry in without:
        problem = f"the case has no value in column {column} of the table"
        fault = InputError(entry.image or whole.root, problem, "fill it in, or leave the case out")
        entries = (*centres[0].entries, replace(entry, fault=entry.fault or fault))
        centres[0] = replace(centres[0], entries=entries)
    return centres


def _centre_names(centre: str, column: str, values: Iterable[str]) -> dict[str, str]:
    """Name a centre for each value. Raises InputError if two values would give one name."""
    names: dict[str, str] = {}
    for value in sorted(values):
        name = f"{centre}_" + re.sub(r"[^\w.-]+", "-", value).strip("-")
        if name in names.values():
            other = next(v for v, n in names.items() if n == name)
            problem = f"the values {other!r} and {value!r} would both give the centre {name}"
            raise InputError(f"--centre-by {column}", problem, "write them alike in the table")
        names[value] = name
    return names


def _check_name_is_free(centre: Centre, moved: bool) -> None:
    """Refuse a centre whose name the store uses for another data set.

    Cases of another root, or of the same root read by another adapter, would otherwise join the centre unnoticed:
    hospitals would be mixed, or cases with annotated lesions with cases whose lesions are not annotated.
    """
    option = f"--centre {centre.name}"
    remedy = f"choose another --centre, or delete {centre.folder}"
    for path in centre.manifests():
        try:
            source = json.loads(path.read_text())["source"]
            root, adapter = source["root"], source["adapter"]
        except (ValueError, KeyError, TypeError):
            continue  # an unreadable manifest: that case is prepared again
        if adapter != centre.adapter:
            raise InputError(option, f"the store already holds this centre, read as {adapter}", remedy)
        gone = not Path(root).exists()
        if root == str(centre.root) or (moved and gone):
            continue
        problem = f"the store already holds this centre, prepared from {root}"
        if moved:
            raise InputError(option, f"{problem}, which still exists, so the data set was not moved", remedy)
        if gone:
            raise InputError(
                option,
                f"{problem}, which no longer exists",
                f"add --moved if this is the same data set in a new place; otherwise {remedy}",
            )
        raise InputError(option, problem, remedy)
