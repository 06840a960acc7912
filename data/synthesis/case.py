"""Synthetic patients as cases: they are rendered where a box of them is read, and are never on a disk."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from data.cases.case import Case
from data.cases.labels import label_boxes
from data.cases.preparation import Preparation
from data.common.errors import InputError
from data.scans.boxes import triple, whole_box
from data.scans.grid import Grid
from data.splits.split import SYNTHETIC
from data.synthesis.patient import render_patient
from data.synthesis.settings import VERSION, Synthesis
from data.synthesis.torso_library import check_source

MOST_TRIES = 20  # patients that are drawn for one that shows the target: a scan may end before it
LARGEST_MM = 1000.0  # no scan is longer or wider


@dataclass(frozen=True, kw_only=True)
class UnstoredCase(Case):
    """A case that has no folder; its source describes it fully."""

    def content(self) -> str:
        """Describe what the case is made of, as JSON."""
        return json.dumps(self.source)


@dataclass(frozen=True, kw_only=True, eq=False)
class RenderedCase(UnstoredCase):
    """A synthetic patient that has been drawn, in memory.

    Attributes:
        arrays: Image, int16 HU, and label, uint8 0/1/2, both (D, H, W).
    """

    arrays: tuple[np.ndarray, np.ndarray] = field(repr=False)

    def image(self) -> np.ndarray:
        """Return the image: int16 HU, shape (D, H, W)."""
        return self.arrays[0]

    def label(self) -> np.ndarray:
        """Return the label: uint8 0/1/2, shape (D, H, W)."""
        return self.arrays[1]


@dataclass(frozen=True, kw_only=True)
class SyntheticCase(UnstoredCase):
    """A synthetic patient that is another one whenever it is drawn.

    It takes the place of a prepared case until then. Its shape and its boxes say how large those of the drawn patient
    can become.

    Attributes:
        synthesis: How patients are drawn.
        target: What each of them shows, "pancreas" or "tumour".
        roi_mm: As for ``render_patient``.
    """

    synthesis: Synthesis
    target: str
    roi_mm: tuple[float, float, float] | None = None

    def draw(self, seed: Sequence[int]) -> Case:
        """Render the patient of a seed.

        Raises:
            InputError: If none of MOST_TRIES patients shows the target.
        """
        for attempt in range(1, MOST_TRIES + 1):
            image, label = render_patient((*seed, attempt), self.synthesis, self.spacing, self.roi_mm)
            pancreas_box, tumour_box = label_boxes(label)
            if tumour_box or (pancreas_box and self.target == "pancreas"):
                name = "_".join(map(str, seed))
                return RenderedCase(
                    folder=self.folder,
                    centre=self.centre,
                    name=name,
                    patient=name,
                    shape=triple(image.shape),
                    spacing=self.spacing,
                    pancreas_box=pancreas_box,
                    tumour_box=tumour_box,
                    grid=Grid.plain(image.shape, self.spacing),
                    source=self.source | {"seed": [*seed, attempt]},
                    preparation=self.preparation,
                    arrays=(image, label),
                )
        problem = f"none of {MOST_TRIES} synthetic patients shows a {self.target} on voxels of {self.spacing} mm"
        raise InputError(f"{self.key}, seed {tuple(seed)}", problem, "use a finer --target-mm, or other --synthesis")

    def image(self) -> np.ndarray:
        """Refuse to be read before it is drawn."""
        raise ValueError(f"{self.key} has not been drawn")

    def label(self) -> np.ndarray:
        """Refuse to be read before it is drawn."""
        raise ValueError(f"{self.key} has not been drawn")


def synthetic_cases(
    count: int,
    synthesis: Synthesis,
    spacing: tuple[float, float, float],
    *,
    tumour: bool | None = None,
    roi_mm: tuple[float, float, float] | None = None,
    first: int = 0,
) -> list[Case]:
    """Return synthetic patients that are still to be drawn.

    Args:
        count: How many.
        synthesis: How they are drawn.
        spacing: Size (z, y, x) of their voxels in mm.
        tumour: Whether they have a tumour; None for the share that ``synthesis`` says.
        roi_mm: As for ``render_patient``.
        first: Number in the name of the first.

    Raises:
        InputError: If one of the label maps or torsos that ``synthesis`` names cannot be used.
    """
    if tumour is not None:
        synthesis = replace(synthesis, tumours=float(tumour))
    shape = triple(math.ceil(LARGEST_MM / mm) for mm in spacing)
    whole = whole_box(shape)
    source = {"synthetic": VERSION, **asdict(synthesis), "spacing": list(spacing), "roi_mm": roi_mm and list(roi_mm)}
    if count and synthesis.labels:
        source["labels"] = check_source(synthesis)  # the same wherever the files lie
    return [
        SyntheticCase(
            folder=Path(),
            centre=SYNTHETIC,
            name=str(number),
            patient=str(number),
            shape=shape,
            spacing=spacing,
            pancreas_box=whole,
            tumour_box=whole if tumour else None,
            grid=Grid.plain(shape, spacing),
            source=source,
            preparation=Preparation(),
            synthesis=synthesis,
            target="tumour" if tumour else "pancreas",
            roi_mm=roi_mm,
        )
        for number in range(first, first + count)
    ]
