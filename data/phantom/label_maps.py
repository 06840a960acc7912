"""Real label maps, around which the phantom can build a patient: reading them and measuring what they hold."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt

from data.common.errors import InputError
from data.phantom.fields import FAR, Axes, Field, nodes

# Codes: 1 lesion, 2 veins, 3 arteries, 4 parenchyma, 5 duct, 6 bile duct.
PANCREAS_CODES = (1, 4, 5)
ARTERY_CODES = (3,)
LAST_CODE = 6


@dataclass(frozen=True)
class LabelMap:
    """A real label map: codes uint8 (D, H, W), LPS, cropped from a scan of ``scan_shape`` at ``box_start``."""

    labels: np.ndarray
    box_start: np.ndarray
    scan_shape: np.ndarray
    spacing: np.ndarray  # (z, y, x) mm

    @staticmethod
    def read(path: Path) -> "LabelMap":
        """Read one .npz. Raises InputError where it is damaged, lacks a field or does not fit into its scan."""
        remedy = "copy it again or take it out of the folder"
        try:
            with np.load(path) as file:
                found = LabelMap(*(file[name] for name in ("labels", "box_start", "scan_shape", "spacing")))
            end = found.box_start + found.labels.shape
            fits = (
                found.labels.ndim == 3
                and found.labels.dtype == np.uint8
                and (found.box_start >= 0).all()
                and (end <= found.scan_shape).all()
            )
            whole = (found.labels <= LAST_CODE).all() and np.isin(found.labels, PANCREAS_CODES).any()
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path}: not a label map ({error}); {remedy}") from error
        if not (fits and whole and (found.spacing > 0).all()):
            raise InputError(f"{path}: its box, spacing, type or codes make no sense; {remedy}")
        return found

    def centres(self, shape: Sequence[int], spacing: Sequence[float]) -> Axes:
        """Voxel centres, mm from the scan's corner, of a grid over the same field of view."""
        return tuple((np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True))

    def at(self, axes: Axes) -> np.ndarray:
        """Codes at points given in mm from the scan's corner (nearest voxel); 0 outside the crop."""
        index = [
            np.floor(axis / s + 1e-6).astype(int) - b
            for axis, s, b in zip(axes, self.spacing, self.box_start, strict=True)
        ]
        found = self.labels[np.ix_(*(np.clip(i, 0, n - 1) for i, n in zip(index, self.labels.shape, strict=True)))]
        for axis, (i, n) in enumerate(zip(index, self.labels.shape, strict=True)):
            outside = (i < 0) | (i >= n)
            found[(slice(None),) * axis + (outside,)] = 0
        return found

    def points(self, codes: Sequence[int]) -> np.ndarray:
        """Voxel centres (n, 3) of the given codes, mm from the scan's corner."""
        return (np.argwhere(np.isin(self.labels, codes)) + self.box_start + 0.5) * self.spacing

    def distance(self, step: float = 2.5) -> Field:
        """Distance in mm to pancreas and vessels, from the scan's corner, followed up to FAR."""
        low = self.box_start * self.spacing - FAR
        high = (self.box_start + self.labels.shape) * self.spacing + FAR
        axes = nodes(low, high, step)
        away = distance_transform_edt(self.at(axes) == 0, sampling=step)
        return Field(np.array([a[0] for a in axes]), np.full(3, step), np.minimum(away, FAR).astype(np.float32))

    def anchor(self) -> np.ndarray:
        """The middle of the gland in z and of the aorta in y and x, mm from the scan's corner."""
        gland = self.points(PANCREAS_CODES).mean(axis=0)
        vessels = self.points(ARTERY_CODES)
        if len(vessels) == 0:
            return gland + np.array([0, 19, 10])
        # The aorta is what lies furthest back among the labelled arteries, slice by slice.
        backs = [vessels[vessels[:, 0] == z, 1].max() for z in np.unique(vessels[:, 0])]
        rear = float(np.percentile(backs, 75))
        near = vessels[vessels[:, 1] > rear - 18]
        return np.array([gland[0], rear - 10.0, np.median(near[:, 2])])

    def head(self) -> np.ndarray:
        """The middle of the right fifth of the gland: its head (z, y, x), mm from the scan's corner."""
        gland = self.points(PANCREAS_CODES)
        return np.median(gland[gland[:, 2] <= np.percentile(gland[:, 2], 20)], axis=0) + np.array([0, 0, 8])
