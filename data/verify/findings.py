"""The checks of single cases, and of the cases of a centre against each other.

A finding has one of three levels:

- fatal: ``data.prepare`` would refuse the case.
- warning: the case can be used, but it may not be what it seems.
- fixed: reading the case adapted something, such as its orientation; nothing has to be done.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from data.cases.labels import PANCREAS, TUMOUR
from data.common.errors import InputError
from data.contact_sheet.sheet import draw_tile
from data.duplicates.thumbnail import make_thumbnail
from data.scans.boxes import bounding_box, whole_box
from data.scans.components import label_components
from data.scans.grid import volume_ml
from data.scans.hounsfield import find_hu_problem
from data.scans.volume import Volume
from data.sources.base import Entry
from data.sources.catalogue import load_entry
from data.sources.label_map import LabelMap
from data.sources.plausible import (
    SMALLEST_GLAND_ML,
    Volumes,
    find_centre_fault,
    find_label_fault,
    measure_label,
    name_touched_ends,
)

PLAUSIBLE_SPACING_MM = (0.3, 8.0)
GLAND_HU = (-20, 200)  # plausible median under the label: from a fatty gland without contrast to the arterial phase
TILT_DEGREES = 5.0
SMALL_TUMOUR_ML = 0.05  # a ball of 4.6 mm
OUTLIERS_FROM = 8  # cases that a centre must have before one of them can be called unusual
OUTLIER_SPACING = 3.0  # times the median of the centre, or less than a third of it
OUTLIER_HU = 50.0  # at least, and at least OUTLIER_SPREADS robust standard deviations of the centre
OUTLIER_SPREADS = 5
MAD_TO_SD = 1.4826  # standard deviation of a normal distribution, relative to its median absolute deviation

Level = Literal["fatal", "warning", "fixed"]


class Finding(NamedTuple):
    """Something worth knowing about a case.

    Attributes:
        level: How serious it is.
        problem: What is wrong, or what was adapted.
        case: Name of the case, or the path of the file to blame.
        remedy: What to do about it.
        other: The case that this one collides with, if any.
    """

    level: Level
    problem: str
    case: str
    remedy: str
    other: str = ""


class Doubt(NamedTuple):
    """What looks odd about a scan or its label, and what to do about it."""

    problem: str
    remedy: str


@dataclass(frozen=True)
class Inspection:
    """What was read of one case. The fields after ``findings`` keep their defaults if it could not be read.

    Attributes:
        name: Name of the case.
        patient: Identifier of the patient.
        findings: What was found.
        has_tumour: Whether a tumour is labelled.
        spacing: Voxel spacing (z, y, x) in mm.
        gland_hu: Median of the image under the label in HU; None without a label.
        volumes: Volumes of pancreas and tumour in ml.
        thumbnail: Record by which duplicates are recognised.
        tile: Picture of the case, if one was asked for.
    """

    name: str
    patient: str
    findings: list[Finding]
    has_tumour: bool = False
    spacing: tuple[float, float, float] | None = None
    gland_hu: float | None = None
    volumes: Volumes | None = None
    thumbnail: np.ndarray | None = None
    tile: np.ndarray | None = None

    @property
    def fatal(self) -> bool:
        """Whether ``data.prepare`` would refuse the case."""
        return any(finding.level == "fatal" for finding in self.findings)


def finding_from_error(error: InputError, level: Level, *, root: Path) -> Finding:
    """Turn an error into a finding about the file to blame.

    Args:
        error: The error that was raised for a case.
        level: Level of the finding.
        root: Folder of the data set or store. A file inside it is called by its path relative to it, any
            other by its name and that of its folder.
    """
    path = Path(error.path)
    inside = path != root and path.is_relative_to(root)
    remedy = f"{error.remedy}: {error.command}" if error.command else error.remedy
    return Finding(level, error.problem, str(path.relative_to(root)) if inside else "/".join(path.parts[-2:]), remedy)


def inspect_entry(
    entry: Entry, labels: LabelMap, *, root: Path, accept: bool = False, picture: bool = False
) -> Inspection:
    """Read one case as ``data.prepare`` would and check what came out.

    Args:
        entry: The case as its data set lists it.
        labels: What the label codes mean.
        root: Folder of the data set.
        accept: Whether an implausible label is a warning only (``--accept-labels``).
        picture: Whether to draw the tile of the case for a contact sheet.
    """
    try:
        image, label, notes = load_entry(entry, labels, accept=accept)
    except InputError as error:
        fault = finding_from_error(error, "fatal", root=root)
        return Inspection(entry.name, entry.patient, [fault])
    except MemoryError:
        fault = Finding("fatal", "the scan is too large for the memory", entry.name, "use fewer --workers")
        return Inspection(entry.name, entry.patient, [fault])
    doubts = [*_image_doubts(image), *_label_doubts(label, image.spacing)]
    gland = image.array[label > 0]
    gland_hu = float(np.median(gland)) if gland.size else None
    if gland_hu is not None and not GLAND_HU[0] <= gland_hu <= GLAND_HU[1]:
        doubts.append(Doubt(f"median of {gland_hu:.0f} HU under the label", "check that the label is on the pancreas"))
    findings = [Finding("fixed", note, entry.name, "nothing") for note in notes]
    if implausible := find_label_fault(image.array, label, image.spacing):
        level: Level = "warning" if accept else "fatal"
        findings.append(Finding(level, implausible.problem, entry.name, implausible.remedy))
    findings += [Finding("warning", doubt.problem, entry.name, doubt.remedy) for doubt in doubts]
    return Inspection(
        name=entry.name,
        patient=entry.patient,
        findings=findings,
        has_tumour=bool((label == TUMOUR).any()),
        spacing=image.spacing,
        gland_hu=gland_hu,
        volumes=measure_label(label, image.spacing),
        thumbnail=make_thumbnail(image.array, label, image.spacing),
        tile=draw_tile(image.array, label, image.spacing, entry.name) if picture else None,
    )


def _image_doubts(image: Volume) -> Iterator[Doubt]:
    if problem := find_hu_problem(image.array):
        yield Doubt(*problem)
    if min(image.spacing) < PLAUSIBLE_SPACING_MM[0] or max(image.spacing) > PLAUSIBLE_SPACING_MM[1]:
        yield Doubt(
            f"implausible spacing {_format_spacing(image.spacing)} mm",
            "check the units of the header, which should be mm",
        )
    along = np.clip(np.abs(np.diag(np.reshape(image.direction, (3, 3)))).min(), 0, 1)
    if (tilt := np.degrees(np.arccos(along))) > TILT_DEGREES:
        yield Doubt(f"scan tilted by {tilt:.0f} degrees", "used as it is; check that it is not a reformatted view")


def _label_doubts(label: np.ndarray, spacing: Sequence[float]) -> Iterator[Doubt]:
    box = bounding_box(label)
    if box is None:
        yield Doubt("no pancreas label", "label it, or leave the case out")
        return
    crop = label[box.slices]
    pancreas_ml, tumour_ml = (volume_ml(crop == code, spacing) for code in (PANCREAS, TUMOUR))
    if (both_ml := pancreas_ml + tumour_ml) < SMALLEST_GLAND_ML:
        yield Doubt(f"pancreas of {both_ml:.2g} ml", "check the label map and whether the scan shows the gland")
    if 0 < tumour_ml < SMALL_TUMOUR_ML:
        yield Doubt(f"tumour of {tumour_ml:.2g} ml", "check for stray voxels")
    if where := name_touched_ends(box, whole_box(label.shape)):
        yield Doubt(f"pancreas at the {where} end of the scan", "a part of the gland may be missing: look at it")
    parts, count = label_components(crop > 0)
    if count > 1:
        sizes = np.bincount(parts.ravel())[1:]
        rest_ml = (sizes.sum() - sizes.max()) * float(np.prod(spacing)) / 1000
        yield Doubt(f"label in {count} parts, {rest_ml:.2g} ml outside the largest", "check for stray voxels")
    if set(np.unique(parts[crop == TUMOUR])) - set(np.unique(parts[crop == PANCREAS])):
        yield Doubt("tumour that does not touch the pancreas", "check whether it belongs to another organ")


def find_implausible_labels(centre: str, cases: Sequence[Inspection], *, accept: bool) -> list[Finding]:
    """Check the volumes of the labels of a centre as a whole; ``data.prepare`` would refuse it for the finding.

    Args:
        centre: Name of the centre.
        cases: Its cases.
        accept: Whether an implausible label is a warning only (``--accept-labels``).
    """
    fault = find_centre_fault([case.volumes for case in cases if case.volumes is not None])
    return [Finding("warning" if accept else "fatal", fault.problem, f"centre {centre}", fault.remedy)] if fault else []


def find_outliers(cases: Sequence[Inspection]) -> list[Finding]:
    """Find cases whose spacing or enhancement differs from the rest of their centre."""
    spacings = [(case.name, case.spacing) for case in cases if case.spacing is not None]
    enhancement = [(case.name, case.gland_hu) for case in cases if case.spacing and case.gland_hu is not None]
    found = []
    if len(spacings) >= OUTLIERS_FROM:
        usual = np.median([spacing for _, spacing in spacings], axis=0)
        for name, spacing in spacings:
            ratio = np.array(spacing) / usual
            if max(ratio.max(), 1 / ratio.min()) > OUTLIER_SPACING:
                problem = f"spacing {_format_spacing(spacing)} mm, usual here is {_format_spacing(usual)}"
                found.append(Finding("warning", problem, name, "check its header and whether it is of this centre"))
    if len(enhancement) >= OUTLIERS_FROM:
        values = np.array([gland_hu for _, gland_hu in enhancement])
        deviations = np.abs(values - np.median(values))
        tolerance = max(OUTLIER_HU, OUTLIER_SPREADS * MAD_TO_SD * np.median(deviations))
        for (name, gland_hu), deviation in zip(enhancement, deviations, strict=True):
            if deviation > tolerance:
                problem = f"pancreas of {gland_hu:.0f} HU, usual here is {np.median(values):.0f}"
                found.append(Finding("warning", problem, name, "check its phase, its HU and the place of its label"))
    return found


def _format_spacing(spacing: Sequence[float] | np.ndarray) -> str:
    """Write a spacing (z, y, x) in the order x, y, z of file headers."""
    return " x ".join(f"{s:.3g}" for s in reversed(list(spacing)))
