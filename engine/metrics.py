"""How well one predicted mask matches its reference: overlap, surface distances in mm, volumes, lesions found.

Definitions (P prediction, R reference, |.| counts voxels, S(.) surface voxels = the mask minus its 6-connected erosion,
voxels on the scan's own border included):

    dice               2 |P and R| / (|P| + |R|)
    recall, precision  |P and R| / |R|,  |P and R| / |P|
    roi_recall         share of R inside the bounding box of P
    roi_recall_margin  the same for that box enlarged by a margin in mm and rounded outwards to multiples of 8 voxels,
                       inside the scan: the box that the next stage of the cascade reads
    nsd_2mm, nsd_1mm   normalised surface Dice: share of all voxels of S(P) and S(R) no further than 2 (1) mm from the
                       other surface (Nikolov et al. 2018, counted in voxels as MONAI does without subvoxels)
    hd95_mm            95th percentile of the distances of BOTH directions pooled (medpy; MONAI and nnU-Net take the
                       larger of the two directed percentiles, which mostly is a larger number on the same masks)
    asd_mm             mean of the same pooled distances (medpy assd)
    reference_ml, prediction_ml, volume_error_ml = prediction_ml - reference_ml
    reference_lesions, detected_lesions   26-connected components of R, and those of them that P touches in >= 1 voxel
    false_positive_components             26-connected components of P that touch no voxel of R

Empty masks. What cannot be defined is NaN, never a convenient number, and every summary counts the cases it left out:

    outcome            R       P       dice, recall, cover, roi_recall_margin, nsd   precision   hd95, asd
    segmented          filled  filled  as defined                               as defined  as defined
    missed             filled  empty   0                                        NaN         NaN
    false_positive     empty   filled  NaN                                      NaN         NaN
    correctly_empty    empty   empty   NaN                                      NaN         NaN

Volumes and lesion counts are defined in all four.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from medpy.metric.binary import assd, hd95
from scipy import ndimage

from data.samples import MARGIN_MM, margin_box
from data.scans.boxes import Box, bounding_box, union
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
SLACK_MM = 1e-4


def case_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    margin_mm: Sequence[float] = MARGIN_MM,
) -> dict[str, float]:
    """All metrics of one case, in the order of ``COLUMNS``; see the module's docstring for each and for empty masks.

    Args:
        prediction, reference: (D, H, W), non-zero = foreground.
        spacing: (z, y, x) in mm.
        margin_mm: (z, y, x), how far the next stage's box reaches beyond the predicted mask's on every side.

    Raises ValueError where the two shapes differ or the spacing is not positive.
    """
    prediction, reference = np.asarray(prediction) != 0, np.asarray(reference) != 0
    spacing = tuple(float(s) for s in spacing)
    if prediction.ndim != 3 or prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} must be one 3-D shape")
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing must be three positive numbers in mm, not {spacing}")
    predicted, wanted = bounding_box(prediction), bounding_box(reference)
    if predicted is None or wanted is None:
        agreement = _agreement_when_empty(missed=wanted is not None)
    else:
        near, far = predicted, margin_box(predicted, prediction.shape, spacing, margin_mm)
        agreement = {
            **overlap(prediction, reference),
            "roi_recall": roi_recall(reference, near),
            "roi_recall_margin": roi_recall(reference, far),
            **surface_metrics(*_cropped(prediction, reference, union(predicted, wanted)), spacing),
        }
    values = agreement | volumes(prediction, reference, spacing) | lesion_counts(prediction, reference)
    return {name: float(values[name]) for name in COLUMNS}


def outcome(row: Mapping[str, float]) -> str:
    """Which of ``OUTCOMES`` a case's metrics describe, told from its two volumes."""
    wanted, found = row["reference_ml"] > 0, row["prediction_ml"] > 0
    if wanted:
        return "segmented" if found else "missed"
    return "false_positive" if found else "correctly_empty"


def overlap(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Dice, recall and precision of two boolean masks, neither of them empty."""
    common, found, wanted = (int(np.count_nonzero(m)) for m in (prediction & reference, prediction, reference))
    return {"dice": 2 * common / (found + wanted), "recall": common / wanted, "precision": common / found}


def roi_recall(reference: np.ndarray, box: Box) -> float:
    """The share of the non-empty mask ``reference`` that lies inside ``box``."""
    return np.count_nonzero(reference[box.slices]) / np.count_nonzero(reference)


def surface_metrics(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """NSD, HD95 and ASD of two boolean masks, neither of them empty; ``spacing`` (z, y, x) in mm."""
    distances = pooled_surface_distances(prediction, reference, spacing)
    return {
        "nsd_2mm": np.mean(distances <= 2.0 + SLACK_MM),
        "nsd_1mm": np.mean(distances <= 1.0 + SLACK_MM),
        "hd95_mm": hd95(prediction, reference, voxelspacing=spacing),
        "asd_mm": assd(prediction, reference, voxelspacing=spacing),
    }


def pooled_surface_distances(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The distance in mm of every voxel of either surface to the nearest voxel of the other, (|S(P)| + |S(R)|,)."""
    ours, theirs = (mask & ~ndimage.binary_erosion(mask) for mask in (prediction, reference))
    to_theirs, to_ours = (ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in (theirs, ours))
    return np.concatenate([to_theirs[ours], to_ours[theirs]])


def volumes(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Volumes in ml; the error is positive where too much was predicted."""
    wanted, found = volume_ml(reference, spacing), volume_ml(prediction, spacing)
    return {"reference_ml": wanted, "prediction_ml": found, "volume_error_ml": found - wanted}


def lesion_counts(prediction: np.ndarray, reference: np.ndarray) -> dict[str, int]:
    """Reference components, those of them that the prediction touches, predicted components that touch none."""
    wanted, touched = _components(reference, prediction)
    found, justified = _components(prediction, reference)
    return {
        "reference_lesions": wanted,
        "detected_lesions": touched,
        "false_positive_components": found - justified,
    }


def _components(mask: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """The number of 26-connected components of ``mask``, and of those that share a voxel with ``other``."""
    box = bounding_box(mask)
    if box is None:
        return 0, 0
    labels, count = ndimage.label(mask[box.slices], structure=np.ones((3, 3, 3)))
    touched = np.unique(labels[other[box.slices]])
    return count, int(np.count_nonzero(touched))


def _agreement_when_empty(missed: bool) -> dict[str, float]:
    """The policy of the module's docstring for a case with an empty mask."""
    return {name: 0.0 if missed and name not in UNDEFINED_WHEN_MISSED else np.nan for name in AGREEMENT}


def _cropped(prediction: np.ndarray, reference: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Both masks in ``box`` with one empty voxel around: a full scan takes 20 s, its organ 0.3 s, same numbers.

    The empty rim stands for what lies outside the box; at the true border of the scan it says that a mask which the
    scan cuts off has a surface there, as medpy and MONAI have it too.
    """
    return np.pad(prediction[box.slices], 1), np.pad(reference[box.slices], 1)
