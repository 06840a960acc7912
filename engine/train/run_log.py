"""The record of a run: settings and versions as YAML, losses per epoch as CSV and TensorBoard, curves as a picture."""

import csv
import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data.common.files import replacing

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_RECORDED = ("torch", "numpy", "scipy", "scikit-image", "SimpleITK")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _RECORDED:
        if importlib.util.find_spec("skimage" if package == "scikit-image" else package):
            found[package] = importlib.metadata.version(package)
    return found


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """``settings.yaml``: what a run was asked to do, with the versions it runs on."""
    with replacing(folder / "settings.yaml") as unfinished:
        unfinished.write_text(yaml.safe_dump({**settings, "versions": versions()}, sort_keys=False))


class RunLog:
    """Writes the record of one run into its folder.

    Where TensorBoard or matplotlib is not installed (a rented machine that only trains), that part is left out
    and said once; everything that they show stands in ``losses.csv`` too.

    Args:
        folder: of the run. epochs_done: rows of an earlier part of the run to keep when it is resumed.
    """

    def __init__(self, folder: Path, epochs_done: int = 0):
        self.folder = folder
        self.table = folder / "losses.csv"
        self.history = self._read_table()[:epochs_done] if epochs_done else []
        self.missing = [name for name in ("tensorboard", "matplotlib", "seaborn") if not importlib.util.find_spec(name)]
        if self.missing:
            print(f"not installed: {', '.join(self.missing)}; the curves are in {self.table} alone")
        self._board = self._open_board(epochs_done)

    def add_epoch(self, row: Mapping[str, Any]) -> None:
        """One row of ``losses.csv``: numbers by name, "" where an epoch has none."""
        self.history.append(dict(row))
        columns = list(dict.fromkeys(name for epoch in self.history for name in epoch))
        with replacing(self.table) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.history)
        if self._board:
            for name, value in row.items():
                if name != "epoch" and value != "":
                    self._board.add_scalar(name, value, row["epoch"])
            self._board.flush()

    def draw_curves(self, title: str) -> None:
        """``curves.png``: the terms of the loss and the validation Dice over the epochs."""
        if "matplotlib" not in self.missing and "seaborn" not in self.missing:
            from engine.report.plots import curves

            curves(self.folder / "curves.png", self.history, title)

    def close(self) -> None:
        if self._board:
            self._board.close()

    def _read_table(self) -> list[dict[str, Any]]:
        if not self.table.exists():
            print(f"{self.table}: gone; the table of this run begins anew")
            return []
        with self.table.open(newline="") as file:
            return [{name: float(v) if v else "" for name, v in row.items()} for row in csv.DictReader(file)]

    def _open_board(self, epochs_done: int) -> "SummaryWriter | None":
        if "tensorboard" in self.missing:
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder), purge_step=epochs_done + 1 if epochs_done else None)
