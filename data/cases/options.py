"""The command-line option that all commands on prepared cases share."""

import argparse
from pathlib import Path

from data.cases.store import DEFAULT_STORE


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add ``--store``, the folder of the prepared cases; ``~`` in it stands for the home folder."""
    parser.add_argument(
        "--store",
        type=lambda text: Path(text).expanduser(),
        default=DEFAULT_STORE,
        metavar="DIR",
        help="folder of the prepared cases (default: %(default)s)",
    )
