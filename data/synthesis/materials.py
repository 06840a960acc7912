"""What the tissues of a randomised patient look like in CT: phase, iodine, fat, texture, beyond what is usual.

The tables hold what radiology textbooks give as usual values; every patient is drawn around and beyond them.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from data.phantom.anatomy import Tissue


class Extra(IntEnum):
    """Materials of a whole torso beside the tissues of the phantom; they continue their numbers."""

    STOOL = 25
    URINE = 26
    PELVIC = 27  # uterus, prostate
    NODE = 28  # lymph nodes and other small soft tissue
    CALCIUM = 29
    TABLE = 30
    ADRENAL = 31
    MASS = 32  # soft tissue of any kind that is no organ, three kinds
    CONTENTS = 35  # of the bowel, six kinds
    WALLS = 41  # of the bowel, three kinds
    STRANDED = 44  # fat that is not clean
    CONTRAST = 45  # excreted into the renal pelvis


COUNT = 46
GLAND = (Tissue.PARENCHYMA, Tissue.DUCT, Tissue.LESION)  # what the label of the pancreas covers
MASS_KINDS, CONTENT_KINDS, WALL_KINDS = 3, 6, 3
FAT_HU = -100.0
TIMES_S = (0.0, 25.0, 42.0, 70.0, 180.0)  # after injection; at 0 there is no contrast agent
# Tissues that look the same as long as there is no contrast agent: blood in any vessel, and the layers of the kidney.
ALIKE_UNENHANCED = (
    (Tissue.ARTERY, Tissue.HEART, Tissue.VEIN, Tissue.CAVA),
    (Tissue.CORTEX, Tissue.MEDULLA),
)
# HU at these times.
ENHANCEMENT: dict[int, tuple[float, float, float, float, float]] = {
    Tissue.ARTERY: (42, 320, 270, 150, 112),
    Tissue.HEART: (42, 260, 210, 145, 110),
    Tissue.VEIN: (42, 65, 130, 168, 118),
    Tissue.CAVA: (40, 70, 105, 128, 112),
    Tissue.LIVER: (58, 66, 82, 110, 98),
    Tissue.SPLEEN: (48, 120, 132, 120, 95),
    Tissue.CORTEX: (33, 150, 195, 180, 150),
    Tissue.MEDULLA: (33, 55, 95, 150, 160),
    Tissue.PARENCHYMA: (40, 85, 116, 96, 76),
    Tissue.MUSCLE: (52, 54, 58, 63, 64),
    Tissue.WALL: (38, 72, 88, 88, 76),
    Extra.PELVIC: (42, 62, 82, 92, 86),
    Extra.NODE: (38, 55, 70, 82, 72),
    Extra.ADRENAL: (25, 62, 78, 72, 55),
    Extra.CONTRAST: (12, 12, 15, 30, 600),
}
# HU that no contrast agent changes.
STEADY: dict[int, float] = {
    Tissue.AIR: -1000,
    Tissue.SKIN: 20,
    Tissue.FAT: -104,
    Tissue.VISCERAL: -98,
    Tissue.BONE: 480,
    Tissue.MARROW: 190,
    Tissue.CORD: 30,
    Tissue.LUNG: -830,
    Tissue.GALL: 8,
    Tissue.CONTENT: 25,
    Tissue.GAS: -950,
    Tissue.DUCT: 12,
    Tissue.BILE: 10,
    Extra.STOOL: 0,
    Extra.URINE: 5,
    Extra.CALCIUM: 700,
    Extra.TABLE: -250,
    Extra.STRANDED: -70,
}
# Standard deviation of fine and of coarse texture in HU; others have the first.
PLAIN_TEXTURE = (3.5, 3.0)
TEXTURE: dict[int, tuple[float, float]] = {
    Tissue.AIR: (0, 0),
    Tissue.FAT: (6, 8),
    Tissue.VISCERAL: (12, 14),
    Extra.STRANDED: (25, 25),
    Tissue.MUSCLE: (10, 10),
    Tissue.BONE: (80, 60),
    Tissue.MARROW: (60, 35),
    Tissue.LUNG: (60, 40),
    Tissue.GAS: (15, 20),
    Tissue.CAVA: (8, 15),
    Extra.STOOL: (180, 90),
    Extra.CALCIUM: (150, 0),
    Extra.TABLE: (60, 60),
}


@dataclass(frozen=True)
class Materials:
    """What the materials of a patient look like.

    Attributes:
        mean: HU of each, float32 (COUNT,).
        fine: Standard deviation of the fine texture of each in HU.
        coarse: The same for the coarse texture.
    """

    mean: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray


def random_materials(rng: np.random.Generator, intensity: float) -> Materials:
    """Draw the materials of a patient; ``intensity`` 0 gives a usual portal-venous phase."""

    def vary(usual: float, low: float, high: float) -> float:
        """Draw uniformly from a range, which shrinks to the usual value as the intensity falls."""
        return usual + intensity * (rng.uniform(low, high) - usual)

    time = 70.0
    if rng.random() < intensity:
        time = 0.0 if rng.random() < 0.35 else float(rng.uniform(18, 180) if rng.random() < 0.4 else rng.normal(62, 16))
    dose = vary(1.0, 0.6, 1.45)
    mean = np.zeros(COUNT)
    for code, values in ENHANCEMENT.items():
        mean[code] = values[0] + dose * (np.interp(time, TIMES_S, values) - values[0])
    for code, value in STEADY.items():
        mean[code] = value
    # Differences between patients, beyond phase and dose.
    mean[Tissue.LIVER] += intensity * (-abs(rng.normal(0, 35)) if rng.random() < 0.35 else rng.normal(3, 9))
    mean[Tissue.MARROW] += intensity * rng.normal(0, 70)
    mean[Tissue.BONE] += intensity * rng.normal(100, 150)
    mean[Tissue.GALL] += intensity * (rng.uniform(20, 250) if rng.random() < 0.1 else rng.normal(2, 6))
    mean[Tissue.MUSCLE] -= intensity * abs(rng.normal(0, 12))
    mean[Extra.STRANDED] += intensity * rng.normal(0, 25)
    mean[Extra.URINE] += intensity * (rng.uniform(0, 400) if time > 120 else rng.normal(3, 5))
    mean[Extra.TABLE] += intensity * rng.uniform(-300, 300)
    fine = np.full(COUNT, PLAIN_TEXTURE[0])
    coarse = np.full(COUNT, PLAIN_TEXTURE[1])
    for code, (small, large) in TEXTURE.items():
        fine[code], coarse[code] = small, large
    if not time:  # nothing streams into the vena cava that differs from the blood in it
        fine[Tissue.CAVA], coarse[Tissue.CAVA] = fine[Tissue.VEIN], coarse[Tissue.VEIN]
    # Fat between the lobules of the pancreas lowers its mean and makes it uneven.
    fat = intensity * rng.beta(0.9, 3.0) * 0.8 + (1 - intensity) * 0.1
    gland = mean[Tissue.PARENCHYMA]
    mean[Tissue.PARENCHYMA] = (1 - fat) * gland + fat * FAT_HU
    fine[Tissue.PARENCHYMA] = 4 + 40 * fat * (1 - fat)
    coarse[Tissue.PARENCHYMA] = 3 + 40 * fat
    mean[Tissue.LESION] = _lesion_hu(rng, gland, time, intensity)
    fine[Tissue.LESION], coarse[Tissue.LESION] = vary(6, 3, 14), vary(6, 2, 16)
    for kind in range(CONTENT_KINDS):
        code = Extra.CONTENTS + kind
        mean[code], fine[code], coarse[code] = _content(rng, mean[Tissue.WALL])
    for kind in range(WALL_KINDS):
        code = Extra.WALLS + kind
        mean[code] = mean[Tissue.WALL] + rng.normal(0, 14)
        fine[code], coarse[code] = 10, 10
    for kind in range(MASS_KINDS):
        code = Extra.MASS + kind
        soft = mean[Extra.NODE] if rng.random() < 0.6 else rng.uniform(0, 60)
        mean[code], fine[code], coarse[code] = soft + rng.normal(0, 20), rng.uniform(3, 25), rng.uniform(3, 25)
    # Tissues of one patient differ together: kV and calibration; and each for itself.
    soft = (mean > -40) & (mean < 400)
    mean[soft] += intensity * rng.normal(0, 5, int(soft.sum()))
    if rng.random() < 0.2 * intensity:  # beyond what is usual, so that no grey value is relied upon
        mean[soft] += rng.normal(0, 25, int(soft.sum()))
    if not time:
        for first, *others in ALIKE_UNENHANCED:
            mean[others] = mean[first]
    amount = vary(1.0, 0.5, 1.8)
    return Materials(*(array.astype(np.float32) for array in (mean, amount * fine, amount * coarse)))


def _lesion_hu(rng: np.random.Generator, gland: float, time: float, wide: float) -> float:
    """Draw the HU of a lesion: hypo-attenuating mostly, also cystic, hyper-attenuating, or like the gland."""
    kind = rng.choice(("hypo", "cystic", "hyper", "iso"), p=(0.65, 0.15, 0.1, 0.1)) if rng.random() < wide else "hypo"
    if kind == "cystic":
        return float(rng.uniform(-2, 22))
    if kind == "hyper":
        return float(gland + rng.uniform(15, 50) * (1 if time else 0.2))
    if kind == "iso":
        return float(gland + rng.uniform(-5, 5))
    return float(gland - (rng.uniform(10, 70) if time else rng.uniform(2, 15)))


def _content(rng: np.random.Generator, wall: float) -> tuple[float, float, float]:
    """Draw what a part of the bowel holds, or that its walls touch: HU, and fine and coarse texture in HU."""
    kind = rng.choice(("fluid", "food", "stool", "contrast", "collapsed"), p=(0.28, 0.2, 0.17, 0.1, 0.25))
    if kind == "fluid":
        return float(rng.uniform(-5, 35)), 5, 6
    if kind == "food":
        return float(rng.uniform(15, 75)), float(rng.uniform(10, 60)), float(rng.uniform(10, 40))
    if kind == "stool":
        return float(rng.uniform(-150, 60)), float(rng.uniform(80, 260)), float(rng.uniform(30, 120))
    if kind == "contrast":
        return float(rng.uniform(120, 450)), float(rng.uniform(5, 50)), float(rng.uniform(10, 80))
    return float(wall + rng.normal(0, 10)), float(rng.uniform(4, 20)), float(rng.uniform(4, 20))
