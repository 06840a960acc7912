"""What several test files share: a tiny centre on disk, and the folder of real scans where there is one."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from data.cases.store import write_case
from data.common.errors import InputError
from data.scans.grid import Grid
from data.scans.volume import read_image, write_lps
from engine.study import jobs as study_jobs
from tests.study_parts import CENTRES, case, fake_run

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


def abdomens(root: Path, seeds: dict[str, int], cut: int = 0) -> Path:
    """A centre of scans large enough to be told apart; ``cut``: slices that are left out at either end."""
    z, y, x = np.indices((36, 40, 60))
    for name, seed in seeds.items():
        organs = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=z.shape), 2.5)
        inside = ((y - 20) / 18) ** 2 + ((x - 30) / 27) ** 2 < 1
        image = np.where(inside, np.where(organs > 0, 60, -100) + 1500 * organs, -1000)
        image[18, 0, 0] = 900
        label = ((z - 18) / 5) ** 2 + ((y - 18) / 5) ** 2 + ((x - 30) / 10) ** 2 < 1
        image[label] += 60 - np.median(image[label])
        for kind, array in (("images", image.astype(np.int16)), ("labels", label.astype(np.uint8))):
            write_lps(root / kind / f"{name}.nii.gz", array[cut : 36 - cut], (5.0, 6.0, 6.0))
    return root


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
        pytest.skip(f"{SHARED} is not there")
    return SHARED


@pytest.fixture
def without_tumours(study_store, tmp_path) -> Path:
    """The same cases, with no tumour labelled in those of the first centre."""
    store = tmp_path / "without_tumours"
    shutil.copytree(study_store, store)
    for path in (store / CENTRES[0]).glob("*/case.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tumour_box": None}))
    return store


@pytest.fixture(scope="module")
def study_store(tmp_path_factory) -> Path:
    """Three centres of three prepared cases with a tumour, too small to train on."""
    root = tmp_path_factory.mktemp("store")
    label = np.zeros((4, 8, 8), np.uint8)
    label[1:3, 2:6, 2:6], label[2, 3:5, 3:5] = 1, 2
    for number, centre in enumerate(CENTRES):
        for index in range(3):
            name, spacing = f"case{index}", (3.0, 2.0, 2.0)
            grid = Grid.plain(label.shape, spacing)
            image = np.full(label.shape, 3 * number + index, np.int16)  # no two are one scan
            write_case(root, centre, name, image, label, patient=name, spacing=spacing, grid=grid, source={})
    return root


@pytest.fixture
def leaking_store(study_store, tmp_path) -> Path:
    """The same cases, fresh, with the first scan of the first centre in the last one too."""
    store = tmp_path / "leaking"
    shutil.copytree(study_store, store, ignore=shutil.ignore_patterns("thumbnail*", "splits*"))
    shutil.copy(store / CENTRES[0] / "case0" / "image.npy", store / CENTRES[-1] / "case0" / "image.npy")
    return store


# A stand-in for the scripts: it puts what they leave behind where it belongs.
FAKE = """
import shutil, sys
run, made, folder, failing = sys.argv[1:]
with open(folder + "/order", "a") as file: print(run, file=file)
if failing: sys.exit("error: no luck")
shutil.copytree(made, folder, dirs_exist_ok=True)
"""


@pytest.fixture
def fake_scripts(monkeypatch, tmp_path_factory):
    """``fake_scripts(failing="full")``: children that finish at once, those of one variant without success."""

    def install(failing: str = "") -> None:
        def commands(study, run, gpu, more):
            made = tmp_path_factory.mktemp("made")
            fake_run(made, run, [case(f"{run.centre}/case{i}", 0.5 + 0.1 * i) for i in range(3)])
            fails = "yes" if run.variant == failing else ""
            return [[sys.executable, "-c", FAKE, str(run), str(made), str(study.folder), fails]]

        monkeypatch.setattr(study_jobs, "build_commands", commands)

    return install
