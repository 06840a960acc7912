"""Agreement of a predicted mask with its reference: overlap, surface distances in mm, volumes and lesion counts.

Definitions. P is the prediction, R the reference, |.| counts voxels. S(.) is the set of surface voxels: the mask minus
its 6-connected erosion, including the voxels on the scan's own border.

    dice               2 |P and R| / (|P| + |R|)
    recall, precision  |P and R| / |R|,  |P and R| / |P|
    roi_recall         share of R inside the bounding box of P
    roi_recall_margin  the same after the box has been enlarged by a margin in mm and rounded outwards to multiples of
                       8 voxels within the scan: the region of interest of the next stage, as far as the voxels that
                       are scored are also those that the stage sees
    nsd_2mm, nsd_1mm   normalised surface Dice: share of the voxels of S(P) and S(R) that lie within 2 (1) mm of the
                       other surface (Nikolov et al., J. Med. Internet Res. 23, 2021), counted in voxels like MONAI
                       without subvoxels
    hd95_mm            95th percentile of the distances of both directions pooled, as in medpy; MONAI and nnU-Net take
                       the larger of the two directed percentiles, which is usually a larger number
    asd_mm             mean of the same pooled distances (``assd`` of medpy)
    reference_ml, prediction_ml, volume_error_ml = prediction_ml - reference_ml
    reference_lesions, detected_lesions   26-connected components of R, and how many of them P touches in a voxel
    false_positive_components             26-connected components of P that touch no voxel of R

Empty masks. A metric that is not defined is NaN, never a convenient number, and every summary counts the cases that it
left out:

    outcome            R       P       dice, recall, roi_recall*, nsd*   precision   hd95, asd
    segmented          filled  filled  as defined                        as defined  as defined
    missed             filled  empty   0                                 NaN         NaN
    false_positive     empty   filled  NaN                               NaN         NaN
    correctly_empty    empty   empty   NaN                               NaN         NaN

Volumes and lesion counts are defined for all four outcomes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from medpy.metric.binary import assd, hd95
from scipy import ndimage

from data.samples import MARGIN_MM, margin_box
from data.scans.boxes import Box, bounding_box, union
from data.scans.components import label_components
from data.scans.grid import volume_ml

AGREEMENT = (
    "dice",
    "recall",
    "precision",
    "roi_recall",
    "roi_recall_margin",
    "nsd_2mm",
    "nsd_1mm",
    "hd95_mm",
    "asd_mm",
)
VOLUMES = ("reference_ml", "prediction_ml", "volume_error_ml")
LESIONS = ("reference_lesions", "detected_lesions", "false_positive_components")
COLUMNS = AGREEMENT + VOLUMES + LESIONS

OUTCOMES = ("segmented", "missed", "false_positive", "correctly_empty")
UNDEFINED_WHEN_MISSED = ("precision", "hd95_mm", "asd_mm")

# Spacings are stored as float32: three voxels of 0.66666669 mm are meant to be 2 mm apart.
TOLERANCE_SLACK_MM = 1e-4


def case_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    margin_mm: Sequence[float] = MARGIN_MM,
) -> dict[str, float]:
    """Compute all metrics of one case; the module's docstring defines them and what they are for empty masks.

    Args:
        prediction: Predicted mask, shape (D, H, W); voxels other than 0 are foreground.
        reference: Reference mask of the same shape.
        spacing: Voxel spacing (z, y, x) in mm.
        margin_mm: Margin (z, y, x) in mm of the next stage's region of interest around the predicted mask.

    Returns:
        The metrics by name, in the order of ``COLUMNS``.

    Raises:
        ValueError: If the shapes differ or the spacing is not positive.
    """
    prediction, reference = np.asarray(prediction) != 0, np.asarray(reference) != 0
    spacing = tuple(float(s) for s in spacing)
    if prediction.ndim != 3 or prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} must be one 3-D shape")
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing must be three positive numbers in mm, not {spacing}")
    values: dict[str, float] = dict.fromkeys(AGREEMENT, np.nan)
    predicted_box, reference_box = bounding_box(prediction), bounding_box(reference)
    if predicted_box is not None and reference_box is not None:
        common, found, wanted = (int(np.count_nonzero(m)) for m in (prediction & reference, prediction, reference))
        values |= {"dice": 2 * common / (found + wanted), "recall": common / wanted, "precision": common / found}
        next_roi = margin_box(predicted_box, prediction.shape, spacing, margin_mm)
        values |= {
            "roi_recall": _recall_in(predicted_box, reference),
            "roi_recall_margin": _recall_in(next_roi, reference),
        }
        # Surfaces are measured in the common box of the masks, which takes 0.3 s where a whole scan takes 20 s. The
        # empty rim stands for what surrounds the box. At the border of the scan it turns the cut through a mask into
        # surface, as medpy and MONAI do.
        box = union(predicted_box, reference_box)
        values |= surface_metrics(np.pad(prediction[box.slices], 1), np.pad(reference[box.slices], 1), spacing)
    elif reference_box is not None:  # missed
        values |= {name: 0.0 for name in AGREEMENT if name not in UNDEFINED_WHEN_MISSED}
    wanted_ml, found_ml = volume_ml(reference, spacing), volume_ml(prediction, spacing)
    values |= {"reference_ml": wanted_ml, "prediction_ml": found_ml, "volume_error_ml": found_ml - wanted_ml}
    values |= count_lesions(prediction, reference)
    return {name: float(values[name]) for name in COLUMNS}


def outcome(row: Mapping[str, float]) -> str:
    """Return which of ``OUTCOMES`` the metrics of a case describe; its two volumes decide."""
    wanted, found = row["reference_ml"] > 0, row["prediction_ml"] > 0
    if wanted:
        return "segmented" if found else "missed"
    return "false_positive" if found else "correctly_empty"


def surface_metrics(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Compute NSD, HD95 and ASD of two masks.

    Args:
        prediction: Boolean mask, shape (D, H, W), not empty.
        reference: Boolean mask of the same shape, not empty.
        spacing: Voxel spacing (z, y, x) in mm.
    """
    predicted_surface, reference_surface = (mask & ~ndimage.binary_erosion(mask) for mask in (prediction, reference))
    to_reference, to_prediction = (
        ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in (reference_surface, predicted_surface)
    )
    distances = np.concatenate([to_reference[predicted_surface], to_prediction[reference_surface]])  # mm
    return {
        "nsd_2mm": float(np.mean(distances <= 2.0 + TOLERANCE_SLACK_MM)),
        "nsd_1mm": float(np.mean(distances <= 1.0 + TOLERANCE_SLACK_MM)),
        "hd95_mm": float(hd95(prediction, reference, voxelspacing=spacing)),
        "asd_mm": float(assd(prediction, reference, voxelspacing=spacing)),
    }


def count_lesions(prediction: np.ndarray, reference: np.ndarray) -> dict[str, int]:
    """Count lesions, detected lesions and false positives of two boolean masks, shape (D, H, W)."""
    lesions, detected = _count_components(reference, prediction)
    found, justified = _count_components(prediction, reference)
    return {
        "reference_lesions": lesions,
        "detected_lesions": detected,
        "false_positive_components": found - justified,
    }


def _count_components(mask: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """Return the number of 26-connected components of ``mask``, and of those that share a voxel with ``other``."""
    box = bounding_box(mask)
    if box is None:
        return 0, 0
    components, count = label_components(mask[box.slices])
    touched = np.unique(components[other[box.slices]])
    return count, int(np.count_nonzero(touched))


def _recall_in(box: Box, reference: np.ndarray) -> float:
    """Return the share of a non-empty mask that lies inside a box."""
    return np.count_nonzero(reference[box.slices]) / np.count_nonzero(reference)
