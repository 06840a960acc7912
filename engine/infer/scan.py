"""Segment a new scan in three steps: read it, segment it, write its mask and its picture with their row of the table.

The steps of successive scans overlap (``engine.infer.overlap``), so that every step keeps only what the next one needs.
"""

import contextlib
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.common.errors import InputError
from data.common.memory import free_memory
from data.prepare.provenance import stat_signature
from data.samples import patch_shape
from data.scans.bytes import SUFFIXES
from data.scans.grid import Grid
from data.scans.volume import Volume, read_image, read_label, write_mask
from engine.device import naming_memory_errors
from engine.infer.box import BYTES_PER_VOXEL
from engine.infer.dicom_seg import Origin, Source, read_source, write_segmentation
from engine.infer.maps import SAVED, measure_disagreement, save_maps, saved_paths
from engine.infer.models import StageModel, find_operating_point, switched_on
from engine.infer.prepared import WORK_BYTES, PreparedScan, SegmentedScan, is_ensemble, prepare_scan, segment_prepared
from engine.infer.report import remove_outdated_pages
from engine.infer.volumes import PredictionFolder
from engine.report.drawing import drawing
from engine.report.pictures import draw_overlay
from engine.report.tables import CaseRow, failed

# Bytes per voxel of a scan, beside WORK_BYTES.
# The scan before, with its label and the copy that is written, and the next one, as it is read and as it is prepared.
OTHER_SCANS_BYTES = 12
MAP_BYTES = 4  # a map as it is written: its bytes, their copy in the order of the file, and ITK's


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
        dicom_seg: Whether the mask of a DICOM series is written as a DICOM segmentation as well.
        save_probabilities: Whether probabilities and lesion candidates are written as well.
    """

    models: Mapping[str, StageModel]
    folder: PredictionFolder
    series: str
    models_hash: str
    dicom_seg: bool = False
    save_probabilities: bool = False

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
        remove_outdated_pages(scan.row["case"], self.folder)
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
            return self._step(self._add_segmentation, replace(scan, content=scan)).row
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
        scans = WORK_BYTES + OTHER_SCANS_BYTES + (MAP_BYTES if self.save_probabilities else 0)
        needed = scans * scan.content.voxels + BYTES_PER_VOXEL * max(patches, default=0)
        free = free_memory()
        return free is None or needed < free

    def _has_maps(self, name: str) -> bool:
        files = saved_paths(self.folder, name, ensemble=is_ensemble(self.models)) if self.save_probabilities else []
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
        scan = prepare_scan(self.models, _read_volume(path, self.series), path)
        return self._add_source(path, scan) if self.dicom_seg else scan

    def _segment(self, scan: PreparedScan) -> SegmentedScan:
        return segment_prepared(self.models, scan, keep=SAVED if self.save_probabilities else ())

    def _write(self, name: str, segmented: SegmentedScan) -> CaseRow:
        scan, result = segmented
        if (segmentation := self.folder.segmentation_path(name)).exists():  # it may be of other models
            segmentation.unlink(missing_ok=True)
            if not scan.source:
                print(f"{segmentation}: removed, because {name} was segmented again without --dicom-seg")
        write_mask(self.folder.mask_path(name), result.label, scan.grid)
        for file in saved_paths(self.folder, name):
            file.unlink(missing_ok=True)  # of an earlier call, perhaps of other models
        if self.save_probabilities:
            save_maps(self.folder, name, result, grid=scan.grid, ensemble=is_ensemble(self.models))
        pancreas_ml, tumour_ml, doubts = segmented.pancreas_ml, segmented.tumour_ml, segmented.doubts
        notes, disagreement = result.notes, measure_disagreement(result.probabilities)
        if scan.source:
            notes = (*notes, *self._write_segmentation(name, result.label, scan.grid, scan.source, "; ".join(doubts)))
        least, score = find_operating_point(self.models), result.candidates.score
        negative = "no" if segmented.shows_pancreas else "unclear"  # a tumour is looked for in the pancreas only
        fast = ("without flips (--fast)",) if any(model.fast for model in self.models.values()) else ()
        notes = (*notes, *scan.notes, *fast)
        with drawing(self.folder.picture_path(name)) as picture:
            self.folder.picture_path(name).unlink(missing_ok=True)  # that of an earlier mask must not stay
            draw_overlay(
                self.folder.picture_path(name),
                scan.image,
                reference=None,
                prediction=result.label,
                spacing=scan.spacing,
                title=f"{name}: pancreas {pancreas_ml:.1f} ml, tumour {tumour_ml:.1f} ml",
                doubts=doubts,
                notes=notes,
            )
        return {
            "pancreas_ml": round(pancreas_ml, 2),
            "tumour_ml": round(tumour_ml, 2),
            "tumour_score": round(score, 4),
            "tumour_positive": "" if least is None else "yes" if score >= least else negative,
            **{f"{target}_disagreement": round(value, 3) for target, value in disagreement.items()},
            "unreliable": "yes" if doubts else "",
            "note": "; ".join(filter(None, (*doubts, *notes, picture.fault))),
            "picture_fault": picture.fault,
        }

    def _add_source(self, path: Path, scan: PreparedScan) -> PreparedScan:
        """Read what a DICOM segmentation refers to, so that what it lacks is found before the scan is segmented."""
        if not path.is_dir():
            return scan._replace(notes=(*scan.notes, "no DICOM segmentation, because the scan is not a DICOM series"))
        with _naming_a_failing_disk(path):
            return scan._replace(source=read_source(path, self.series, scan.grid.spacing[2]))

    def _write_segmentation(
        self, name: str, label: np.ndarray, grid: Grid, source: Source, caution: str
    ) -> tuple[str, ...]:
        """Write a mask as a DICOM segmentation; return a note if there is nothing to write."""
        origin, path = Origin(self.models_hash, caution), self.folder.segmentation_path(name)
        if write_segmentation(path, grid.to_file(label), source, origin):
            return ()
        return ("no DICOM segmentation, because nothing was found",)

    def _add_segmentation(self, scan: Passage) -> None:
        """Write the DICOM segmentation of a scan whose mask the folder holds already, if it is wanted and missing."""
        name = scan.row["case"]
        if not self.dicom_seg or not scan.path.is_dir() or self.folder.segmentation_path(name).exists():
            return
        mask = read_label(self.folder.mask_path(name))
        with _naming_a_failing_disk(scan.path):
            source = read_source(scan.path, self.series, mask.grid.spacing[2])
        caution = scan.row["note"] if scan.row["unreliable"] else ""
        for note in self._write_segmentation(name, mask.array, mask.grid, source, caution):
            print(f"{name}: {note}")


def _read_volume(scan: Path, series: str) -> Volume:
    with _naming_a_failing_disk(scan):
        return read_image(scan, series)


@contextlib.contextmanager
def _naming_a_failing_disk(scan: Path) -> Iterator[None]:
    """Read a scan in the block; that its disk or share fails concerns this scan only."""
    try:
        yield
    except OSError as error:
        problem = f"the file cannot be read ({error.strerror or error})"
        raise InputError(error.filename or scan, problem, "check its permissions and the disk") from error


def hash_models(models: Mapping[str, StageModel]) -> str:
    """Return a hash of all networks and of how they are read; it does not depend on where they lie."""
    used = [[model.sha256, model.readout, model.threshold, *switched_on(model)] for model in models.values()]
    used += [[member.sha256 for member in model.members] for model in models.values() if model.members]
    return hashlib.sha256(json.dumps(used).encode()).hexdigest()


def describe_origin(scan: Path, series: str, models_hash: str) -> str:
    """Return a hash of everything that decides the mask of a scan: its files and the models.

    Files count as unchanged if their sizes and dates are. A scan that does not exist has a hash, too.
    """
    with contextlib.suppress(OSError):
        series += stat_signature(scan)
    return hashlib.sha256(f"{models_hash} {series}".encode()).hexdigest()[:16]


def _advise_on_folder(scan: Path) -> str:
    """Return what to give instead of a folder whose files are scans of their own; empty for anything else."""
    files = [path.name.lower() for path in scan.glob("[!.]*")] if scan.is_dir() else []
    patterns = [f"{scan}/*{suffix}" for suffix in SUFFIXES if any(name.endswith(suffix) for name in files)]
    return f" The folder holds scans as files; give these: {' '.join(patterns)}" if patterns else ""
