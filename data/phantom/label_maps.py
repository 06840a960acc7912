"""Real label maps of the pancreas and its vessels, around which the phantom can build a patient."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt

from data.common.errors import InputError
from data.common.files import ARCHIVE_ERRORS
from data.phantom.fields import REACH_MM, Axes, Field, node_axes

# Codes: 1 lesion, 2 veins, 3 arteries, 4 parenchyma, 5 pancreatic duct, 6 common bile duct.
PANCREAS_CODES = (1, 4, 5)
ARTERY_CODES = (3,)
LAST_CODE = 6
DISTANCE_STEP_MM = 2.5
# Where the aorta of a typical patient lies relative to the middle of the gland, (z, y, x) in mm.
USUAL_AORTA_MM = (0, 19, 10)
AORTA_RADIUS_MM = 10.0


@dataclass(frozen=True)
class AnatomyLabels:
    """A real label map, cropped from the scan that it was drawn on. Positions are in mm from the corner of that scan.

    Attributes:
        labels: Codes, uint8 (D, H, W), LPS.
        box_start: First voxel (z, y, x) of the crop in the scan.
        scan_shape: Shape (z, y, x) of the scan.
        spacing: Voxel spacing (z, y, x) in mm.
    """

    labels: np.ndarray
    box_start: np.ndarray
    scan_shape: np.ndarray
    spacing: np.ndarray

    @staticmethod
    def read(path: Path) -> "AnatomyLabels":
        """Read a label map from an .npz file with one array per attribute.

        Raises:
            InputError: If the file is damaged, lacks an array, has no pancreas or does not fit into its scan.
        """
        remedy = "copy it again, or remove it from the folder"
        try:
            with np.load(path) as file:
                found = AnatomyLabels(*(file[name] for name in ("labels", "box_start", "scan_shape", "spacing")))
            end = found.box_start + found.labels.shape
            fits = (
                found.labels.ndim == 3
                and found.labels.dtype == np.uint8
                and (found.box_start >= 0).all()
                and (end <= found.scan_shape).all()
            )
            coded = (found.labels <= LAST_CODE).all() and np.isin(found.labels, PANCREAS_CODES).any()
        except ARCHIVE_ERRORS as error:
            raise InputError(path, f"not a label map ({error})", remedy) from error
        if not (fits and coded and (found.spacing > 0).all()):
            raise InputError(path, "not a label map: its box, spacing, type or codes are not valid", remedy)
        return found

    def codes_at(self, axes: Axes) -> np.ndarray:
        """Look up the codes of the nearest voxels on a rectangular grid; 0 outside the crop."""
        index = [
            np.floor(axis / s + 1e-6).astype(int) - b
            for axis, s, b in zip(axes, self.spacing, self.box_start, strict=True)
        ]
        codes = self.labels[np.ix_(*(np.clip(i, 0, n - 1) for i, n in zip(index, self.labels.shape, strict=True)))]
        for axis, (i, n) in enumerate(zip(index, self.labels.shape, strict=True)):
            outside = (i < 0) | (i >= n)
            codes[(slice(None),) * axis + (outside,)] = 0
        return codes

    def points(self, codes: Sequence[int]) -> np.ndarray:
        """List the centres (n, 3) of the voxels with one of these codes."""
        return (np.argwhere(np.isin(self.labels, codes)) + self.box_start + 0.5) * self.spacing

    def distance(self) -> Field:
        """Compute the distance to the labelled structures in mm, up to REACH_MM."""
        low = self.box_start * self.spacing - REACH_MM
        high = (self.box_start + self.labels.shape) * self.spacing + REACH_MM
        axes = node_axes(low, high, DISTANCE_STEP_MM)
        away = distance_transform_edt(self.codes_at(axes) == 0, sampling=DISTANCE_STEP_MM)
        start, step = np.array([axis[0] for axis in axes]), np.full(3, DISTANCE_STEP_MM)
        return Field(start, step, np.minimum(away, REACH_MM).astype(np.float32))

    def anchor(self) -> np.ndarray:
        """Locate the point (z, y, x) with the height of the gland's middle and the y and x of the aorta."""
        gland = self.points(PANCREAS_CODES).mean(axis=0)
        arteries = self.points(ARTERY_CODES)
        if len(arteries) == 0:
            return gland + np.array(USUAL_AORTA_MM)
        # The aorta is the rearmost of the labelled arteries in each slice.
        backs = [arteries[arteries[:, 0] == z, 1].max() for z in np.unique(arteries[:, 0])]
        rear = float(np.percentile(backs, 75))
        rearmost = arteries[arteries[:, 1] > rear - 18]
        return np.array([gland[0], rear - AORTA_RADIUS_MM, np.median(rearmost[:, 2])])

    def head(self) -> np.ndarray:
        """Locate the head of the gland (z, y, x): near the middle of its right fifth."""
        gland = self.points(PANCREAS_CODES)
        return np.median(gland[gland[:, 2] <= np.percentile(gland[:, 2], 20)], axis=0) + np.array([0, 0, 8])
