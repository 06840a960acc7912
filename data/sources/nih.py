"""NIH Pancreas-CT: DICOM scans whose labels lie beside them as NIfTI and fit by array index, not by header.

Public code disagrees on which of the label's axes run backwards, so nothing is believed: each of the four placements
is laid on scans, and the one under which lies one tissue, rather than a mixture of fat, bowel gas and bone, is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from data.common.errors import InputError
from data.scans.volume import Volume, read_image, read_label
from data.sources.base import About, Entry, absent, not_there, within
from data.sources.label_map import LabelMap

CLIP_HU = (-200, 300)  # beyond, air and bone would outweigh all else
ONE_TISSUE_HU = 60.0  # spread under a label in its place: 27 to 34 HU in scans looked at, 67 to 118 out of place
CLEARLY = 1.25  # the next best placement spreads at least so much wider
VOTERS = 5
WITHDRAWN = {"0025", "0070"}

Flips = tuple[bool, bool]  # the label's slices, its rows run against the scan's (z, y) in LPS


def label_by_index(path: Path, image: Volume) -> np.ndarray:
    """The label's codes (uint8) as stored, (D, H, W) like the scan. Raises InputError where the shapes differ."""
    label = read_label(path)
    stored = label.grid.to_file(label.array)
    if stored.shape != image.array.shape:
        shapes = ["x".join(map(str, array.shape[::-1])) for array in (stored, image.array)]
        raise InputError(
            f"{path}: has {shapes[0]} voxels and its scan {shapes[1]}: another scan's label, or slices are missing; "
            "download both again"
        )
    return stored


def spreads(image: np.ndarray, stored: np.ndarray) -> dict[Flips, float]:
    """Standard deviation in HU (clipped to -200..300) under the label's voxels, for each of the four placements."""
    z, y, x = np.nonzero(stored)
    depth, height, _ = stored.shape
    found = {}
    for flips in product((False, True), repeat=2):
        under = image[depth - 1 - z if flips[0] else z, height - 1 - y if flips[1] else y, x]
        found[flips] = float(np.clip(under, *CLIP_HU).std()) if under.size else np.inf
    return found


def clear_winner(spread: dict[Flips, float]) -> Flips | None:
    """The placement with one tissue under it, where all others are clearly worse; None where that cannot be said."""
    best, second = sorted(spread, key=spread.__getitem__)[:2]
    return best if spread[best] < ONE_TISSUE_HU and spread[second] > CLEARLY * spread[best] else None


def vote(cases: Sequence[tuple[str, dict[Flips, float]]]) -> Flips:
    """The one placement for all cases (name, spreads). Cases that are not clear abstain.

    Raises InputError where the clear ones disagree, or are fewer than half.
    """
    votes = {name: clear_winner(spread) for name, spread in cases}
    clear = {name: flips for name, flips in votes.items() if flips is not None}
    named = ", ".join(f"{name}: {_described(flips)}" for name, flips in clear.items())
    if len(set(clear.values())) > 1:
        said = f"the HU under them say different placements ({named})"
        raise InputError(f"labels of NIH: {said}; check that all of them are of the same download")
    if 2 * len(clear) < max(len(votes), 1):
        unclear = ", ".join(name for name in votes if name not in clear)
        remedy = "check that labels and scans are of the same download"
        raise InputError(f"labels of NIH: the HU under them do not tell how they are placed ({unclear}); {remedy}")
    return next(iter(clear.values()))


def _described(flips: Flips) -> str:
    flipped = [axis for axis, flip in zip(("z", "y"), flips, strict=True) if flip]
    return f"{' and '.join(flipped) or 'nothing'} flipped"


@dataclass(frozen=True)
class ByIndex:
    """A label placed by array index with these flips; refused for a case that clearly wants others."""

    flips: Flips

    def missing(self, label: Path) -> Path | None:
        return None if label.exists() else label

    def read(self, label: Path, image: Volume) -> tuple[np.ndarray, Sequence[str]]:
        stored = label_by_index(label, image)
        own = clear_winner(spreads(image.array, stored))
        if own not in (None, self.flips):
            said = f"fits its scan with {_described(own)}, the other cases with {_described(self.flips)}"
            raise InputError(f"{label}: {said}; check that it is this scan's label")
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        note = f"placed by index with {_described(self.flips)}, as the HU under {'it' if own else 'others'} say"
        return np.ascontiguousarray(stored[steps]), (note,)


class NIH:
    """NIH Pancreas-CT (TCIA): 80 portal-venous scans of donors and patients without a pancreatic lesion.

    Source: https://www.cancerimagingarchive.net/collection/pancreas-ct/, licence CC BY 3.0, code 1 is the pancreas.
    Download the images with the NBIA Data Retriever, and TCIA_pancreas_labels-02-05-2017.zip. The images of cases
    0025 and 0070 were withdrawn; their labels are still in the archive. Placement by index is told by public code.
    ``entries`` reads about five scans to settle the placement: some seconds each.
    """

    summary = "Pancreas-CT/PANCREAS_0001/<study>/<series>/*.dcm, TCIA_pancreas_labels-02-05-2017/label0001.nii.gz"
    about = About(
        "NIH Pancreas-CT, The Cancer Imaging Archive",
        "CC BY 3.0",
        "1 pancreas; no lesions",
        "cancerimagingarchive.net/collection/pancreas-ct (NBIA Data Retriever), labels zip unpacked beside it",
    )

    def codes(self, root: Path) -> LabelMap:
        return LabelMap.parse("1=1")

    def entries(self, root: Path) -> list[Entry]:
        images, labels = self._found(root)
        numbers = sorted(images.keys() | labels.keys() - self._withdrawn(images))
        found = [self._entry(root, number, images.get(number), labels.get(number)) for number in numbers]
        placed = ByIndex(self._placement([e for e in found if not e.fault]))
        return [Entry(e.name, e.patient, e.image, e.label, e.fault, reader=placed) for e in found]

    def remarks(self, root: Path) -> list[str]:
        images, labels = self._found(root)
        gone = sorted(labels.keys() & self._withdrawn(images))
        return [f"left out: {', '.join(gone)}, whose images were withdrawn from the collection"] if gone else []

    def _found(self, root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
        images = {path.name[-4:]: path for path in within(root, "PANCREAS_[0-9][0-9][0-9][0-9]", 3) if path.is_dir()}
        labels = {path.name[5:9]: path for path in within(root, "label[0-9][0-9][0-9][0-9].nii.gz", 2)}
        if not images:
            raise absent(root / "Pancreas-CT")
        if not labels:
            raise absent(root / "TCIA_pancreas_labels-02-05-2017")
        return images, labels

    def _withdrawn(self, images: dict[str, Path]) -> set[str]:
        """Both withdrawn images are absent from any download; if one is there, the other's absence is a fault."""
        return set() if WITHDRAWN & images.keys() else WITHDRAWN

    def _entry(self, root: Path, number: str, folder: Path | None, label: Path | None) -> Entry:
        name = f"PANCREAS_{number}"
        if folder is None:
            return Entry(name, name, None, label, not_there(label.parent / f"{name} (its images)"))
        series = sorted({path.parent for path in folder.rglob("*.dcm") if not path.name.startswith(".")})
        fault = ""
        if len(series) != 1:
            fault = f"{folder}: holds {len(series)} series of DICOM slices, not one; download that case again"
        elif label is None:
            fault = not_there(root / f"label{number}.nii.gz")
        return Entry(name, name, next(iter(series), None), label, fault)

    def _placement(self, usable: list[Entry]) -> Flips:
        """Settle it on a handful of readable cases, spread over the set; every other case is checked when read."""
        cases, step = [], max(1, len(usable) // VOTERS)
        order = [e for start in range(step) for e in usable[start::step]]
        for entry in order:
            if len(cases) == VOTERS:
                break
            try:
                image = read_image(entry.image)
                cases.append((entry.name, spreads(image.array, label_by_index(entry.label, image))))
            except (InputError, OSError):
                continue  # damaged: reported when the case itself is read
        if not cases and usable:
            raise InputError(f"{usable[0].image.parent}: no case can be read; download the collection again")
        return vote(cases) if cases else (False, False)
