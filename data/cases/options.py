"""The command-line options that several commands share: where the prepared cases are, and which series is read."""

from pathlib import Path

from data.cases.store import DEFAULT_STORE
from data.common.text import OptionGroup


def add_store(parser: OptionGroup, *, alone: bool = False) -> None:
    """Add ``--store``, the folder of the prepared cases; ``~`` in it stands for the home folder.

    Args:
        parser: Of the command, or a group of its options.
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


def add_series(parser: OptionGroup) -> None:
    """Add ``--series``, which chooses between the series of a DICOM folder; see ``data.scans.dicom_series``."""
    parser.add_argument(
        "--series",
        default="",
        metavar="TEXT",
        help="which series of a DICOM folder to read if it holds several CT scans: the number of the series, a part of "
        "its description, or the end of its SeriesInstanceUID (default: the only CT series)",
    )
