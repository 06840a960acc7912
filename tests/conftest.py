"""Helpers and fixtures of several test files: small scans and centres on disk, stores, and checks of errors."""

import contextlib
import json
import locale
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import settings
from scipy import ndimage
from scipy.spatial.transform import Rotation

from data.cases.case import write_case
from data.common.errors import InputError
from data.common.records import CHECKSUM, checksum
from data.scans.grid import Grid
from data.scans.volume import read_image, write_lps
from engine.report import drawing
from engine.study import cost as study_cost
from engine.study import jobs as study_jobs
from engine.train import command as train_command
from engine.train.cost import Cost, Work
from tests.study_parts import CENTRES, case, fake_run

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: kernels for GPUs then run on the CPU

# The same examples on every machine and in every run: a pull request never fails for an example that it did not
# cause. `pytest --hypothesis-profile=explore` draws new ones.
settings.register_profile("explore", deadline=None)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
VALUES = np.arange(120, dtype=np.int16).reshape(4, 5, 6)  # no two voxels have the same value
NOISE = np.random.default_rng(0).integers(-1000, 1000, (9, 10, 11)).astype(np.int16)
SPACING = (5.0, 4.0, 3.0)  # (z, y, x) mm
LOCALE = locale.setlocale(locale.LC_ALL)


def tiny_scan(index: int, shape: tuple[int, int, int] = (10, 22, 26)) -> tuple[np.ndarray, np.ndarray]:
    """Return a CT-like image (int16) and its label (uint8, 0/1/2) with a pancreas and, if index is even, a tumour."""
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
    """Write a centre of scans that are large enough for the duplicate check to distinguish them.

    Args:
        root: Folder of the centre, in the folder layout.
        seeds: For each scan, its name and the seed of its organs.
        cut: Slices that are left out at either end.
    """
    z, y, x = np.indices((36, 40, 60))
    for name, seed in seeds.items():
        organs = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=z.shape), 2.5)
        inside = ((y - 20) / 18) ** 2 + ((x - 30) / 27) ** 2 < 1
        image = np.where(inside, np.where(organs > 0, 60, -100) + 1500 * organs, -1000)
        image[18, 0, 0] = 900
        label = ((z - 18) / 5) ** 2 + ((y - 18) / 5) ** 2 + ((x - 30) / 7) ** 2 < 1  # 124 ml
        image[label] += 60 - np.median(image[label])
        for kind, array in (("images", image.astype(np.int16)), ("labels", label.astype(np.uint8))):
            write_lps(root / kind / f"{name}.nii.gz", array[cut : 36 - cut], (5.0, 6.0, 6.0))
    return root


def affine_of(order=(0, 1, 2), signs=(1, 1, 1), degrees=(0.0, 0.0, 0.0), zooms=(0.7, 0.9, 2.5)) -> np.ndarray:
    """Return a NIfTI affine (RAS) with the axes in this order and direction, rotated by degrees about x, y and z."""
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    affine[:3, :3] = turned @ np.eye(3)[:, list(order)] @ np.diag(signs) @ np.diag(zooms)
    affine[:3, 3] = (-31.5, 17.25, 401.125)
    return affine


def save(path: Path, array: np.ndarray = VALUES, affine: np.ndarray | None = None) -> Path:
    """Write a NIfTI file with nibabel, so that tests of our reader do not depend on our writer."""
    nib.save(nib.Nifti1Image(array, affine_of() if affine is None else affine), path)
    return path


def assert_clear(error: InputError, path: Path) -> None:
    """Assert that an error blames the path, says what is wrong and what to do, and prints as one line."""
    assert str(path) in str(error.path), error
    assert "\n" not in str(error) and "\r" not in str(error), repr(error)
    assert error.problem and error.remedy, error


def refused(path: Path, *words: str, remedy: str = "", read: Callable = read_image, **kwargs) -> str:
    """Assert that reading a file is refused with a clear error.

    Args:
        path: File to read; the error has to blame it.
        words: Phrases that the problem has to contain.
        remedy: Phrase that the remedy or its command has to contain.
        read: Function that reads the file.
        kwargs: Further arguments of ``read``.

    Returns:
        The error as it is printed.
    """
    with pytest.raises(InputError) as caught:
        read(path, **kwargs)
    error = caught.value
    assert_clear(error, path)
    assert all(word in error.problem for word in words), error
    assert remedy in f"{error.remedy} {error.command}", error
    return str(error)


def edit_manifest(folder: Path, **fields: Any) -> None:
    """Set fields in the manifest of a prepared case, as if the case had been prepared so."""
    path = folder / "case.json"
    manifest = json.loads(path.read_text()) | fields
    path.write_text(json.dumps(manifest | {CHECKSUM: checksum(manifest)}, indent=1))


@pytest.fixture(autouse=True)
def process_locale() -> Iterator[None]:
    """Restore the process's locale: ITK sets it to "C" when it writes DICOM, and text is then read as ASCII."""
    yield
    locale.setlocale(locale.LC_ALL, LOCALE)


@pytest.fixture(autouse=True)
def faults_of_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a picture that cannot be drawn fail its test, where a user would get a warning."""
    monkeypatch.setattr(drawing, "FORGIVEN", ())


@pytest.fixture(autouse=True)
def measured_costs(monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """Let every training cost 2 s a step and 1 s a validation case, without measuring; return what was asked for."""
    asked: list[Work] = []

    class FixedMeter:
        machine = "a machine"

        def measure(self, work: Work) -> Cost:
            asked.append(work)
            return Cost(2.0, 1.0)

    for module in (train_command, study_cost):
        monkeypatch.setattr(module, "measuring", lambda *_, **__: contextlib.nullcontext(FixedMeter()))
    return asked


@pytest.fixture
def write_centre(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a centre of so many cases in the folder layout and returns its root."""

    def write(name: str = "hospital", cases: int = 3) -> Path:
        root = tmp_path / name
        for index in range(cases):
            for kind, array in zip(("images", "labels"), tiny_scan(index), strict=True):
                write_lps(root / kind / f"case_{index}.nii.gz", array, SPACING, (-40.0, -30.0, 100.0 + index))
        return root

    return write


@pytest.fixture
def shared() -> Path:
    """Return the folder of real scans and test vectors beside the repository; skip the test if there is none."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} does not exist")
    return SHARED


@pytest.fixture
def without_tumours(study_store, tmp_path) -> Path:
    """Return a copy of ``study_store`` in which no case of the first centre has a labelled tumour."""
    store = tmp_path / "without_tumours"
    shutil.copytree(study_store, store)
    for path in (store / CENTRES[0]).glob("*/case.json"):
        edit_manifest(path.parent, tumour_box=None)
    return store


@pytest.fixture(scope="module")
def study_store(tmp_path_factory) -> Path:
    """Return a store with three centres of three prepared cases with a tumour, too small to train on."""
    root = tmp_path_factory.mktemp("store")
    label = np.zeros((4, 8, 8), np.uint8)
    label[1:3, 2:6, 2:6], label[2, 3:5, 3:5] = 1, 2
    for number, centre in enumerate(CENTRES):
        for index in range(3):
            name, spacing = f"case{index}", (3.0, 2.0, 2.0)
            grid = Grid.plain(label.shape, spacing)
            image = np.full(label.shape, 3 * number + index, np.int16)  # no two scans are equal
            write_case(root, centre, name, image, label, patient=name, spacing=spacing, grid=grid, source={})
    return root


@pytest.fixture
def leaking_store(study_store, tmp_path) -> Path:
    """Return a copy of ``study_store`` in which the first scan of the first centre is in the last centre too."""
    store = tmp_path / "leaking"
    shutil.copytree(study_store, store, ignore=shutil.ignore_patterns("thumbnail*", "splits*"))
    shutil.copy(store / CENTRES[0] / "case0" / "image.npy", store / CENTRES[-1] / "case0" / "image.npy")
    edit_manifest(store / CENTRES[-1] / "case0", files={})  # the hashes are those of the scan that was there
    return store


# Stands in for the training and evaluation scripts: it copies results made beforehand to where they would write.
FAKE = """
import shutil, sys
run, made, folder, failing = sys.argv[1:]
with open(folder + "/order", "a") as file: print(run, file=file)
if failing: sys.exit("error: no luck")
shutil.copytree(made, folder, dirs_exist_ok=True)
"""


@pytest.fixture
def fake_scripts(monkeypatch, tmp_path_factory):
    """Return a function that replaces a study's scripts by ones that finish at once; those of one variant may fail."""

    def install(failing: str = "") -> None:
        def commands(study, run, gpu, more):
            made = tmp_path_factory.mktemp("made")
            fake_run(made, run, [case(f"{run.centre}/case{i}", 0.5 + 0.1 * i) for i in range(3)])
            fails = "yes" if run.variant == failing else ""
            return [[sys.executable, "-c", FAKE, str(run), str(made), str(study.folder), fails]]

        monkeypatch.setattr(study_jobs, "build_commands", commands)

    return install
