"""A randomised patient from a seed: the phantom's procedural patient in grey values drawn at random."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from data.phantom.anatomy import Tissue
from data.phantom.scanner import HOUNSFIELD
from data.phantom.scene import procedural_scene
from data.scans.boxes import bounding_box, enlarge
from data.synthesis.settings import Synthesis

EXTENT_MM = (190.0, 300.0, 370.0)
TUMOUR_MM = (15.0, 45.0)


def render_patient(
    seed: int | Sequence[int],
    settings: Synthesis,
    spacing: tuple[float, float, float],
    roi_mm: tuple[float, float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a patient and scan it.

    Args:
        seed: The same seed gives the same voxels.
        settings: What varies, and how widely.
        spacing: Voxel size (z, y, x) in mm.
        roi_mm: Margin (z, y, x) in mm around the pancreas within which the patient is rendered; None for a whole scan.

    Returns:
        Image in HU, int16 (D, H, W), LPS; label 0/1/2, uint8, of the same shape.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    shape = [round(mm / s) for mm, s in zip(EXTENT_MM, spacing, strict=True)]
    diameter = rng.uniform(*TUMOUR_MM) if rng.random() < settings.tumours else None
    scene = procedural_scene(rng, shape, spacing, diameter, 20.0)
    tissues = scene.tissues(0, shape[0])
    label = np.isin(tissues, (Tissue.PARENCHYMA, Tissue.DUCT)) + 2 * (tissues == Tissue.LESION).astype(np.uint8)
    hounsfield = np.array([HOUNSFIELD[tissue][1] for tissue in Tissue], np.float32)
    hounsfield[Tissue.LESION] = hounsfield[Tissue.PARENCHYMA] - 40
    hounsfield += settings.intensity * rng.normal(0, 8, len(hounsfield)).astype(np.float32)
    image = gaussian_filter(hounsfield[tissues], 0.5) + rng.normal(0, 5 + 10 * settings.resolution, tissues.shape)
    gland = bounding_box(label)
    if roi_mm is not None and gland is not None:
        margin = [mm / s for mm, s in zip(roi_mm, spacing, strict=True)]
        part = enlarge(gland, margin, margin, label.shape).slices
        image, label = image[part], label[part]
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16), np.ascontiguousarray(label, np.uint8)
