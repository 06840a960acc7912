"""Refuse labels that cannot be what their codes say: implausible volumes and places, and codes that look exchanged.

``data.prepare`` refuses them and ``data.verify`` calls them fatal, unless ``--accept-labels`` is given. Every limit is
far outside what real labels show. In 136 label maps of public data sets (MSD, NIH, and PANORAMA's PDAC of two
manufacturers) the gland had 21 to 132 ml, with medians of 54 to 74 ml in the four groups; the tumour outweighed it
twofold in 2 of 120 cases, touched it to within 1 mm in all, and bounded at most a third of its surface. Gland and
tumour together spanned 33 to 117 mm along the body, with a median of 82 mm; two of them spanned less than 60 mm.

``data.verify`` warns of a small gland and of one at the end of its scan, and so does a prediction
(``engine.infer.prepared``), with the same bounds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data.cases.labels import PANCREAS, TUMOUR
from data.common.errors import InputError
from data.scans.body import TISSUE_ABOVE_HU
from data.scans.boxes import Box, bounding_box
from data.scans.grid import volume_ml

LARGEST_GLAND_ML = 500.0  # a swollen gland may have 250 ml; a stomach or liver has more than this
SMALLEST_GLAND_ML = 10.0  # half of the smallest of these 136; what has less is a part of a gland, or none
SHORTEST_SCAN_MM = 60.0  # along the body; nearly every gland spans more
LARGEST_TUMOUR_ML = 1500.0  # a ball of 14 cm; the liver is as large, and the body larger
LARGEST_DISTANCE_MM = 20.0  # a tumour of the pancreas lies in it or on it; gaps of a few slices are drawing errors
AIR_SHARE = 0.9  # of the labelled voxels in air; a gland in the body may at most be crossed by a bubble of gas
# Exchanged codes: the "pancreas" is a small lump inside the "tumour".
EXCHANGED_RATIO = 2.0  # volume of the tumour over that of the pancreas
ENCLOSED_SHARE = 0.7  # of the outer surface of the pancreas that is tumour
CENTRE_CASES = 3  # a centre must have so many cases before their medians are judged
LARGEST_MEDIAN_GLAND_ML = 150.0  # twice the usual median; a spleen read as pancreas has about 200 ml in every case

ACCEPT = "or use the labels as they are with --accept-labels"
LOOK = f"look at it (data.verify --sheet) and check the label codes (--labels), {ACCEPT}"


class Fault(NamedTuple):
    """Why labels are refused, and what to do about it."""

    problem: str
    remedy: str


class Volumes(NamedTuple):
    """The volumes of a case's labels in ml."""

    pancreas: float
    tumour: float


def measure_label(label: np.ndarray, spacing: Sequence[float]) -> Volumes:
    """Measure the volumes of a label (0/1/2, shape (D, H, W)) with spacing (z, y, x) in mm."""
    return Volumes(volume_ml(label == PANCREAS, spacing), volume_ml(label == TUMOUR, spacing))


def find_label_fault(image: np.ndarray, label: np.ndarray, spacing: Sequence[float]) -> Fault | None:
    """Check the label of one case.

    Args:
        image: The scan in HU, shape (D, H, W).
        label: Labels 0/1/2, same shape.
        spacing: Voxel spacing (z, y, x) in mm.

    Returns:
        The first fault found; None for a plausible label, and for one without any pancreas or tumour.
    """
    box = bounding_box(label)
    if box is None:
        return None
    crop, under = label[box.slices], image[box.slices]
    pancreas_ml, tumour_ml = measure_label(crop, spacing)
    if pancreas_ml > LARGEST_GLAND_ML:
        return Fault(f"its pancreas has {pancreas_ml:.0f} ml, more than {LARGEST_GLAND_ML:.0f} ml", LOOK)
    if tumour_ml > LARGEST_TUMOUR_ML:
        return Fault(f"its tumour has {tumour_ml:.0f} ml, more than {LARGEST_TUMOUR_ML:.0f} ml", LOOK)
    in_air = float((under[crop > 0] <= TISSUE_ABOVE_HU).mean())
    if in_air > AIR_SHARE:
        remedy = f"check that it is the label of this scan and that the scan is in HU, {ACCEPT}"
        return Fault(f"{in_air:.0%} of its label lies in air (below {TISSUE_ABOVE_HU} HU)", remedy)
    if tumour_ml == 0:
        return None
    if pancreas_ml == 0:
        return Fault("it has a tumour, but no pancreas", LOOK)
    distance = _distance_mm(crop, spacing)
    if distance > LARGEST_DISTANCE_MM:
        return Fault(f"its tumour lies {distance:.0f} mm from its pancreas", LOOK)
    if tumour_ml > EXCHANGED_RATIO * pancreas_ml and (enclosed := _enclosed_share(crop)) > ENCLOSED_SHARE:
        ratio = (
            f"{tumour_ml:.0f} ml of tumour surround {pancreas_ml:.1f} ml of pancreas on {enclosed:.0%} of its surface"
        )
        return Fault(f"the codes of pancreas and tumour look exchanged: {ratio}", LOOK)
    return None


def name_touched_ends(box: Box, scan: Box) -> str:
    """Name the ends of a scan that a structure touches, so that a part of it may be missing.

    Args:
        box: Around the structure, in LPS.
        scan: The whole scan, in the same voxels.

    Returns:
        Such as "lower and right"; empty if it touches none.
    """
    low = zip(("lower", "front", "right"), box.start, scan.start, strict=True)
    high = zip(("upper", "back", "left"), box.stop, scan.stop, strict=True)
    return " and ".join(name for name, face, end in (*low, *high) if face == end)


def find_centre_fault(cases: Sequence[Volumes]) -> Fault | None:
    """Check the volumes of all cases of a centre against what no group of patients has.

    Args:
        cases: Volumes of the cases that could be read.
    """
    glands = [case.pancreas for case in cases if case.pancreas > 0]
    if len(glands) >= CENTRE_CASES and (median := float(np.median(glands))) > LARGEST_MEDIAN_GLAND_ML:
        problem = f"the median pancreas of {len(glands)} cases has {median:.0f} ml, expected 40 to 110 ml"
        return Fault(problem, LOOK)
    ratios = [case.tumour / case.pancreas for case in cases if case.tumour > 0 and case.pancreas > 0]
    if len(ratios) >= CENTRE_CASES and (median := float(np.median(ratios))) > EXCHANGED_RATIO:
        times = f"in the median of {len(ratios)} cases the tumour is {median:.1f} times as large as the pancreas"
        return Fault(f"the codes of pancreas and tumour look exchanged: {times}", LOOK)
    return None


def refuse(path: object, fault: Fault) -> InputError:
    """Return the error that refuses a label or a centre for a fault."""
    return InputError(str(path), fault.problem, fault.remedy)


def _distance_mm(crop: np.ndarray, spacing: Sequence[float]) -> float:
    """Return the distance in mm between the voxels of tumour and pancreas that are nearest to each other."""
    if (ndimage.binary_dilation(crop == PANCREAS) & (crop == TUMOUR)).any():
        return 0.0
    return float(ndimage.distance_transform_edt(crop != PANCREAS, sampling=spacing)[crop == TUMOUR].min())


def _enclosed_share(crop: np.ndarray) -> float:
    """Return the share of the voxels around the pancreas that are tumour."""
    padded = np.pad(crop, 1)
    around = ndimage.binary_dilation(padded == PANCREAS) & (padded != PANCREAS)
    return float((padded[around] == TUMOUR).mean())
