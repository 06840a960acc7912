"""What several test files share: a tiny centre on disk, and the folder of real scans where there is one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.volume import write_lps

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
SPACING = (5.0, 4.0, 3.0)  # (z, y, x) mm


def tiny_scan(index: int, shape: tuple[int, int, int] = (10, 22, 26)) -> tuple[np.ndarray, np.ndarray]:
    """A CT-like int16 image with a pancreas and, in every second one, a tumour (label uint8 0/1/2)."""
    rng = np.random.default_rng(index)
    label = np.zeros(shape, np.uint8)
    label[2:8, 6:14, 6:20] = 1
    if index % 2 == 0:
        label[4:6, 8:11, 9:13] = 2
    image = rng.normal(40, 20, shape) + 60 * (label == 1) + 20 * (label == 2)
    image[:, :2] = -1000
    image[:, -3:] = 500
    return image.astype(np.int16), label


@pytest.fixture
def write_centre(tmp_path: Path) -> Callable[..., Path]:
    """``write_centre(name, cases)`` writes a centre in the folder layout and returns its root."""

    def write(name: str = "hospital", cases: int = 3) -> Path:
        root = tmp_path / name
        for index in range(cases):
            for kind, array in zip(("images", "labels"), tiny_scan(index), strict=True):
                write_lps(root / kind / f"case_{index}.nii.gz", array, SPACING, (-40.0, -30.0, 100.0 + index))
        return root

    return write


@pytest.fixture
def shared() -> Path:
    """The folder of real scans and test vectors beside the repository; skips the test where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared here")
    return SHARED
