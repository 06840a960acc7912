"""Which synthetic patients a training sees, and which it is validated on.

Each box of each epoch is another patient: it is drawn from the seed of the training, the epoch and its number. The
patients of the validation are drawn from an epoch that no training has, so that they are never trained on; they are the
same in all runs.
"""

import time
from collections.abc import Sequence

from data.augment import Augmentation
from data.cases.case import Case
from data.common.progress import progress
from data.samples import Sampling
from data.scans.boxes import triple
from data.splits.split import SYNTHETIC
from data.synthesis.case import synthetic_cases
from engine.recipe import Recipe

VALIDATION_PATIENTS = 16
VALIDATION_SEED = (0, 0)  # in the place of the seed of the training and the epoch, which is 1 or more
# Around a box whose sides are those of a pancreas with its jitter, in mm. Of the voxels that the default augmentation
# looks at, on average 1 in 300 lies farther out; they are 0, as beyond the end of a scan.
AUGMENTED_MM = 20.0


def training_patients(recipe: Recipe, with_target: int, without: int) -> list[Case]:
    """Return the synthetic patients of which every epoch sees a box, to be drawn.

    They are the share of the boxes of an epoch that the recipe says, in addition to those of prepared cases. In a
    tumour stage, so many of them have no tumour that all boxes without one together have the share of the negatives.

    Args:
        recipe: Of the training.
        with_target: Number of boxes of prepared cases in an epoch that have the target of the stage.
        without: Number of those that do not.
    """
    settings, cases = recipe.training, with_target + without
    count = settings.boxes_per_epoch
    if not settings.only_synthetic:
        count = round(cases * settings.synthetic / (1 - settings.synthetic))
        count = max(1, count) if settings.synthetic else 0
    lacking = round(settings.negatives * (cases + count)) - without
    most = count if with_target else count - 1  # an epoch needs a box with the target
    return _patients(recipe, count, min(max(0, lacking), most))


def validation_patients(recipe: Recipe) -> list[Case]:
    """Return the synthetic patients that a training on nothing else is validated on, to be drawn."""
    negatives = recipe.training.negatives
    return _patients(recipe, VALIDATION_PATIENTS, max(1, round(negatives * VALIDATION_PATIENTS)) if negatives else 0)


def _patients(recipe: Recipe, count: int, without_tumour: int) -> list[Case]:
    """Return patients for a stage; in those that segment the pancreas, any of them may have a tumour."""
    sampling = recipe.sampling
    roi_mm = rendered_margin(sampling, recipe.augmentation)
    with_tumour = None if sampling.target == "pancreas" else True
    first = count - without_tumour
    return [
        *synthetic_cases(first, recipe.synthesis, sampling.target_mm, tumour=with_tumour, roi_mm=roi_mm),
        *synthetic_cases(
            without_tumour, recipe.synthesis, sampling.target_mm, tumour=False, roi_mm=roi_mm, first=first
        ),
    ]


def rendered_margin(sampling: Sampling, augmentation: Augmentation) -> tuple[float, float, float] | None:
    """Return how far (z, y, x) in mm around the pancreas a stage looks; None for a stage that sees the whole scan."""
    if sampling.roi == "scan":
        return None
    jitter = (sampling.jitter_z_mm[1], sampling.jitter_plane_mm[1], sampling.jitter_plane_mm[1])
    beyond = AUGMENTED_MM if augmentation.probability else 0.0
    return triple(max(0.0, *both) + beyond for both in zip(jitter, sampling.margin_mm, strict=True))


def draw_validation(cases: Sequence[Case]) -> list[Case]:
    """Return the validation cases of a training, of which synthetic patients are rendered now.

    Raises:
        InputError: If a patient cannot be rendered.
    """
    shown = progress(cases, title="validation", unit="case") if SYNTHETIC in {case.centre for case in cases} else cases
    return [case.draw((*VALIDATION_SEED, place)) for place, case in enumerate(shown)]


def describe_rendering(recipe: Recipe, patients: Sequence[Case]) -> str:
    """Render the first and the last patient, and return a line with the seconds of one; empty without patients.

    Raises:
        InputError: If a patient cannot be rendered.
    """
    if not patients:
        return ""
    start, some = time.monotonic(), (patients[0], patients[-1])
    for place, patient in enumerate(some):
        patient.draw((*VALIDATION_SEED, place))
    seconds = (time.monotonic() - start) / len(some)
    workers = recipe.training.workers
    where = f"each of the {workers} processes" if workers > 1 else "the process"
    return f"  a synthetic patient takes {seconds:.1f} s to render in {where} that read boxes"
