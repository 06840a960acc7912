"""The domains of the evidence study: four that are trained on, and six that are held out one at a time.

A domain is a scanner and its protocol, and what a lesion looks like there. Every held-out domain differs from its
``base``, a domain that is trained on, in one thing only: the phase, the lesions, the slices or the matrix. The gap is
therefore measured within the patient.
"""

from dataclasses import dataclass

import numpy as np

from data.phantom.anatomy import Tissue
from data.synthesis.acquisition import Acquisition
from data.synthesis.materials import ENHANCEMENT, FAT_HU, PLAIN_TEXTURE, STEADY, TEXTURE, TIMES_S, Materials

PORTAL_S, PANCREATIC_S, NON_CONTRAST_S = 70.0, 42.0, 0.0  # seconds after injection; at 0 there is no contrast agent
SPACING = (2.0, 1.4, 1.4)
DILATED_SHARE = 0.5  # of the patients with a lesion whose duct is dilated upstream of it, outside the domain iso_duct


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A scanner, its protocol, and the lesions that it sees.

    Attributes:
        name: Name of the centre in the store.
        base: The training domain from which a held-out domain differs in one thing; empty for a training domain.
        seconds: When the scan is taken after the injection; 0 is a scan without contrast agent.
        lesion_hu: Smallest and largest HU of a lesion, relative to the gland unless ``cystic``.
        cystic: Whether ``lesion_hu`` is the lesion's own HU.
        duct_only: Whether a dilated duct is the only sign of the lesion, so that every patient has one.
        spacing: Voxel size (z, y, x) in mm.
        acquisition: Kernel and noise.
    """

    name: str
    base: str = ""
    seconds: float = PORTAL_S
    lesion_hu: tuple[float, float] = (-60.0, -30.0)
    cystic: bool = False
    duct_only: bool = False
    spacing: tuple[float, float, float] = SPACING
    acquisition: Acquisition


def _kernel(blur: float, edge: float, noise: float, grain: float, slice_mm: float = SPACING[0]) -> Acquisition:
    """Return a scanner with this in-plane softness in mm, edge enhancement, noise in HU and grain in mm."""
    return Acquisition(
        blur_mm=(0.3, blur, blur),
        edge=edge,
        slice_mm=slice_mm,
        noise=noise,
        grain_mm=(0.5, grain),
        streaks=0.0,
        scale=1.0,
        offset=0.0,
    )


SOFT = _kernel(blur=0.9, edge=0.0, noise=10.0, grain=1.0)
SHARP = _kernel(blur=0.5, edge=0.5, noise=16.0, grain=0.6)
# Thicker slices collect more photons; the softer kernel removes more of the noise.
THICK_SOFT = _kernel(blur=1.7, edge=0.0, noise=5.0, grain=1.7, slice_mm=5.0)
COARSE = _kernel(blur=0.9, edge=0.0, noise=7.0, grain=1.0)

DOMAINS = (
    Domain(name="portal_soft", acquisition=SOFT),
    Domain(name="portal_sharp", acquisition=SHARP),
    Domain(name="pancreatic_soft", seconds=PANCREATIC_S, acquisition=SOFT),
    Domain(name="pancreatic_sharp", seconds=PANCREATIC_S, acquisition=SHARP),
    Domain(name="non_contrast", base="portal_soft", seconds=NON_CONTRAST_S, lesion_hu=(-25.0, -10.0), acquisition=SOFT),
    Domain(name="hyper", base="portal_soft", lesion_hu=(20.0, 50.0), acquisition=SOFT),
    Domain(name="cystic", base="portal_soft", lesion_hu=(5.0, 15.0), cystic=True, acquisition=SOFT),
    Domain(name="iso_duct", base="portal_soft", lesion_hu=(-3.0, 3.0), duct_only=True, acquisition=SOFT),
    Domain(name="thick_soft", base="portal_soft", spacing=(5.0, 1.4, 1.4), acquisition=THICK_SOFT),
    Domain(name="matrix", base="portal_soft", spacing=(2.0, 2.8, 2.8), acquisition=COARSE),
)
TRAINING = tuple(domain for domain in DOMAINS if not domain.base)
HELD_OUT = tuple(domain for domain in DOMAINS if domain.base)


@dataclass(frozen=True)
class Constitution:
    """How the tissues of one patient differ from the usual ones; the same under every scanner.

    Attributes:
        dose: Factor of the enhancement.
        delay_s: By how much the contrast agent arrives late, in seconds.
        offsets: Differences in HU, one for each tissue.
        fat: Share of fat between the lobules of the pancreas.
        contrast: Where in a domain's range of lesions this patient's lies, from 0 to 1.
    """

    dose: float
    delay_s: float
    offsets: np.ndarray
    fat: float
    contrast: float


def random_constitution(rng: np.random.Generator) -> Constitution:
    """Draw a patient's tissues."""
    return Constitution(
        dose=float(rng.normal(1, 0.08)),
        delay_s=float(rng.normal(0, 3)),
        offsets=rng.normal(0, 2, len(Tissue)),
        fat=float(rng.uniform(0.02, 0.2)),
        contrast=float(rng.uniform()),
    )


def materials_in(domain: Domain, patient: Constitution) -> Materials:
    """Return mean, fine and coarse texture of each tissue of a patient in a domain, in HU, by the codes of Tissue."""
    mean = np.zeros(len(Tissue))
    fine, coarse = np.full(len(Tissue), PLAIN_TEXTURE[0]), np.full(len(Tissue), PLAIN_TEXTURE[1])
    seconds = domain.seconds and domain.seconds + patient.delay_s
    for tissue in Tissue:
        if tissue in ENHANCEMENT:
            plain = ENHANCEMENT[tissue][0]
            mean[tissue] = plain + patient.dose * (np.interp(seconds, TIMES_S, ENHANCEMENT[tissue]) - plain)
        elif tissue in STEADY:
            mean[tissue] = STEADY[tissue]
        if tissue in TEXTURE:
            fine[tissue], coarse[tissue] = TEXTURE[tissue]
    mean += patient.offsets
    # Fat between the lobules lowers the mean of the gland and makes it uneven.
    mean[Tissue.PARENCHYMA] = (1 - patient.fat) * mean[Tissue.PARENCHYMA] + patient.fat * FAT_HU
    fine[Tissue.PARENCHYMA] = 6 + 50 * patient.fat * (1 - patient.fat)
    coarse[Tissue.PARENCHYMA] = 4 + 25 * patient.fat
    low, high = domain.lesion_hu
    mean[Tissue.LESION] = low + patient.contrast * (high - low)
    if not domain.cystic:
        mean[Tissue.LESION] += mean[Tissue.PARENCHYMA]
    # The lesion has the gland's texture, which differs from patient to patient, except where it is a cyst.
    if not domain.cystic:
        fine[Tissue.LESION], coarse[Tissue.LESION] = fine[Tissue.PARENCHYMA], coarse[Tissue.PARENCHYMA]
    return Materials(*(array.astype(np.float32) for array in (mean, fine, coarse)))
