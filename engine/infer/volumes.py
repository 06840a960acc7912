"""The folder of predictions: which name every scan has in it, and the table volumes.csv with one row per scan.

Several calls, also at the same time, may write into one folder: each adds the rows of its scans and leaves the others.
"""

import csv
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from data.common.errors import InputError
from data.common.files import exclusive_lock
from data.sources.base import case_name
from engine.report.tables import CaseRow, failed, write_case_table

COLUMNS = (
    "case",
    "scan",
    "pancreas_ml",
    "tumour_ml",
    "tumour_score",
    "tumour_positive",
    "pancreas_disagreement",
    "tumour_disagreement",
    "seconds",
    "unreliable",
    "note",
    "made_from",
    "error",
)
# Columns that tables of earlier versions lack, all of them or some.
LATER = ("tumour_score", "tumour_positive", "pancreas_disagreement", "tumour_disagreement")
UNFINISHED = "not finished: a process is still working on it, or was interrupted"
LOCK_PATIENCE_S = 60.0  # another process holds the lock for as long as it takes to write the table


class PredictionFolder:
    """A folder of masks and pictures with the table of their volumes.

    Attributes:
        folder: The folder; need not exist yet.
        table: ``volumes.csv`` in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.table = folder, folder / "volumes.csv"
        self._threads = threading.Lock()  # so that threads of this process need not wait as for another process

    def mask_path(self, name: str) -> Path:
        """Return the path of the mask of a scan."""
        return self.folder / f"{name}_pancreas_tumour.nii.gz"

    def segmentation_path(self, name: str) -> Path:
        """Return the path of the mask of a scan as a DICOM segmentation."""
        return self.folder / f"{name}_seg.dcm"

    def picture_path(self, name: str) -> Path:
        """Return the path of the picture of a scan."""
        return self.folder / f"{name}.png"

    def map_path(self, name: str, target: str, kind: str) -> Path:
        """Return the path of a map of a scan, such as the ``kind`` "probability" of the ``target`` "tumour"."""
        return self.folder / f"{name}_{target}_{kind}.nii.gz"

    def candidates_path(self, name: str) -> Path:
        """Return the path of the table of the lesion candidates of a scan."""
        return self.folder / f"{name}_candidates.csv"

    def read_rows(self) -> list[CaseRow]:
        """Read the table, all values as text; there are no rows if there is no table.

        Raises:
            InputError: If the file is damaged or was not written by this command.
        """
        remedy = "move the file away, or choose another --output"
        try:
            with self.table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                header, *lines = csv.reader(file, strict=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, csv.Error) as error:
            raise InputError(self.table, f"not a readable CSV table ({error})", remedy) from error
        except ValueError:  # there is no header
            header, lines = [], []
        rows = [_complete(dict(zip(header, line, strict=False))) for line in lines]
        expected = [column for column in COLUMNS if column in header or column not in LATER]
        is_ours = header == expected and all(len(line) == len(header) for line in lines)
        if not is_ours or any(len({row[key] for row in rows}) < len(rows) for key in ("case", "scan")):
            raise InputError(self.table, "damaged, or not a table that this command wrote", remedy)
        return rows

    def assign_names(self, scans: Sequence[Path]) -> dict[Path, str]:
        """Choose the names under which scans are segmented into the folder.

        A scan that is in the table keeps its name. The others are named by their file, and by as many of the folders
        above it as distinguish them from each other.

        Args:
            scans: Files or folders of DICOM series.

        Returns:
            The names by the absolute path of the scan, in the order of ``scans``.

        Raises:
            InputError: If a scan is given twice, if names cannot be distinguished, if the mask of another scan would be
                overwritten, or if the table is damaged.
        """
        # Path.resolve would follow a link to a file whose name says nothing, as data stores keep them.
        places = [Path(os.path.abspath(scan)) for scan in scans]  # noqa: PTH100
        files: dict[Path, Path] = {}
        for place in places:
            if (first := files.setdefault(place.resolve(), place)) is not place:
                problem = "this scan is given twice" + (f", also as {first}" if first != place else "")
                raise InputError(place, problem, "give every scan once")
        rows = self.read_rows()
        names = _distinguish(places, {Path(row["scan"]): row["case"] for row in rows})
        owners = {row["case"]: row["scan"] for row in rows}
        for place, name in names.items():
            self._check_owner(name, str(place), owners)
            # A row that another process has written since is there before its mask is.
            if name not in owners and self.mask_path(name).exists() and name not in self._names_in_table():
                problem = f"this mask has no row in {self.table.name}, so it may be that of another scan"
                raise InputError(self.mask_path(name), problem, "move it away, or choose another --output")
        return names

    def find_finished(self, scan: Path, made_from: str) -> CaseRow | None:
        """Return the row of a scan that has been segmented by the same models, with its mask; None if there is none."""
        for row in self.read_rows():
            if row["scan"] == str(scan) and row["made_from"] == made_from and not failed(row):
                return row if self.mask_path(row["case"]).exists() else None
        return None

    def reserve(self, row: CaseRow) -> None:
        """Record that a scan is being segmented.

        No other process then uses its name, and a mask that does not belong to its row can be recognised.

        Raises:
            InputError: As for ``put``.
        """
        self.put(row | {"error": UNFINISHED})

    def put(self, row: CaseRow) -> None:
        """Write the row of a scan into the table. It replaces an earlier row of the same scan; all others stay.

        Raises:
            InputError: If the row of another scan has the same name, the table is damaged, or another process does not
                release its lock.
        """
        with self._threads, self._locked():
            rows = self.read_rows()
            self._check_owner(row["case"], row["scan"], {other["case"]: other["scan"] for other in rows})
            by_scan = {other["scan"]: other for other in rows} | {row["scan"]: _complete(row)}
            write_case_table(self.table, list(by_scan.values()))

    def _names_in_table(self) -> set[str]:
        return {row["case"] for row in self.read_rows()}

    def _locked(self) -> AbstractContextManager[int]:
        return exclusive_lock(self.folder, "try again, or choose another --output", patience_s=LOCK_PATIENCE_S)

    def _check_owner(self, name: str, scan: str, owners: Mapping[str, str]) -> None:
        if owners.get(name, scan) != scan:
            problem = f"this is the mask of another scan of the same name, {owners[name]}"
            remedy = "choose another --output, or give all scans in one call, which names them by their folders"
            raise InputError(self.mask_path(name), problem, remedy)


def _distinguish(places: Sequence[Path], known: Mapping[Path, str]) -> dict[Path, str]:
    """Name scans by their file and, where names collide, by one folder above it after the other.

    The names follow from ``places`` alone, however many of them are in the table already: processes that share the
    scans, or a call that goes on after an interruption, name them alike.

    Args:
        places: Absolute paths.
        known: Names that are fixed, because the table has them.

    Raises:
        InputError: If names collide although they hold all folders.
    """
    depths = dict.fromkeys(places, 0)
    _deepen(depths, {})
    names, collided = _deepen(depths, known)
    if collided:
        problem = "several scans would have this name and write the same mask"
        raise InputError(names[collided[0]], problem, "rename them, or segment them into different folders")
    return names


def _deepen(depths: dict[Path, int], fixed: Mapping[Path, str]) -> tuple[dict[Path, str], list[Path]]:
    """Use more folders in names until none collide; ``depths`` counts the folders in each.

    Returns:
        The names, and the scans whose names still collide.
    """
    while True:
        names = {}
        for place, depth in depths.items():
            folders = place.parent.parts[1:]
            own = case_name(place.name) or place.name
            names[place] = fixed.get(place) or "_".join((*folders[len(folders) - depth :], own))
        counts = Counter(names.values())
        collided = [place for place, name in names.items() if counts[name] > 1]
        deeper = [place for place in collided if place not in fixed and depths[place] < len(place.parts) - 2]
        if not deeper:
            return names, collided
        for place in deeper:
            depths[place] += 1


def _complete(row: CaseRow) -> CaseRow:
    """Return a row with all columns."""
    return {column: row.get(column, "") for column in COLUMNS}
