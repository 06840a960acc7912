"""A prepared case on disk: arrays that are opened by memory map, and a manifest.

    <store>/<centre>/<case>/image.npy        int16 HU, shape (D, H, W), LPS
                            label.npy        uint8, same shape: 0 background, 1 pancreas, 2 tumour
                            scan_label.npz   of resampled cases only: the label before resampling (key "label")
                            case.json        the manifest: the files the case was made from, and how, the SHA-256
                                             of each file above, and a checksum of the manifest itself
                            thumbnail.*.npy  a fingerprint for finding duplicates (data.duplicates.thumbnail)

A case may be a crop of its scan, and it may be resampled. ``Case.grid`` records both, so that masks can be written
back onto the voxels of the scan. Because resampling a label loses detail, a resampled case also keeps its label on
the scan's own voxels, cropped like the case; scores are computed against it.

A case is written into a temporary folder, which is renamed when it is complete: every case that can be listed is
complete. A file is compared with its hash when a process opens it for the first time, so that a disk that loses bits
ends a training with the name of the case instead of feeding it noise.
"""

import errno
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.cases.consistency import check_consistency, check_place
from data.cases.labels import label_boxes
from data.cases.preparation import Preparation
from data.common.errors import InputError
from data.common.files import ARCHIVE_ERRORS, read_array, replacing, sha256_of, write_to_disk
from data.common.records import CHECKSUM, checksum, read_json, verify_checksum
from data.scans.boxes import Box, triple
from data.scans.grid import Grid

EARLIER = ".earlier.unfinished"  # ends the name of a version that is being replaced
# Of a source: where it was, not what it was.
LOCATION_KEYS = ("root", "image", "label", "image_seen", "label_seen", "phantom_mark")


@dataclass(frozen=True)
class Case:
    """One prepared case.

    Attributes:
        folder: Folder of the case in the store.
        centre: Name of the centre.
        name: Name of the case, unique within the centre.
        patient: Identifier of the patient within the data set.
        shape: Shape (D, H, W) of image and label.
        spacing: Voxel spacing (z, y, x) of image and label in mm.
        pancreas_box: Bounding box of labels 1 and 2 together; None if there are none.
        tumour_box: Bounding box of label 2; None if there is no tumour.
        grid: The grid of the scan's file, with the part of it that the case covers.
        source: The files that the case was made from, with their hashes.
        preparation: How the case was prepared.
        files: SHA-256 of each file of the case by its name; empty if an earlier version prepared it.
    """

    folder: Path
    centre: str
    name: str
    patient: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    pancreas_box: Box | None
    tumour_box: Box | None
    grid: Grid
    source: dict
    preparation: Preparation
    files: dict[str, str] = field(default_factory=dict)

    def target_box(self, target: str) -> Box | None:
        """Return the box of a target, "pancreas" (with its tumour) or "tumour"; None if it is not labelled."""
        return self.tumour_box if target == "tumour" else self.pancreas_box

    def draw(self, seed: Sequence[int]) -> "Case":
        """Return the case that is seen: this one. Only a synthetic patient is another one for every ``seed``."""
        return self

    @property
    def is_synthetic(self) -> bool:
        """Whether it is known that no patient was scanned.

        It is drawn anew for every seed, or data.phantom wrote the case or the files that it was made of.
        """
        return not {"synthetic", "phantom", "phantom_mark"}.isdisjoint(self.source)

    @property
    def key(self) -> str:
        """``centre/case``: the name in splits, logs and tables."""
        return f"{self.centre}/{self.name}"

    @property
    def file_name(self) -> str:
        """``<centre>__<case>``: the name for files of several centres in one folder.

        Characters other than ASCII letters, digits, "_", "-" and "." become "-"; a hash of the key is then appended
        so that the name stays unique.
        """
        name = f"{self.centre}__{self.name}"
        plain = re.sub(r"[^A-Za-z0-9._-]", "-", name)
        return name if plain == name else f"{plain}-{hashlib.sha256(self.key.encode()).hexdigest()[:8]}"

    @property
    def scan_spacing(self) -> tuple[float, float, float]:
        """Spacing (z, y, x) of the scan's own voxels in mm, in LPS."""
        (z, y, x), _, _ = self.grid.lps_frame()
        return z, y, x

    @property
    def has_scan_label(self) -> bool:
        """Whether ``scan_label`` is available; only a resampled case of an earlier version lacks it."""
        return _resampled_box(self.grid) is None or (self.folder / "scan_label.npz").is_file()

    def image(self) -> np.ndarray:
        """Open the image as a memory map: slicing reads just that box from disk.

        Returns:
            int16 HU, shape (D, H, W).

        Raises:
            InputError: If the file is missing or damaged.
        """
        return self._map("image.npy", np.int16)

    def label(self) -> np.ndarray:
        """Open the label as a memory map.

        Returns:
            uint8 labels 0/1/2, shape (D, H, W).

        Raises:
            InputError: If the file is missing or damaged.
        """
        return self._map("label.npy", np.uint8)

    def scan_label(self) -> np.ndarray:
        """Read the label on the scan's own voxels, within the part of the scan that the case covers.

        Returns:
            uint8 labels 0/1/2 at ``scan_spacing``. The shape (D, H, W) is that of the box ``grid.part``, or of the
            whole scan if there is none. For a case that was not resampled this is ``label()``.

        Raises:
            InputError: If the file is damaged, or missing because an earlier version did not store it.
        """
        box = _resampled_box(self.grid)
        if box is None:
            return self.label()
        path = self.folder / "scan_label.npz"
        try:
            self.check_file(path.name)
            with np.load(path) as archive:
                label = archive["label"]
        except FileNotFoundError as error:
            raise InputError(
                path,
                "no such file: an earlier version prepared this case and kept only the resampled label",
                "prepare this centre again with the options that it was prepared with",
            ) from error
        except ARCHIVE_ERRORS as error:
            raise InputError(path, f"damaged ({error})", _prepare_again(self.folder)) from error
        if label.shape != box.shape:
            problem = f"holds an array of shape {label.shape}, expected {box.shape}"
            raise InputError(path, problem, _prepare_again(self.folder))
        return label

    def content(self) -> str:
        """Describe the case by its manifest, as JSON, without the places of its files.

        The description stays the same if the data set is moved or copied. The hashes of the case's own files and
        of the manifest are not part of it, because an earlier version did not record them.
        """
        manifest = read_json(self.folder / "case.json")
        for later in ("files", CHECKSUM):
            manifest.pop(later, None)
        return json.dumps(manifest | {"source": content_of(manifest["source"])}, indent=1)

    def check_file(self, name: str) -> None:
        """Compare a file of the case with its hash, unless this process has done so since the file was last changed.

        Raises:
            InputError: If they differ.
            OSError: If the file is missing or cannot be read.
        """
        if expected := self.files.get(name):
            path = self.folder / name
            status = path.stat()
            _check_hash(path, expected, status.st_size, status.st_mtime_ns)

    def _map(self, name: str, dtype: type) -> np.ndarray:
        path = self.folder / name
        try:
            self.check_file(name)
            array = read_array(path, mmap_mode="r")
        except FileNotFoundError as error:
            raise InputError(path, "no such file, the case is damaged", _prepare_again(self.folder)) from error
        except (ValueError, EOFError) as error:
            raise InputError(path, f"damaged ({error})", _prepare_again(self.folder)) from error
        if (array.shape, array.dtype) != (self.shape, dtype) or not array.flags.c_contiguous:
            problem = f"damaged: it holds {array.dtype} of shape {array.shape}, not {np.dtype(dtype)} of {self.shape}"
            raise InputError(path, problem, _prepare_again(self.folder))
        return array


def write_case(
    store: Path,
    centre: str,
    name: str,
    image: np.ndarray,
    label: np.ndarray,
    *,
    patient: str,
    spacing: tuple[float, float, float],
    grid: Grid,
    source: dict,
    preparation: Preparation | None = None,
    scan_label: np.ndarray | None = None,
) -> Path:
    """Write one case atomically; a case of the same name is replaced.

    Args:
        store: Folder of the prepared cases.
        centre: Name of the centre.
        name: Name of the case.
        image: int16 HU, shape (D, H, W), LPS.
        label: uint8 labels 0/1/2 of the same shape.
        patient: Identifier of the patient within the data set.
        spacing: Voxel spacing (z, y, x) of image and label in mm.
        grid: The grid of the scan's file, so that masks can be written back onto it; with its ``part`` if image and
            label are not the whole scan as it was.
        source: The files that the case was made from and their hashes; kept verbatim in the manifest.
        preparation: How image and label were prepared; None for a scan that was neither cropped nor resampled.
        scan_label: uint8 labels 0/1/2 on the scan's own voxels, cropped to the box of ``grid.part``. It is stored only
            if the case was resampled; otherwise it is the same as ``label``.

    Returns:
        Folder of the case.

    Raises:
        ValueError: If ``scan_label`` does not have the shape of the box.
    """
    preparation = preparation or Preparation()
    token = secrets.token_hex(4)  # the number of this process could be that of a process on another machine
    unfinished = store / centre / f".{name}.{token}.unfinished"
    unfinished.mkdir(parents=True)
    try:
        np.save(unfinished / "image.npy", image.astype(np.int16, copy=False))
        np.save(unfinished / "label.npy", label.astype(np.uint8, copy=False))
        if scan_label is not None and (box := _resampled_box(grid)):
            if scan_label.shape != box.shape:
                raise ValueError(f"scan_label of shape {scan_label.shape} for a part of {box.shape} voxels of the scan")
            np.savez_compressed(unfinished / "scan_label.npz", label=scan_label.astype(np.uint8, copy=False))
    except OSError as error:
        if error.errno is None:  # numpy reports a short write without a number; it means that the disk is full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(store)) from error
        raise
    pancreas_box, tumour_box = label_boxes(label)
    manifest = {
        "centre": centre,
        "name": name,
        "patient": patient,
        "shape": [int(n) for n in image.shape],
        "spacing": [float(s) for s in spacing],
        "pancreas_box": pancreas_box,
        "tumour_box": tumour_box,
        "grid": grid.to_json(),
        "source": source,
        "preparation": preparation.to_json(),
        "preparation_hash": preparation.hash,
        "files": {path.name: sha256_of(path) for path in sorted(unfinished.iterdir())},
    }
    (unfinished / "case.json").write_text(json.dumps(manifest | {CHECKSUM: checksum(manifest)}, indent=1))
    for path in (*unfinished.iterdir(), unfinished):
        write_to_disk(path)
    return _take_place(unfinished)


def _take_place(unfinished: Path) -> Path:
    """Rename ``.<case>.<token>.unfinished`` to ``<case>``, instead of an earlier version; return the new folder."""
    stem = unfinished.name.removesuffix(".unfinished")
    earlier = unfinished.with_name(f"{stem}{EARLIER}")
    target = _place_of(earlier)
    if target.exists():
        target.rename(earlier)
    try:
        unfinished.rename(target)
    except OSError:
        restore_earlier(earlier)
        raise
    shutil.rmtree(earlier, ignore_errors=True)
    return target


def _place_of(earlier: Path) -> Path:
    """Return the folder ``<case>`` that ``.<case>.<token>.earlier.unfinished`` was."""
    return earlier.with_name(earlier.name.removesuffix(EARLIER).rpartition(".")[0][1:])


def restore_earlier(earlier: Path) -> None:
    """Give the replaced version of a case its name back, if the new version has not taken its place.

    Args:
        earlier: The folder ``.<case>.<token>.earlier.unfinished``, which may not exist.
    """
    target = _place_of(earlier)
    if earlier.exists() and not target.exists():
        earlier.rename(target)


def content_of(source: dict) -> dict:
    """Reduce a case's source to what it was made of: the result stays the same if the data set is moved."""
    return {key: value for key, value in source.items() if key not in LOCATION_KEYS}


def renew_source(case: Case, source: dict) -> None:
    """Replace the source in a case's manifest, atomically; nothing else in it changes."""
    path = case.folder / "case.json"
    manifest = read_json(path) | {"source": source}
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(manifest | {CHECKSUM: checksum(manifest)}, indent=1))


def read_case(folder: Path) -> Case:
    """Read the manifest of a case.

    Raises:
        InputError: If the manifest is missing, damaged, or written by a version with another preparation.
    """
    path = folder / "case.json"
    try:
        manifest = read_json(path)
        preparation = Preparation.from_json(manifest["preparation"])
        if not preparation.readable or preparation.hash != manifest["preparation_hash"]:
            problem = f"the case was prepared with settings that this version cannot read ({manifest['preparation']})"
            raise InputError(path, problem, _prepare_again(folder))
        verify_checksum(manifest)
        check_place(folder, manifest["centre"], manifest["name"])
        boxes = {key: manifest[key] and Box(*map(triple, manifest[key])) for key in ("pancreas_box", "tumour_box")}
        geometry: dict[str, Any] = {
            "shape": triple(manifest["shape"]),
            "spacing": triple(manifest["spacing"]),
            "grid": Grid.from_json(manifest["grid"]),
            **boxes,
        }
        check_consistency(**geometry)
        return Case(
            folder=folder,
            centre=manifest["centre"],
            name=manifest["name"],
            patient=str(manifest["patient"]),
            source=dict(manifest["source"]),
            preparation=preparation,
            files=dict(manifest.get("files", {})),
            **geometry,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(path, f"not a readable manifest ({error})", _prepare_again(folder)) from error


def _resampled_box(grid: Grid) -> Box | None:
    """Return the box of the scan's voxels that was resampled, or None if the prepared voxels are the scan's own."""
    if grid.part is None:
        return None
    box = Box(grid.part.start, grid.part.stop)
    return None if box.shape == grid.part.shape else box


@functools.cache
def _check_hash(path: Path, expected: str, size: int, changed_ns: int) -> None:
    """Refuse a file with another content; the size and the time of the last change let the answer be remembered."""
    if sha256_of(path) != expected:
        problem = "damaged: its content has changed since it was prepared"
        raise InputError(path, problem, _prepare_again(path.parent))


def _prepare_again(folder: Path) -> str:
    return f"delete {folder} and prepare its centre again with the options that it was prepared with"
