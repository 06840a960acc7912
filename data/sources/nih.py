"""NIH Pancreas-CT: DICOM scans with labels in NIfTI files that match by array index, not by header.

Public loaders disagree on which axes of the labels run backwards, so none of them is trusted. Each of the four
possible placements is tried on some scans. In the right place a label covers one tissue with a narrow range of
Hounsfield units; elsewhere it covers a mixture of fat, bowel gas and bone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.common.errors import InputError
from data.scans.segments import CodeNames
from data.scans.volume import Volume, read_image, read_label
from data.sources.base import About, Entry, find_below, missing_file, missing_part
from data.sources.label_map import LabelMap

CLIP_HU = (-200, 300)  # air and bone beyond this range would dominate the standard deviation
ONE_TISSUE_HU = 60.0  # in the scans examined, 27 to 34 HU under a label in its place and 67 to 118 HU elsewhere
CLEAR_RATIO = 1.25  # the second best placement must have a standard deviation larger by this factor
VOTING_CASES = 5  # number of cases that decide on the placement
WITHDRAWN = {"0025", "0070"}


class Placement(NamedTuple):
    """How a label's stored array lies on its scan in LPS: which of its axes run in the opposite direction.

    Attributes:
        flip_z: Whether the order of the slices is reversed.
        flip_y: Whether the order of the rows is reversed.
    """

    flip_z: bool
    flip_y: bool

    def __str__(self) -> str:
        flipped = [axis for axis, flip in (("z", self.flip_z), ("y", self.flip_y)) if flip]
        return f"{' and '.join(flipped) or 'nothing'} flipped"


def read_stored_label(path: Path, image: Volume) -> np.ndarray:
    """Read a label in the order in which its file stores the voxels.

    Args:
        path: File of the label.
        image: Its scan.

    Returns:
        Codes, uint8, with the shape (D, H, W) of the scan.

    Raises:
        InputError: If the shapes differ.
    """
    label = read_label(path)
    stored = label.grid.to_file(label.array)
    if stored.shape != image.array.shape:
        voxels, expected = ("x".join(map(str, array.shape[::-1])) for array in (stored, image.array))
        problem = f"it has {voxels} voxels, but its scan has {expected}; it is another scan's, or slices are missing"
        raise InputError(path, problem, "download both again")
    return stored


def spread_by_placement(image: np.ndarray, stored: np.ndarray) -> dict[Placement, float]:
    """Measure the range of Hounsfield units under a label in each of the four placements.

    Args:
        image: The scan, HU, shape (D, H, W).
        stored: The label as stored, same shape.

    Returns:
        Standard deviation in HU of the scan, clipped to CLIP_HU, under the label; infinite for an empty label.
    """
    z, y, x = np.nonzero(stored)
    depth, height, _ = stored.shape
    spreads = {}
    for flip_z, flip_y in product((False, True), repeat=2):
        under = image[depth - 1 - z if flip_z else z, height - 1 - y if flip_y else y, x]
        spreads[Placement(flip_z, flip_y)] = float(np.clip(under, *CLIP_HU).std()) if under.size else np.inf
    return spreads


def clear_winner(spreads: dict[Placement, float]) -> Placement | None:
    """Return the placement that covers one tissue, if all others are clearly worse; None if the case is unclear."""
    best, second = sorted(spreads, key=spreads.__getitem__)[:2]
    return best if spreads[best] < ONE_TISSUE_HU and spreads[second] > CLEAR_RATIO * spreads[best] else None


def vote(cases: Sequence[tuple[str, dict[Placement, float]]]) -> Placement:
    """Choose the placement of all labels by the vote of some cases. Unclear cases abstain.

    Args:
        cases: Name of each case and what ``spread_by_placement`` measured.

    Raises:
        InputError: If clear cases disagree, or less than half of the cases are clear.
    """
    votes = {name: clear_winner(spreads) for name, spreads in cases}
    clear = {name: placement for name, placement in votes.items() if placement is not None}
    remedy = "check that all labels and scans are of the same download"
    if len(set(clear.values())) > 1:
        named = ", ".join(f"{name}: {placement}" for name, placement in clear.items())
        problem = f"the Hounsfield units under the labels imply different placements ({named})"
        raise InputError("labels of NIH Pancreas-CT", problem, remedy)
    if 2 * len(clear) < max(len(votes), 1):
        unclear = ", ".join(name for name in votes if name not in clear)
        problem = f"the Hounsfield units under the labels do not tell how these are placed ({unclear})"
        raise InputError("labels of NIH Pancreas-CT", problem, remedy)
    return next(iter(clear.values()))


@dataclass(frozen=True)
class PlacedByIndex:
    """A label that is placed on its scan by array index; refused if the case clearly calls for another placement."""

    placement: Placement

    def missing_file(self, label: Path) -> Path | None:
        """Return the label if it does not exist."""
        return None if label.exists() else label

    def names(self, label: Path) -> CodeNames:
        """Return no names: NIfTI files have none."""
        return {}

    def read(self, label: Path, image: Volume, labels: LabelMap) -> tuple[np.ndarray, Sequence[str]]:
        """Read the file; see ``LabelReader.read``."""
        stored = read_stored_label(label, image)
        own = clear_winner(spread_by_placement(image.array, stored))
        if own not in (None, self.placement):
            problem = f"it fits its scan with {own}, but the other labels fit theirs with {self.placement}"
            raise InputError(label, problem, "check that it is the label of this scan")
        basis = "this scan" if own else "other scans"
        note = f"placed by index with {self.placement}, judging by the Hounsfield units of {basis}"
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.placement)
        return np.ascontiguousarray(stored[steps]), (note,)


class NIH:
    """NIH Pancreas-CT (TCIA): 80 portal-venous CT scans of kidney donors and of patients without pancreatic lesions.

    Source: https://www.cancerimagingarchive.net/collection/pancreas-ct/, licence CC BY 3.0. Code 1 is the pancreas.
    Download the images with the NBIA Data Retriever, and TCIA_pancreas_labels-02-05-2017.zip. The images of cases 0025
    and 0070 were withdrawn, but their labels are still in the archive.

    ``entries`` reads some scans to settle the placement of the labels, which takes some seconds per scan.
    """

    summary = "Pancreas-CT/PANCREAS_0001/<study>/<series>/*.dcm, TCIA_pancreas_labels-02-05-2017/label0001.nii.gz"
    about = About(
        "NIH Pancreas-CT, The Cancer Imaging Archive",
        "CC BY 3.0",
        "1 pancreas; no lesions",
        "cancerimagingarchive.net/collection/pancreas-ct (NBIA Data Retriever), labels zip unpacked beside it",
    )

    def codes(self, root: Path) -> LabelMap:
        """Return the documented code."""
        return LabelMap.parse("1=1")

    def entries(self, root: Path) -> list[Entry]:
        """List the cases, with the placement of their labels; see ``Source.entries``."""
        images, labels = self._find(root)
        numbers = sorted(images.keys() | labels.keys() - self._withdrawn(images))
        entries = [self._entry(root, number, images.get(number), labels.get(number)) for number in numbers]
        reader = PlacedByIndex(self._placement([entry for entry in entries if entry.fault is None]))
        return [replace(entry, reader=reader) for entry in entries]

    def remarks(self, root: Path) -> list[str]:
        """Name the labels whose images were withdrawn."""
        images, labels = self._find(root)
        withdrawn = ", ".join(sorted(labels.keys() & self._withdrawn(images)))
        return [f"left out: {withdrawn}, whose images were withdrawn from the collection"] if withdrawn else []

    def _find(self, root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
        folders = [path for path in find_below(root, "PANCREAS_[0-9][0-9][0-9][0-9]", 3) if path.is_dir()]
        images = {path.name.removeprefix("PANCREAS_"): path for path in folders}
        files = find_below(root, "label[0-9][0-9][0-9][0-9].nii.gz", 2)
        labels = {path.name.removeprefix("label").removesuffix(".nii.gz"): path for path in files}
        if not images:
            raise missing_part(root / "Pancreas-CT")
        if not labels:
            raise missing_part(root / "TCIA_pancreas_labels-02-05-2017")
        return images, labels

    def _withdrawn(self, images: dict[str, Path]) -> set[str]:
        """Return the numbers of withdrawn cases; none if a download has one of them, as it then should have both."""
        return set() if WITHDRAWN & images.keys() else WITHDRAWN

    def _entry(self, root: Path, number: str, folder: Path | None, label: Path | None) -> Entry:
        name = f"PANCREAS_{number}"
        if folder is None:
            return Entry(name, name, None, label, missing_file(root / "Pancreas-CT" / name))
        series = sorted({path.parent for path in folder.rglob("*.dcm") if not path.name.startswith(".")})
        fault = None
        if len(series) != 1:
            problem = f"it holds {len(series)} DICOM series, expected one"
            fault = InputError(folder, problem, "download this case again, or remove the other series")
        elif label is None:
            fault = missing_file(root / "TCIA_pancreas_labels-02-05-2017" / f"label{number}.nii.gz")
        return Entry(name, name, series[0] if series else None, label, fault)

    def _placement(self, usable: list[Entry]) -> Placement:
        """Choose the placement by readable cases spread over the set; the others are checked when they are read."""
        cases: list[tuple[str, dict[Placement, float]]] = []
        step = max(1, len(usable) // VOTING_CASES)
        for entry in (entry for start in range(step) for entry in usable[start::step]):
            if len(cases) == VOTING_CASES:
                break
            image_path, label_path = entry.files()
            try:
                image = read_image(image_path)
                stored = read_stored_label(label_path, image)
            except (InputError, OSError):
                continue  # a damaged case is reported when it is read for its own sake
            cases.append((entry.name, spread_by_placement(image.array, stored)))
        if not cases and usable:
            problem = "neither this scan with its label nor any other can be read"
            raise InputError(usable[0].files()[0], problem, "download the collection again")
        return vote(cases) if cases else Placement(False, False)
