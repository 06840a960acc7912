"""The command ``python -m data.splits``: show the splits of a store as a table, and add further ones."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.cases.case import Case
from data.cases.options import add_store
from data.cases.store import read_store
from data.common.errors import InputError, command
from data.common.program import command_name
from data.common.text import HelpFormatter, add_examples
from data.splits.folds import FOLDS, MIN_FOLDS, make_folds
from data.splits.frozen import frozen_splits, read_splits, write_splits
from data.splits.lists import read_lists
from data.splits.split import Split, select_cases


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    store: Path
    folds: int | None
    within: str | None
    lists: Path | None


def parse_options(argv: Sequence[str] | None) -> Options:
    """Parse the command line.

    Raises:
        InputError: If ``--within`` is given without ``--folds``.
    """
    parser = argparse.ArgumentParser(
        prog=command_name("python -m data.splits", "splits"),
        description="Show which cases of a store are trained on, validated on and tested on, and add splits to it. The "
        "splits that hold one centre out need no option: they are drawn when they are first needed. Training and "
        "evaluation use the split that --data names, or all folds of a cross-validation with --data folds.",
        formatter_class=HelpFormatter,
    )
    add_store(parser.add_argument_group("data"))
    added = parser.add_argument_group("splits to add")
    added.add_argument(
        "--folds",
        type=int,
        metavar="N",
        help=f"add a cross-validation of N folds, at least {MIN_FOLDS} (default: add none)",
    )
    added.add_argument(
        "--within",
        metavar="CENTRE",
        help="with --folds: make the folds from the cases of this centre (default: from those of all centres)",
    )
    added.add_argument(
        "--from",
        dest="lists",
        type=Path,
        metavar="FILE",
        help="add the splits that this JSON or CSV file lists (default: add none)",
    )
    add_examples(
        parser,
        ("", "show the splits of the store"),
        ("--folds 5", "add a cross-validation over all centres: folds_1 to folds_5"),
        ("--folds 5 --within a", "add one within the centre a: a_folds_1 to a_folds_5"),
        ("--from lists.json", "add the splits that are listed in a file"),
    )
    options = Options(**vars(parser.parse_args(argv)))
    if options.within is not None and options.folds is None:
        raise InputError(f"--within {options.within}", "no number of folds is given", "add --folds N")
    return options


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Add the splits that the command line asks for and print all splits of the store."""
    options = parse_options(argv)
    centres = read_store(options.store)
    splits = frozen_splits(options.store, centres)
    if options.within is not None and options.within not in centres:
        problem = "no centre of this name is prepared"
        raise InputError(f"--within {options.within}", problem, f"choose one of {', '.join(centres)}")
    if options.folds is not None:
        name, chosen = FOLDS, centres
        if options.within is not None:
            name, chosen = f"{options.within}_{FOLDS}", {options.within: centres[options.within]}
        folds = make_folds(chosen, options.folds, name)
        _add_splits(options.store / f"splits_{name}.json", folds, splits)
        splits |= folds
    if options.lists is not None:
        lists = read_lists(options.lists, centres)
        _add_splits(options.store / f"splits_{options.lists.stem}.json", lists, splits)
    print(format_table(frozen_splits(options.store, centres), centres))


def _add_splits(path: Path, more: dict[str, Split], splits: dict[str, Split]) -> None:
    if path.exists() and read_splits(path) != more:
        remedy = "to replace them, delete it together with the models that were trained on them"
        raise InputError(path, "the file holds other splits already", remedy)
    # The folds of a cross-validation are also chosen by its name, so that name must not be taken either.
    names, taken = (
        {name for split in group.values() for name in (split.name, split.cross_validation) if name}
        for group in (more, splits)
    )
    if not path.exists() and (repeated := names & taken):
        problem = "this name belongs to another split or to a centre already"
        raise InputError(f"split {min(repeated)}", problem, "choose another name")
    write_splits(path, more)


def format_table(splits: dict[str, Split], centres: dict[str, list[Case]]) -> str:
    """Format splits as a table with a row for each part and a column for each centre.

    Args:
        splits: The splits by name.
        centres: The cases by centre.

    Returns:
        The lines of the table. A cell holds the numbers of cases, of patients and of patients with a tumour.
    """
    rows = [("split", "hash", "part", "all", *centres)]
    for name, split in splits.items():
        heading = (name, split.hash)
        for part, keys in split.parts.items():
            cases = select_cases(centres, keys)
            by_centre = [_count_cases([case for case in cases if case.centre == centre]) for centre in centres]
            rows.append((*heading, part, _count_cases(cases), *by_centre))
            heading = ("", "")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(["cases/patients/patients with a tumour", *lines])


def _count_cases(cases: list[Case]) -> str:
    patients = {(case.centre, case.patient) for case in cases}
    with_tumour = {(case.centre, case.patient) for case in cases if case.tumour_box}
    return f"{len(cases)}/{len(patients)}/{len(with_tumour)}" if cases else "-"
