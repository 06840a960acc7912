"""Prepared cases on disk: int16 HU and uint8 labels as .npy, opened by memory map, with a manifest per case.

    <store>/<centre>/<case>/image.npy   int16 HU, (D, H, W), LPS
                            label.npy   uint8, 0 background, 1 pancreas, 2 tumour
                            case.json   the manifest: where it came from and how it was made

A case is written into a temporary folder and renamed when complete: a case that can be listed is whole.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.cases.labels import TUMOUR
from data.cases.preparation import Preparation
from data.common.errors import InputError
from data.common.files import REPOSITORY, read_array, replacing
from data.scans.boxes import Box, bounding_box
from data.scans.grid import Grid

DEFAULT_STORE = REPOSITORY / "data" / "prepared"
PLACE = ("root", "image", "label", "image_seen", "label_seen")  # of a source: where it lay, not what it was


@dataclass(frozen=True)
class Case:
    """One prepared scan. ``image()`` and ``label()`` are memory maps: slicing reads just that box from disk."""

    folder: Path
    centre: str
    name: str
    patient: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]  # (z, y, x) mm
    pancreas_box: Box | None  # of labels 1 and 2 together
    tumour_box: Box | None
    grid: Grid  # the scan's own grid
    source: dict  # files and their hashes
    preparation: Preparation

    @property
    def key(self) -> str:
        """``centre/case``: the name that splits, logs and tables use."""
        return f"{self.centre}/{self.name}"

    @property
    def file_name(self) -> str:
        """``<centre>__<case>``, for files of several centres in one folder.

        What is no plain character becomes -, with a hash behind so that no two names meet.
        """
        name = f"{self.centre}__{self.name}"
        plain = re.sub(r"[^A-Za-z0-9._-]", "-", name)
        return name if plain == name else f"{plain}-{hashlib.sha256(self.key.encode()).hexdigest()[:8]}"

    def image(self) -> np.ndarray:
        """int16 HU (D, H, W). Raises InputError where the file is damaged."""
        return self._map("image.npy")

    def label(self) -> np.ndarray:
        """uint8 0/1/2 (D, H, W). Raises InputError where the file is damaged."""
        return self._map("label.npy")

    def content(self) -> str:
        """The manifest, as JSON, without where the files lay: the same for a data set that was moved or copied."""
        manifest = json.loads((self.folder / "case.json").read_text())
        return json.dumps(manifest | {"source": content_of(manifest["source"])}, indent=1)

    def _map(self, name: str) -> np.ndarray:
        path = self.folder / name
        try:
            return read_array(path, mmap_mode="r")
        except (ValueError, EOFError, FileNotFoundError) as error:
            raise InputError(f"{path}: damaged; delete {self.folder} and run python -m data.prepare again") from error


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
) -> Path:
    """Write one case atomically and return its folder; a case of the same name is replaced.

    Args:
        image: int16 HU (D, H, W), LPS. label: uint8 0/1/2 of the same shape.
        grid: the scan's own grid, so that masks can be written back onto it; with its ``part`` where image and label
            are not the whole scan as it was.
        source: where it came from (files, hashes), kept verbatim in the manifest.
    """
    preparation = preparation or Preparation()
    target = store / centre / name
    unfinished = store / centre / f".{name}.{os.getpid()}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _save(unfinished, image, label)
    manifest = {
        "centre": centre,
        "name": name,
        "patient": patient,
        "shape": [int(n) for n in image.shape],
        "spacing": [float(s) for s in spacing],
        "pancreas_box": bounding_box(label > 0),
        "tumour_box": bounding_box(label == TUMOUR),
        "grid": grid.to_json(),
        "source": source,
        "preparation": preparation.to_json(),
        "preparation_hash": preparation.hash,
    }
    (unfinished / "case.json").write_text(json.dumps(manifest, indent=1))
    earlier = store / centre / f".{name}.{os.getpid()}.earlier.unfinished"
    if target.exists():
        target.rename(earlier)
    unfinished.rename(target)
    shutil.rmtree(earlier, ignore_errors=True)
    return target


def _save(folder: Path, image: np.ndarray, label: np.ndarray) -> None:
    try:
        np.save(folder / "image.npy", image.astype(np.int16, copy=False))
        np.save(folder / "label.npy", label.astype(np.uint8, copy=False))
    except OSError as error:
        if error.errno is None:  # numpy's "requested and written" carries no number: a short write is a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.parents[1])) from error
        raise


def content_of(source: dict) -> dict:
    """What of a source says what a case was made of, and not where it lay: equal for a set that was moved."""
    return {key: value for key, value in source.items() if key not in PLACE}


def renew_source(case: Case, source: dict) -> None:
    """Write into a case's manifest, atomically, that it comes from ``source`` now; nothing else of it changes."""
    path = case.folder / "case.json"
    manifest = json.loads(path.read_text()) | {"source": source}
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(manifest, indent=1))


def read_case(folder: Path) -> Case:
    """Read a case's manifest. Raises InputError where it is unreadable or was prepared in another way."""
    path = folder / "case.json"
    renew = f"delete {folder} and run python -m data.prepare again"
    try:
        manifest = json.loads(path.read_text())
        preparation = Preparation.from_json(manifest["preparation"])
        if not preparation.readable or preparation.hash != manifest["preparation_hash"]:
            raise InputError(f"{path}: prepared with other settings ({manifest['preparation']}); {renew}")
        boxes = {key: manifest[key] and Box(*map(tuple, manifest[key])) for key in ("pancreas_box", "tumour_box")}
        return Case(
            folder=folder,
            centre=manifest["centre"],
            name=manifest["name"],
            patient=manifest["patient"],
            shape=tuple(manifest["shape"]),
            spacing=tuple(manifest["spacing"]),
            grid=Grid.from_json(manifest["grid"]),
            source=manifest["source"],
            preparation=preparation,
            **boxes,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a readable manifest ({error}); {renew}") from error


def digest(cases: Iterable[Case]) -> str:
    """A hash of what these cases are: it changes when one is prepared anew from another file or in another way."""
    manifests = sorted((case.key, case.content()) for case in cases)
    return hashlib.sha256(json.dumps(manifests).encode()).hexdigest()[:16]


def read_store(store: Path) -> dict[str, list[Case]]:
    """All prepared cases by centre, both sorted by name.

    Raises InputError where nothing is prepared, or where cases were prepared in different ways (crop, spacing).
    """
    folders = sorted(path.parent for path in Path(store).glob("[!.]*/[!.]*/case.json"))
    if not folders:
        raise InputError(f"{store}: no centre is prepared; run python -m data.prepare SOURCE ROOT --centre NAME")
    centres: dict[str, list[Case]] = {}
    for folder in folders:
        case = read_case(folder)
        centres.setdefault(case.centre, []).append(case)
    _check_not_mixed([case for cases in centres.values() for case in cases])
    return centres


def _check_not_mixed(cases: list[Case]) -> None:
    first = cases[0]
    for case in cases:
        if case.preparation != first.preparation:
            ways = f"{first.key} with {first.preparation}, {case.key} with {case.preparation}"
            store = case.folder.parents[1]
            raise InputError(f"{store}: mixes cases prepared in two ways ({ways}); prepare all centres in one way")
