"""What several test files share: a tiny centre on disk, and the folder of real scans where there is one."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data.errors import InputError
from data.volume import read_image, write_lps

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
VALUES = np.arange(120, dtype=np.int16).reshape(4, 5, 6)  # every voxel is known by its value
NOISE = np.random.default_rng(0).integers(-1000, 1000, (9, 10, 11)).astype(np.int16)
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


def affine_of(order=(0, 1, 2), signs=(1, 1, 1), degrees=(0.0, 0.0, 0.0), zooms=(0.7, 0.9, 2.5)) -> np.ndarray:
    """A NIfTI affine (RAS) with the axes in this order and direction, turned by degrees about x, y, z."""
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    affine[:3, :3] = turned @ np.eye(3)[:, list(order)] @ np.diag(signs) @ np.diag(zooms)
    affine[:3, 3] = (-31.5, 17.25, 401.125)
    return affine


def save(path: Path, array: np.ndarray = VALUES, affine: np.ndarray | None = None) -> Path:
    """Write a NIfTI file with nibabel, for tests of our own reader."""
    nib.save(nib.Nifti1Image(array, affine_of() if affine is None else affine), path)
    return path


def refused(path: Path, *words: str, read=read_image, **kwargs) -> str:
    """Reading raises one line that names the file and these words, and says what to do after a semicolon."""
    with pytest.raises(InputError) as caught:
        read(path, **kwargs)
    line = str(caught.value)
    assert str(path) in line and "\n" not in line and "; " in line, line
    assert all(word in line for word in words), line
    return line


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
