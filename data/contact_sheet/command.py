"""The command ``python -m data.contact_sheet``: draw the prepared cases of each centre on contact sheets.

python -m data.contact_sheet sheets --store data/prepared --centres hospital_a
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.cases.options import add_store
from data.cases.store import read_store
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import check_writable
from data.common.program import command_name
from data.common.progress import add_quiet, progress
from data.common.text import HelpFormatter, add_examples
from data.contact_sheet.sheet import draw_tile, write_sheets


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    out: Path
    store: Path
    centres: list[str] | None


def parse_options(argv: Sequence[str] | None) -> Options:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=command_name("python -m data.contact_sheet", "contact-sheet"),
        description="Draw the prepared cases of each centre on contact sheets, one tile for each case.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the pictures")
    add_store(parser)
    parser.add_argument("--centres", nargs="+", metavar="NAME", help="names of the centres to draw (default: all)")
    add_quiet(parser)
    add_examples(
        parser,
        ("sheets", "draw all prepared cases"),
        ("sheets --centres hospital_a", "draw the cases of one centre"),
    )
    return Options(**vars(parser.parse_args(argv)))


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Draw the contact sheets of the chosen centres.

    A case that cannot be read is reported at the end and does not stop the others.

    Returns:
        The exit code: 2 if a case could not be drawn.
    """
    options = parse_options(argv)
    centres = read_store(options.store)
    names = list(dict.fromkeys(options.centres or centres))
    if unknown := [name for name in names if name not in centres]:
        problem = "no centre of this name is prepared"
        raise InputError(f"--centres {unknown[0]}", problem, f"choose from {', '.join(centres)}")
    check_writable(options.out.expanduser())
    faults = []
    for name in names:
        tiles = []
        for case in progress(centres[name], title=f"drawing {name}", unit="case"):
            try:
                tiles.append(draw_tile(case.image(), case.label(), case.spacing, case.name))
            except InputError as error:
                faults.append(error)
        for path in write_sheets(options.out.expanduser(), name, tiles):
            print(path)
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0
