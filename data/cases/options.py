"""The command-line option that all commands on prepared cases share."""

import argparse
from pathlib import Path

from data.cases.store import DEFAULT_STORE


def add_store(parser: argparse.ArgumentParser, *, alone: bool = False) -> None:
    """Add ``--store``, the folder of the prepared cases; ``~`` in it stands for the home folder.

    Args:
        parser: Of the command.
        alone: Whether ``--store`` may stand without a folder and then means the default one.
    """
    parser.add_argument(
        "--store",
        type=lambda text: Path(text).expanduser(),
        default=DEFAULT_STORE,
        nargs="?" if alone else None,
        const=DEFAULT_STORE if alone else None,
        metavar="DIR",
        help="folder of the prepared cases (default: %(default)s)",
    )
