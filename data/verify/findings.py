"""What may be wrong with a case, or with a centre as a whole: one small check each.

fatal    prepare would refuse the case
warning  usable, but look at it: it may not be what you think
fixed    mended while reading, nothing to do
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data.cases.labels import PANCREAS, TUMOUR
from data.common.errors import InputError
from data.contact_sheet import draw_tile
from data.duplicates.thumbnail import make_thumbnail
from data.scans.boxes import bounding_box
from data.scans.grid import volume_ml
from data.scans.volume import Volume
from data.sources.catalogue import Entry, LabelMap, load_entry

SPACING_MM = (0.3, 8.0)
AIR_BELOW, BONE_ABOVE = -200, 100  # any CT of an abdomen holds darker and brighter voxels than these
CUT_LOW, CUT_HIGH = -500, 400  # a scan that ends within, with many voxels at its end, was cut to a window
CUT_SHARE = 0.005
GLAND_HU = (-20, 200)  # median under the label: fatty and unenhanced to arterial; else it lies on something else
TILT_DEGREES = 5.0
SMALL_PANCREAS_ML, SMALL_TUMOUR_ML = 5.0, 0.05  # an adult gland has 40 to 120 ml; 0.05 ml is a 4.6 mm ball
OUTLIERS_FROM = 8  # cases, for a centre to have a usual value
OUTLIER_SPACING = 3.0  # times the centre's median, or less than a third
OUTLIER_HU = 50.0  # and five times the centre's spread
TO_MAD = 1.4826  # a normal distribution's standard deviation by its median absolute deviation

Doubts = Iterator[tuple[str, str]]  # what is odd, and what to do about it


class Finding(NamedTuple):
    """``case`` names the file where one is to blame; ``other`` is the case that it collides with."""

    level: str
    what: str
    case: str
    remedy: str
    other: str = ""


class Inspection(NamedTuple):
    """One case after reading; what follows ``findings`` is None where it could not be read."""

    name: str
    patient: str
    findings: list[Finding]
    has_tumour: bool = False
    spacing: tuple[float, float, float] | None = None
    gland_hu: float | None = None  # median under the label; None without one
    thumbnail: np.ndarray | None = None
    tile: np.ndarray | None = None  # its picture, where asked for

    @property
    def fatal(self) -> bool:
        return any(finding.level == "fatal" for finding in self.findings)


def blame(error: InputError, level: str = "fatal", root: Path | None = None) -> Finding:
    """The one line of an error as a finding about its file, called as it lies in ``root`` where it does."""
    file, _, fault = str(error).partition(": ")
    what, _, remedy = fault.rpartition("; ")
    path = Path(file)
    inside = root is not None and path != root and path.is_relative_to(root)
    return Finding(level, what, str(path.relative_to(root)) if inside else "/".join(path.parts[-2:]), remedy)


def inspect_entry(entry: Entry, labels: LabelMap, picture: bool = False, root: Path | None = None) -> Inspection:
    """Read one case as prepare would, and look at what came out; with ``picture`` also make its tile.

    root: of the data set; a file that is to blame is called by its path in there.
    """
    try:
        image, label, notes = load_entry(entry, labels)
    except InputError as error:
        return Inspection(entry.name, entry.patient, [blame(error, root=root)])
    except MemoryError:
        fault = Finding("fatal", "too large for the memory", entry.name, "use fewer --workers")
        return Inspection(entry.name, entry.patient, [fault])
    doubts = [*_image_doubts(image), *_label_doubts(label, image.spacing)]
    gland = image.array[label > 0]
    gland_hu = float(np.median(gland)) if gland.size else None
    if gland_hu is not None and not GLAND_HU[0] <= gland_hu <= GLAND_HU[1]:
        doubts.append((f"median of {gland_hu:.0f} HU under the label", "look whether the label lies on the pancreas"))
    findings = [Finding("fixed", note, entry.name, "nothing") for note in notes]
    return Inspection(
        entry.name,
        entry.patient,
        findings + [Finding("warning", what, entry.name, remedy) for what, remedy in doubts],
        bool((label == TUMOUR).any()),
        image.spacing,
        gland_hu,
        make_thumbnail(image.array, label, image.spacing),
        draw_tile(image.array, label, image.spacing, entry.name) if picture else None,
    )


def _image_doubts(image: Volume) -> Doubts:
    if unlike := unlike_hu(image.array):
        yield unlike
    if min(image.spacing) < SPACING_MM[0] or max(image.spacing) > SPACING_MM[1]:
        yield f"implausible spacing {_by(image.spacing)} mm", "check the header's units, they should be mm"
    along = np.clip(np.abs(np.diag(np.reshape(image.direction, (3, 3)))).min(), 0, 1)
    if (tilt := np.degrees(np.arccos(along))) > TILT_DEGREES:
        yield f"scan tilted by {tilt:.0f} degrees", "kept as it is; check that it is no reformatted view"


def unlike_hu(array: np.ndarray) -> tuple[str, str] | None:
    """What speaks against Hounsfield units, if anything does."""
    low, high = int(array.min()), int(array.max())
    at_low, at_high = (np.count_nonzero(array == end) / array.size for end in (low, high))
    values = f"values {low} to {high}"
    if low >= 0 and high <= 255:
        return f"{values} are 8-bit grey values, not HU", "give the scan itself, not pictures of it"
    if low >= 0 and high > 1000:
        return f"{values} are not HU, they lack its offset", "export it with its rescale (intercept -1024) applied"
    if (low > CUT_LOW and at_low > CUT_SHARE) or (high < CUT_HIGH and at_high > CUT_SHARE):
        return f"HU cut to a window, {values}", "give the scan as it was before; the network sees -100 to 240 HU"
    if low > AIR_BELOW or high < BONE_ABOVE:
        return f"{values} are not HU of a CT", "export it in HU, with its rescale applied"
    return None


def _label_doubts(label: np.ndarray, spacing: Sequence[float]) -> Doubts:
    box = bounding_box(label)
    if box is None:
        yield "no pancreas label", "label it, or leave the case out"
        return
    crop = label[box.slices]
    pancreas_ml, tumour_ml = (volume_ml(crop == code, spacing) for code in (PANCREAS, TUMOUR))
    if (both := pancreas_ml + tumour_ml) < SMALL_PANCREAS_ML:
        yield f"pancreas of {both:.2g} ml", "check the label map; is the gland in the scan?"
    if 0 < tumour_ml < SMALL_TUMOUR_ML:
        yield f"tumour of {tumour_ml:.2g} ml", "check for stray voxels"
    faces = zip(("lower", "front", "right"), ("upper", "back", "left"), box.start, box.stop, label.shape, strict=True)
    ends = [name for low, high, a, b, n in faces for name, at in ((low, a == 0), (high, b == n)) if at]
    if ends:
        yield (
            f"pancreas reaches the scan's {' and '.join(ends)} end",
            "part of the gland is not in the scan",
        )
    yield from _part_doubts(crop, spacing)


def _part_doubts(crop: np.ndarray, spacing: Sequence[float]) -> Doubts:
    parts, count = ndimage.label(crop > 0, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    if count > 1:
        rest = (sizes.sum() - sizes.max()) * float(np.prod(spacing)) / 1000
        yield f"label in {count} parts, {rest:.2g} ml beside the largest", "check for stray voxels"
    if set(np.unique(parts[crop == TUMOUR])) - set(np.unique(parts[crop == PANCREAS])):
        yield "tumour that does not touch the pancreas", "check the label; is it another organ's?"


def centre_findings(cases: Sequence[Inspection]) -> list[Finding]:
    """Cases whose voxels or grey values are unlike those of the rest of their centre."""
    read = [case for case in cases if case.spacing]
    enhanced = [case for case in read if case.gland_hu is not None]
    found = []
    if len(read) >= OUTLIERS_FROM:
        usual = np.median([case.spacing for case in read], axis=0)
        for case in read:
            ratio = np.array(case.spacing) / usual
            if max(ratio.max(), 1 / ratio.min()) > OUTLIER_SPACING:
                what = f"spacing {_by(case.spacing)} mm, usual here is {_by(usual)}"
                found.append(Finding("warning", what, case.name, "check its header; is it of this centre?"))
    if len(enhanced) >= OUTLIERS_FROM:
        values = np.array([case.gland_hu for case in enhanced])
        off = np.abs(values - np.median(values))
        room = max(OUTLIER_HU, 5 * TO_MAD * np.median(off))
        for case, far in zip(enhanced, off, strict=True):
            if far > room:
                what = f"pancreas of {case.gland_hu:.0f} HU, usual here is {np.median(values):.0f}"
                found.append(Finding("warning", what, case.name, "check its phase, its HU and where its label lies"))
    return found


def _by(spacing: Sequence[float]) -> str:
    return " x ".join(f"{s:.3g}" for s in reversed(list(spacing)))
