"""Small synthetic scans for the miniatures of data sets, written in any orientation, and what must be found in them."""

import csv
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from data.cases.case import Case
from data.cases.store import read_store
from data.prepare import command as prepare

SPACING = (2.5, 1.6, 1.6)  # (z, y, x) mm
# Centre (z, y, x) as a share of the scan, and HU: gas, bowel and two kidneys.
BLOBS = ((0.2, 0.35, 0.4, -600), (0.3, 0.4, 0.65, 60), (0.7, 0.66, 0.72, 180), (0.2, 0.6, 0.3, 180))
ORIGIN = (-38.4, -32.0, 100.0)  # (x, y, z) mm, LPS
MACOS_FILE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "


@dataclass(frozen=True)
class Known:
    """What must be found in a prepared case.

    Attributes:
        points: Points in the patient (LPS, mm), each with its label and HU.
        voxels: Number of voxels with label 1 and with label 2.
        patient: Identifier of the patient.
    """

    points: tuple[tuple[tuple[float, float, float], int, int], ...]
    voxels: tuple[int, int]
    patient: str


@dataclass(frozen=True)
class Scan:
    """A scan in HU and its label 0/1/2, both (D, H, W) in LPS, with the spacing (z, y, x) in mm."""

    hu: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float] = SPACING

    def known(self, patient: str, tumour: bool = True) -> Known:
        """Choose points in the pancreas (first, last, middle voxel), the tumour, the spine and the air in a corner."""
        label = self.label if tumour else np.minimum(self.label, 1)
        gland = np.argwhere(label > 0)
        chosen = [gland[0], gland[-1], gland[len(gland) // 2], np.argwhere(self.hu > 300)[0], np.array([0, 1, 2])]
        if (label == 2).any():
            chosen.append(np.argwhere(label == 2)[0])
        mm = [tuple(np.array(ORIGIN) + index[::-1] * self.spacing[::-1]) for index in chosen]
        points = tuple((p, int(label[tuple(i)]), int(self.hu[tuple(i)])) for p, i in zip(mm, chosen, strict=True))
        return Known(points, (int((label == 1).sum()), int((label == 2).sum())), patient)


def scan(seed: int, tumour: bool = True, finer: int = 1) -> Scan:
    """A body of fat with spine, kidneys, gas and a pancreas, none of them symmetric, so that no flip goes unnoticed."""
    shape = (22, 40 * finer, 48 * finer)
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    hu = np.full(shape, -1000.0)
    body = ((y - 0.5) / 0.42) ** 2 + ((x - 0.5) / 0.45) ** 2 < 1
    hu[body] = -90
    for *centre, value in BLOBS:
        hu[((np.stack([z, y, x], -1) - centre) ** 2).sum(-1) < 0.02] = value
    hu[(abs(x - 0.5) < 0.12) & (abs(y - 0.72) < 0.1)] = 400
    tail, head = (0.3 + 0.03 * (seed % 3)), 0.7
    gland = (x > tail) & (x < head) & (abs(y - 0.38) < 0.07) & (z > 0.6) & (z < 0.85)
    gland |= (x > tail) & (x < tail + 0.12) & (y > 0.31) & (y < 0.5) & (z > 0.5) & (z < 0.7)
    label = gland.astype(np.uint8)
    hu[gland] = 95
    if tumour:
        label[gland & (x > 0.6) & (z < 0.75)] = 2
        hu[label == 2] = 60
    hu += np.where(body, rng.normal(0, 8, shape), 0)
    spacing = (SPACING[0], SPACING[1] / finer, SPACING[2] / finer)
    return Scan(np.rint(hu).astype(np.int16), label, spacing)


def save(path: Path, array: np.ndarray, orientation: str = "LPS", spacing=SPACING, origin=ORIGIN) -> Path:
    """Write an LPS array as NIfTI with its axes in another orientation, at the same place in the patient."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    affine[:3, 3] = (-origin[0], -origin[1], origin[2])
    image = nib.Nifti1Image(np.ascontiguousarray(array.T), affine)
    image = image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(orientation)))
    nib.save(image, path)
    return path


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(path: Path, rows: list[dict], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def dicom(folder: Path, made: Scan, series: str) -> None:
    """Write one series with the file names of the archive; InstanceNumber runs from head to feet."""
    folder.mkdir(parents=True)
    writer, count = sitk.ImageFileWriter(), len(made.hu)
    writer.KeepOriginalImageUIDOn()
    for index, plane in enumerate(made.hu):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing((made.spacing[2], made.spacing[1], made.spacing[0]))
        height, number = ORIGIN[2] + index * made.spacing[0], count - index
        tags = {"0008|0060": "CT", "0020|000e": series, "0020|000d": "1.2.3", "0008|0018": f"{series}.{number}"}
        tags |= {"0020|0013": str(number), "0020|0037": "1\\0\\0\\0\\1\\0"}
        tags |= {"0020|0032": f"{ORIGIN[0]}\\{ORIGIN[1]}\\{height}"}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"1-{number:03d}.dcm"))
        writer.Execute(image)


def check(case: Case, known: Known) -> None:
    """Check label and HU at the known points in the patient, the number of labelled voxels, and the patient."""
    grid = case.grid
    spacing, origin, direction = grid.lps_frame()
    start = np.array(grid.part.start if grid.part else (0, 0, 0))
    image, label = case.image(), case.label()
    for point, code, hu in known.points:
        along = np.linalg.inv(np.array(direction).reshape(3, 3)) @ (np.array(point) - origin)
        index = tuple(np.rint(along / spacing[::-1]).astype(int)[::-1] - start)
        if min(index) >= 0 and np.all(np.less(index, image.shape)):  # the air in the corner may have been cropped away
            assert (label[index], image[index]) == (code, hu), f"{case.name}: {point}"
        else:
            assert hu < -900
    assert ((label == 1).sum(), (label == 2).sum()) == known.voxels and case.patient == known.patient


def prepared(source: str, root: Path, store: Path, *more: str) -> tuple[int, dict[str, Case]]:
    """Prepare a data set as a centre of the same name; return the exit code and the prepared cases by name."""
    code = prepare.main([source, str(root), "--centre", source, "--store", str(store), "--workers", "1", *more])
    there = (store / source).is_dir() and any((store / source).glob("[!.]*"))
    return code, {case.name: case for case in read_store(store)[source]} if there else {}
