"""Segment a new scan in three steps: read it, segment it, write its mask and its picture with their row of the table.

The steps of successive scans overlap (``engine.infer.overlap``), so that every step keeps only what the next one needs.
"""

import contextlib
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.cases.labels import TUMOUR
from data.cases.resample import apply_preparation
from data.common.errors import InputError
from data.common.files import sha256_of
from data.common.memory import free_memory, require_memory
from data.prepare.provenance import stat_signature
from data.samples import patch_shape
from data.scans.bytes import SUFFIXES
from data.scans.grid import Grid, volume_ml
from data.scans.hounsfield import find_hu_problem
from data.scans.volume import Volume, read_image, write_mask
from data.sources.plausible import LARGEST_GLAND_ML
from engine.device import naming_memory_errors
from engine.infer.box import BYTES_PER_VOXEL
from engine.infer.cascade import CascadeResult, StageModel, segment_scan
from engine.infer.maps import SAVED, describe_disagreement, save_maps, saved_paths
from engine.infer.volumes import PredictionFolder
from engine.report.drawing import drawing
from engine.report.pictures import draw_overlay
from engine.report.tables import CaseRow, failed

# Bytes per voxel of a scan.
WORK_BYTES = 4  # for masks of three stages, the label and its copy while it is written
# The scan before, with its label and the copy that is written, and the next one, as it is read and as it is prepared.
OTHER_SCANS_BYTES = 12
MAP_BYTES = 4  # a map as it is written: its bytes, their copy in the order of the file, and ITK's


class PreparedScan(NamedTuple):
    """A scan that has been read.

    Attributes:
        image: int16 HU, prepared like the training cases of the models, shape (D, H, W).
        spacing: Voxel spacing (z, y, x) of the image in mm.
        grid: Where the image lies in the scan.
        voxels: Number of voxels of the scan itself.
        doubts: Why its mask will not be reliable.
        notes: What a reader of the mask should know.
    """

    image: np.ndarray
    spacing: tuple[float, float, float]
    grid: Grid
    voxels: int
    doubts: tuple[str, ...]
    notes: tuple[str, ...]


class SegmentedScan(NamedTuple):
    """A scan that has been segmented.

    Attributes:
        scan: The scan.
        result: What the cascade made of it.
    """

    scan: PreparedScan
    result: CascadeResult


@dataclass(frozen=True)
class Passage:
    """A scan on its way through the three steps.

    Attributes:
        path: Absolute path of the file or folder.
        row: Of the table of volumes, as far as it is known; it has an error if a step has failed.
        content: What the last step made of the scan; None before the first, and after one that has failed.
        seconds: What the steps have taken.
        is_finished: Whether the folder holds its mask already, so that there is nothing to do.
    """

    path: Path
    row: CaseRow
    content: Any = None
    seconds: float = 0.0
    is_finished: bool = False


@dataclass(frozen=True)
class ScanSegmenter:
    """The three steps, for all scans that are segmented into one folder. The error of a scan becomes its row.

    Attributes:
        models: The models by the name of their stage, in the order of the cascade; all were trained on cases that were
            prepared in the same way.
        folder: Gets masks, pictures and rows.
        series: Which series of a DICOM folder, as ``--series`` names it; empty for the only one.
        models_hash: Of the models (``hash_models``).
        saves_maps: Whether probabilities and lesion candidates are written, too.
    """

    models: Mapping[str, StageModel]
    folder: PredictionFolder
    series: str
    models_hash: str
    saves_maps: bool = False

    @property
    def is_ensemble(self) -> bool:
        """Whether several networks decide together."""
        return any(model.members for model in self.models.values())

    def read(self, scan: tuple[Path, str]) -> Passage:
        """Read and prepare a scan, unless the folder holds its mask already.

        Args:
            scan: Absolute path of the file or folder, and its name in the folder of predictions.
        """
        path, name = scan
        row: CaseRow = {"case": name, "scan": str(path), "pancreas_ml": "", "tumour_ml": "", "tumour_score": ""}
        row |= {"seconds": "", "unreliable": "", "note": "", "made_from": self._origin_of(path), "error": ""}
        if (finished := self.folder.find_finished(path, row["made_from"])) and self._has_maps(name):
            return Passage(path, finished, is_finished=True)
        return self._step(self._read, Passage(path, row, content=path))

    def segment(self, scan: Passage) -> Passage:
        """Segment a scan with the cascade.

        Raises:
            InputError: As for ``PredictionFolder.put``.
        """
        if scan.is_finished:
            print(f"{scan.row['case']}: already segmented by these models")
            return scan
        self.folder.reserve(scan.row)
        if scan.row["error"]:  # It may have been read while another scan took the memory; now it is alone.
            scan = self._step(self._read, replace(scan, row=scan.row | {"error": ""}, content=scan.path))
        return self._step(self._segment, scan)

    def write(self, scan: Passage) -> CaseRow:
        """Write mask, picture and row of a scan.

        Returns:
            The row; with an error if the scan failed.

        Raises:
            InputError: As for ``PredictionFolder.put``.
        """
        if scan.is_finished:
            return scan.row
        written = self._step(functools.partial(self._write, scan.row["case"]), scan)
        row = written.row | (written.content or {})
        if not failed(row):
            row["seconds"] = round(written.seconds, 1)
            row["made_from"] = "" if row.pop("picture_fault") else row["made_from"]  # another call draws it
        self.folder.put(row)
        return row

    def has_room(self, scan: Passage) -> bool:
        """Return whether the memory has room for the network and for two other scans beside one that was read."""
        if scan.is_finished:
            return True
        if failed(scan.row):
            return False
        patches = [math.prod(patch_shape(m.stage.sampling)) for m in self.models.values() if m.device.type == "cpu"]
        scans = WORK_BYTES + OTHER_SCANS_BYTES + (MAP_BYTES if self.saves_maps else 0)
        needed = scans * scan.content.voxels + BYTES_PER_VOXEL * max(patches, default=0)
        free = free_memory()
        return free is None or needed < free

    def _has_maps(self, name: str) -> bool:
        files = saved_paths(self.folder, name, ensemble=self.is_ensemble) if self.saves_maps else []
        return all(file.exists() for file in files)

    def _origin_of(self, scan: Path) -> str:
        return describe_origin(scan, self.series, self.models_hash)

    def _step(self, step: Callable[[Any], Any], scan: Passage) -> Passage:
        """Take a step with what the one before has made of a scan, and add its time."""
        if failed(scan.row):
            return scan
        start = time.monotonic()
        device = next(iter(self.models.values())).device
        try:
            with naming_memory_errors(str(scan.path), device, "use --gpu cpu, or close other programs"):
                content = step(scan.content)
        except InputError as error:
            return replace(scan, content=None, row=scan.row | {"error": f"{error}{_advise_on_folder(scan.path)}"})
        return replace(scan, content=content, seconds=scan.seconds + time.monotonic() - start)

    def _read(self, path: Path) -> PreparedScan:
        volume = _read_volume(path, self.series)
        require_memory(path, WORK_BYTES * volume.array.size)
        preparation = next(iter(self.models.values())).preparation
        image, spacing, part = apply_preparation(volume.array, volume.spacing, preparation)
        return PreparedScan(
            image=image,
            spacing=spacing,
            grid=replace(volume.grid, part=part),
            voxels=volume.array.size,
            doubts=find_doubts(volume.array),
            notes=volume.notes if path.is_dir() else (),  # those on a file concern its header only
        )

    def _segment(self, scan: PreparedScan) -> SegmentedScan:
        keep = SAVED if self.saves_maps or self.is_ensemble else ()
        return SegmentedScan(scan, segment_scan(self.models, scan.image, scan.spacing, keep=keep))

    def _write(self, name: str, segmented: SegmentedScan) -> CaseRow:
        scan, (label, notes, doubts, candidates, found) = segmented
        write_mask(self.folder.mask_path(name), label, scan.grid)
        for file in saved_paths(self.folder, name):
            file.unlink(missing_ok=True)  # of an earlier call, perhaps of other models
        if self.saves_maps:
            save_maps(self.folder, name, scan.grid, found, candidates, scan.spacing, ensemble=self.is_ensemble)
        disagreement, disputed = describe_disagreement(found)
        pancreas_ml, tumour_ml = volume_ml(label > 0, scan.spacing), volume_ml(label == TUMOUR, scan.spacing)
        doubts = (*scan.doubts, *find_doubts_of_size(pancreas_ml), *doubts, *disputed)
        with drawing(self.folder.picture_path(name)) as picture:
            draw_overlay(
                self.folder.picture_path(name),
                scan.image,
                reference=None,
                prediction=label,
                spacing=scan.spacing,
                title=f"{name}: pancreas {pancreas_ml:.1f} ml, tumour {tumour_ml:.1f} ml",
                doubts=doubts,
            )
        fast = "without flips (--fast)" if any(model.fast for model in self.models.values()) else ""
        return {
            "pancreas_ml": round(pancreas_ml, 2),
            "tumour_ml": round(tumour_ml, 2),
            "tumour_score": round(candidates.score, 4),
            **disagreement,
            "unreliable": "yes" if doubts else "",
            "note": "; ".join(filter(None, (*doubts, *notes, *scan.notes, fast, picture.fault))),
            "picture_fault": picture.fault,
        }


def _read_volume(scan: Path, series: str) -> Volume:
    """Read a scan; that its disk or share fails concerns this scan only."""
    try:
        return read_image(scan, series)
    except OSError as error:
        problem = f"the file cannot be read ({error.strerror or error})"
        raise InputError(error.filename or scan, problem, "check its permissions and the disk") from error


def hash_models(models: Mapping[str, StageModel]) -> str:
    """Return a hash of the networks and of how they are read; it does not depend on where they lie."""
    used = [
        [sha256_of(model.run / "best.pt"), model.readout, model.threshold, *(["fast"] if model.fast else [])]
        for model in models.values()
    ]
    used += [
        [sha256_of(member.run / "best.pt") for member in model.members] for model in models.values() if model.members
    ]
    return hashlib.sha256(json.dumps(used).encode()).hexdigest()


def describe_origin(scan: Path, series: str, models_hash: str) -> str:
    """Return a hash of everything that decides the mask of a scan: its files and the models.

    Files count as unchanged if their sizes and dates are. A scan that does not exist has a hash, too.
    """
    with contextlib.suppress(OSError):
        series += stat_signature(scan)
    return hashlib.sha256(f"{models_hash} {series}".encode()).hexdigest()[:16]


def find_doubts(scan: np.ndarray) -> tuple[str, ...]:
    """Return a note if the values of a scan do not look like HU."""
    problem = find_hu_problem(scan)
    return (": ".join(problem),) if problem else ()


def find_doubts_of_size(pancreas_ml: float) -> tuple[str, ...]:
    """Return a note if the segmented pancreas is far too large."""
    if pancreas_ml <= LARGEST_GLAND_ML:
        return ()
    return (f"{pancreas_ml:.0f} ml are too much for a pancreas, the model may not have been trained enough",)


def _advise_on_folder(scan: Path) -> str:
    """Return what to give instead of a folder whose files are scans of their own; empty for anything else."""
    files = [path.name.lower() for path in scan.glob("[!.]*")] if scan.is_dir() else []
    patterns = [f"{scan}/*{suffix}" for suffix in SUFFIXES if any(name.endswith(suffix) for name in files)]
    return f" The folder holds scans as files; give these: {' '.join(patterns)}" if patterns else ""
