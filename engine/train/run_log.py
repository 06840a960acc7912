"""The record of a run: settings and versions as YAML, losses per epoch as CSV and TensorBoard, curves as a picture."""

import csv
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data.common.errors import InputError
from data.common.files import replacing
from engine.report.drawing import drawing
from engine.train.trackers import Tracking

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# Distribution -> the module that shows whether a run has used it.
_PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy",
    "scikit-image": "skimage",
    "SimpleITK": "SimpleITK",
    "medpy": "medpy",
    "opencv-python-headless": "cv2",
    "matplotlib": "matplotlib",
    "seaborn": "seaborn",
    "tensorboard": "tensorboard",
    "PyYAML": "yaml",
    "tqdm": "tqdm",
}


def versions() -> dict[str, str]:
    """Return the versions of Python and of those packages that this process has imported."""
    used = [package for package, module in _PACKAGES.items() if module in sys.modules]
    return {"python": platform.python_version()} | {package: importlib.metadata.version(package) for package in used}


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write ``settings.yaml``: what a run was asked to do, with the versions that it uses."""
    with replacing(folder / "settings.yaml") as unfinished:
        unfinished.write_text(yaml.safe_dump({**settings, "versions": versions()}, sort_keys=False))


class RunLog:
    """Write the record of one run into its folder.

    Where TensorBoard or matplotlib is not installed (on a rented machine that only trains, say), its part is left out,
    which is printed once; ``losses.csv`` holds everything that they would show.

    Args:
        folder: Of the run.
        epochs_done: Rows of an earlier part of the run to keep when it is resumed.
        tracker: Experiment tracker that gets the rows as well, one of ``TRACKERS``; empty for none.

    Attributes:
        undrawn: Why the curves were not drawn the last time; empty if they were.
    """

    def __init__(self, folder: Path, epochs_done: int = 0, tracker: str = "") -> None:
        self.folder = folder
        self.table = folder / "losses.csv"
        self.history = self._read_table()[:epochs_done] if epochs_done else []
        self.missing = [name for name in ("tensorboard", "matplotlib", "seaborn") if not importlib.util.find_spec(name)]
        if self.missing:
            print(f"not installed: {', '.join(self.missing)}; the losses are in {self.table} only")
        self.undrawn = ""
        self._board = self._open_board(epochs_done)
        self._tracking = Tracking(tracker, folder, self.history) if tracker else None

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    def add_epoch(self, row: Mapping[str, float | None]) -> None:
        """Add a row to ``losses.csv``; a value of None leaves its cell empty."""
        self.history.append(dict(row))
        columns = list(dict.fromkeys(name for epoch in self.history for name in epoch))
        with replacing(self.table) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.history)
        if self._board:
            for name, value in row.items():
                if name != "epoch" and value is not None:
                    self._board.add_scalar(name, value, int(row["epoch"] or 0))
            self._board.flush()
        if self._tracking:
            self._tracking.log(row)

    def draw_curves(self, title: str) -> None:
        """Draw ``curves.png``: the terms of the loss and the validation Dice over the epochs, if that works."""
        if "matplotlib" not in self.missing and "seaborn" not in self.missing:
            with drawing(self.folder / "curves.png") as picture:
                from engine.report.plots import draw_curves

                draw_curves(self.folder / "curves.png", self.history, title)
            self.undrawn = picture.fault

    def close(self, *, failed: bool = False) -> None:
        """Close the TensorBoard file and the tracked run, and say so if the last curves could not be drawn."""
        if self._board:
            self._board.close()
        if self._tracking:
            self._tracking.close(failed=failed)
        if self.undrawn:
            print(f"note: {self.undrawn}; the losses are in {self.table}")

    def _read_table(self) -> list[dict[str, float | None]]:
        if not self.table.exists():
            print(f"{self.table}: missing; the table of this run starts again with the next epoch")
            return []
        try:
            with self.table.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, strict=True))
            history = [{name: _number(text) for name, text in row.items()} for row in rows]
            if [row["epoch"] for row in history] != list(range(1, len(history) + 1)):
                raise ValueError("its epochs do not follow each other")
        except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            problem, remedy = f"damaged ({error})", "move it away and run again; its table starts with the next epoch"
            raise InputError(self.table, problem, remedy) from error
        return history

    def _open_board(self, epochs_done: int) -> "SummaryWriter | None":
        if "tensorboard" in self.missing:
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder), purge_step=epochs_done + 1 if epochs_done else None)


def _number(text: str) -> float | None:
    """Read a cell as it was written: whole numbers stay whole, an empty cell is None."""
    if not text:
        return None
    return int(text) if text.lstrip("-").isdecimal() else float(text)
