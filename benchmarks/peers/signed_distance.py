"""The truncated signed distance by the exact distance transforms of other packages."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.boxes import random_blobs
from benchmarks.peers.process import serve

Distance = Callable[[], np.ndarray]


def scipy_distance(mask: np.ndarray, spacing: Sequence[float], tau: float) -> np.ndarray:
    """Return the signed distance in units of tau by two of SciPy's transforms, the reference of this benchmark."""
    from scipy import ndimage

    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    return (outside.clip(0, tau) - inside.clip(0, tau)) / tau


def edt_distance(mask: np.ndarray, spacing: Sequence[float], tau: float) -> np.ndarray:
    """Return the same by the package ``edt``, which has a signed transform, positive inside."""
    import edt

    return edt.sdf(mask, anisotropy=tuple(spacing), black_border=False, parallel=torch.get_num_threads()).clip(
        -tau, tau
    ) / -np.float32(tau)


def monai_distance(mask: np.ndarray, spacing: Sequence[float], tau: float) -> np.ndarray:
    """Return the same by MONAI, which hands arrays on to SciPy."""
    from monai.transforms.utils import distance_transform_edt

    inside, outside = (distance_transform_edt(side[None], sampling=list(spacing))[0] for side in (mask, ~mask))
    return (outside.clip(0, tau) - inside.clip(0, tau)) / tau


def builder(distance: Callable[[np.ndarray, Sequence[float], float], np.ndarray]) -> Callable[..., Any]:
    """Return the builder of one of the functions above; it says how far its result is from SciPy's."""

    def build(
        device: torch.device, *, shape: Sequence[int], spacing: Sequence[float], tau: float
    ) -> tuple[Callable[[], object], dict[str, Any]]:
        mask = random_blobs(shape, spacing)
        difference = np.abs(distance(mask, spacing, tau) - scipy_distance(mask, spacing, tau)).max()
        return lambda: distance(mask, spacing, tau), {"difference": float(difference)}

    return build


if __name__ == "__main__":
    serve({"edt": builder(edt_distance), "MONAI": builder(monai_distance)})
