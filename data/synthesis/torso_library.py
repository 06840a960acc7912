"""Libraries of painted torsos: what takes longest to draw is drawn once, and deformed anew for every patient.

A file ``torso_00012.npz``, or ``torso_00012_tumour.npz`` if the pancreas has a tumour, holds the materials of a torso
on two grids in the frame of the body, one of the whole torso and a finer one around the pancreas.
"""

import hashlib
import json
import lzma
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import ZIP_LZMA, ZipFile, ZipInfo

import numpy as np

from data.common.errors import InputError
from data.common.files import ARCHIVE_ERRORS, replacing, sha256_of
from data.common.progress import progress
from data.phantom.anatomy import Tissue
from data.phantom.fields import Axes
from data.synthesis.materials import COUNT, GLAND
from data.synthesis.organ_codes import LIBRARY, find_library
from data.synthesis.organ_maps import check_maps, list_maps
from data.synthesis.settings import VERSION, Synthesis
from data.synthesis.torso import HIGH_MM, LOW_MM, Torso, nearest_nodes, random_torso

FORMAT = 1  # to be raised when files of older libraries cannot be used any more
WHOLE_MM, FINE_MM = 3.0, 2.0  # distances of the nodes of the two grids
# Ends (z, y, x) in mm of what is painted. The slices at the ends stand for everything beyond them.
LOWEST, HIGHEST = (LOW_MM - 30, -290.0, -330.0), (HIGH_MM + 30, 260.0, 330.0)
# How far the finer grid reaches beyond the pancreas. A box of the fine stages reaches about 40 mm, and a deformation
# adds to it; what lies beyond is read from the coarser grid.
AROUND_MM = (45.0, 50.0, 50.0)
TUMOURS = 0.67  # share of the torsos with one: all patients of the tumour stages are drawn from these
WRITTEN = (1980, 1, 1, 0, 0, 0)  # the date within every file, so that the same torso is the same file
REMEDY = "delete it, and repeat the command that made the library, which writes it again"


@dataclass(frozen=True)
class Block:
    """Materials on a grid of nodes in the frame of the body.

    Attributes:
        start: Position (z, y, x) of the first node in mm.
        step: Distance between nodes in mm.
        materials: uint8 (D, H, W).
    """

    start: np.ndarray
    step: float
    materials: np.ndarray

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner (z, y, x) in mm of the voxels around the nodes."""
        low = self.start - self.step / 2
        return low, low + self.step * np.array(self.materials.shape)

    def nearest(self, axes: Axes) -> np.ndarray:
        """Read the nearest nodes on a rectangular grid, uint8 (D, H, W); beyond the block, its outermost nodes."""
        index = [
            np.clip(np.rint((axis - first) / self.step).astype(int), 0, n - 1)
            for axis, first, n in zip(axes, self.start, self.materials.shape, strict=True)
        ]
        # One axis after the other, from the slices on: this copies whole slices and rows, which is much faster than
        # an index of all axes at once.
        return self.materials.take(index[0], 0).take(index[1], 1).take(index[2], 2)


@dataclass(frozen=True)
class PaintedTorso:
    """A torso that has been painted, with the interface of ``Torso``.

    Attributes:
        whole: The whole torso. Where ``around`` lies, it need not hold anything.
        around: The surroundings of the pancreas.
        gland: Lowest and highest corner (z, y, x) of the pancreas in mm.
    """

    whole: Block
    around: Block
    gland: tuple[np.ndarray, np.ndarray]

    @staticmethod
    def of(torso: Torso) -> "PaintedTorso":
        """Paint a torso."""
        low, high = torso.gland_bounds()
        axes = tuple(np.arange(a - mm, b + mm, FINE_MM) for a, b, mm in zip(low, high, AROUND_MM, strict=True))
        around = Block(np.array([axis[0] for axis in axes]), FINE_MM, torso.paint(axes))
        axes = tuple(np.arange(a, b, WHOLE_MM) for a, b in zip(LOWEST, HIGHEST, strict=True))
        materials = torso.paint(axes)
        body = [np.flatnonzero((materials != Tissue.AIR).any(axis=other)) for other in ((0, 2), (0, 1))]
        kept = [slice(0, None), *(slice(max(0, b[0] - 1), b[-1] + 2) for b in body)]  # with a rim of air at the sides
        # Nodes that are never read, because the finer grid lies there, are emptied: they would take a fifth of a file.
        hidden = [
            slice(*np.searchsorted(axis, (a + WHOLE_MM / 2, b - WHOLE_MM / 2)))
            for axis, a, b in zip(axes, *around.bounds, strict=True)
        ]
        materials[tuple(hidden)] = Tissue.VISCERAL
        start = np.array([axis[part][0] for axis, part in zip(axes, kept, strict=True)])
        return PaintedTorso(Block(start, WHOLE_MM, materials[tuple(kept)]), around, (low, high))

    def paint(self, axes: Axes) -> np.ndarray:
        """Read the nearest nodes on a rectangular grid: materials uint8 (D, H, W).

        Above and below the torso its last slices are repeated; at the sides lies air.
        """
        materials = self.whole.nearest(axes)
        fine = [slice(*np.searchsorted(axis, ends)) for axis, *ends in zip(axes, *self.around.bounds, strict=True)]
        part = tuple(axis[s] for axis, s in zip(axes, fine, strict=True))
        materials[tuple(fine)] = self.around.nearest(part)
        return materials

    def gland_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and the highest corner (z, y, x) in mm of the pancreas."""
        return self.gland

    def in_gland(self, places: Sequence[np.ndarray]) -> np.ndarray:
        """Return where positions (z, y, x) in mm, three arrays, lie within the pancreas; bool, of the same shape."""
        block = self.around
        index, covered = nearest_nodes(block.start, np.full(3, block.step), block.materials.shape, places)
        return covered & np.isin(block.materials[index], GLAND)


@dataclass(frozen=True)
class TorsoFile:
    """A file of a library; sent to the process that writes it.

    Attributes:
        folder: Of the library.
        index: Number of the torso.
        seed: Seed of the library.
        labels: Label maps of organs around which torsos are drawn, as ``Synthesis.labels``; empty for none.
        maps: Hash of the label maps; empty for none.
    """

    folder: Path
    index: int
    seed: int
    labels: str
    maps: str

    @property
    def has_tumour(self) -> bool:
        """Whether the torso has a tumour: two of three have one, from the first on."""
        return int((self.index + 1) * TUMOURS) > int(self.index * TUMOURS)

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"torso_{self.index:05d}{'_tumour' if self.has_tumour else ''}.npz"

    @property
    def written(self) -> bool:
        """Whether the file has been written."""
        return self.path.exists()

    def run(self) -> InputError | None:
        """Draw and paint the torso and write it, unless it has been written already.

        Returns:
            The error of a label map that cannot be used, so that it does not stop the other torsos; otherwise None.
        """
        if self.written:
            return None
        settings = Synthesis(labels=self.labels, tumours=float(self.has_tumour))
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, self.index)))
        try:
            torso = PaintedTorso.of(random_torso(rng, settings))
        except InputError as error:
            return error
        made_of = asdict(replace(settings, labels=self.maps)) | {"renderer": VERSION, "seed": self.seed}
        write_torso(self.path, torso, made_of | {"index": self.index})
        return None


def write_torso(path: Path, torso: PaintedTorso, made_of: dict[str, Any]) -> None:
    """Write a torso and what it was made of; no reader ever finds the file incomplete."""
    header = {
        "format": FORMAT,
        "made_of": made_of,
        "gland": [corner.tolist() for corner in torso.gland],
        "whole": [torso.whole.start.tolist(), torso.whole.step],
        "around": [torso.around.start.tolist(), torso.around.step],
    }
    arrays = {"header": np.array(json.dumps(header)), "whole": torso.whole.materials, "around": torso.around.materials}
    # LZMA takes two thirds of the space that the compression of np.savez_compressed does, and is read in 10 ms.
    with replacing(path) as unfinished, ZipFile(unfinished, "w") as archive:
        for name, array in arrays.items():
            entry = ZipInfo(f"{name}.npy", WRITTEN)
            entry.compress_type = ZIP_LZMA
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def read_torso(path: Path) -> tuple[PaintedTorso, dict[str, Any]]:
    """Read a torso.

    Returns:
        The torso, and what it was made of.

    Raises:
        InputError: If the file is damaged, is something else, or was made by a version that is not known here.
    """
    try:
        with np.load(path) as file:
            header = json.loads(file["header"].item())
            if header["format"] != FORMAT:
                problem = f"a torso of format {header['format']}, and only format {FORMAT} can be read"
                raise InputError(path, problem, "make the library again, in another folder")
            whole, around = (
                Block(np.array(header[name][0], float), float(header[name][1]), file[name])
                for name in ("whole", "around")
            )
        low, high = np.array(header["gland"], float)
        made_of = dict(header["made_of"])
    except (*ARCHIVE_ERRORS, lzma.LZMAError, IndexError) as error:
        raise InputError(path, f"not a painted torso, or damaged ({error})", REMEDY) from error
    for block in (whole, around):
        array = block.materials
        if array.dtype != np.uint8 or array.ndim != 3 or not array.size or array.max() >= COUNT:
            raise InputError(path, "damaged: its materials are not known", REMEDY)
    return PaintedTorso(whole, around, (low, high)), made_of


def find_torsos(folder: Path) -> dict[bool, tuple[Path, ...]]:
    """Find the torsos in a folder with a tumour (True) and without one, in alphabetical order."""
    files = sorted(folder.glob("torso_*.npz"))
    return {tumour: tuple(p for p in files if p.stem.endswith("_tumour") == tumour) for tumour in (True, False)}


def describe_torsos(folder: Path) -> str:
    """Describe a library in one line."""
    found = find_torsos(folder)
    size = sum(path.stat().st_size for path in (*found[True], *found[False])) / 1e6
    counts = f"{len(found[True])} torsos with a tumour, {len(found[False])} without"
    return f"{folder}: {counts}, {size:.1f} MB; train on them with --train-on synthetic:{folder}:{LIBRARY}"


@lru_cache
def list_torsos(folder: Path) -> dict[bool, tuple[Path, ...]]:
    """Find the torsos of a library, as ``find_torsos`` does, once per process.

    Raises:
        InputError: If there are none.
    """
    found = find_torsos(folder)
    if not any(found.values()):
        command = f"python -m data.phantom {folder} --abdomen --torsos --cases 200"
        raise InputError(folder, "no painted torsos (torso_*.npz)", "give their folder, or make them", command=command)
    return found


@lru_cache
def check_library(folder: Path) -> str:
    """Read all torsos of a library, so that a bad one is refused before hours of training.

    Returns:
        A hash of the torsos, wherever they lie.

    Raises:
        InputError: As for ``list_torsos`` and ``read_torso``, or if the torsos were not all made in one way.
    """
    hashes, first = [], None
    found = list_torsos(folder)
    for path in progress(sorted([*found[True], *found[False]]), title="torsos", unit="torso", delay_s=2.0):
        torso, made_of = read_torso(path)
        if bool((torso.around.materials == Tissue.LESION).any()) != path.stem.endswith("_tumour"):
            raise InputError(path, "its name does not say whether the torso has a tumour", "give it its former name")
        common = {name: value for name, value in made_of.items() if name not in ("index", "tumours")}
        first = first or (path, common)
        if common != first[1]:
            problem = f"made with another seed, other settings or label maps than {first[0].name}"
            raise InputError(path, problem, "keep each library in a folder of its own")
        hashes.append(sha256_of(path))
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]


def check_source(settings: Synthesis) -> str:
    """Read all label maps or torsos that ``settings.labels`` names; return a hash of them.

    Raises:
        InputError: If one of them cannot be used, or a library has no torso with, or without, a tumour and patients
            of that kind are asked for.
    """
    folder = find_library(settings.labels)
    if folder is None:
        return check_maps(settings.labels)
    for tumour, share in ((True, settings.tumours), (False, 1 - settings.tumours)):
        if share and not list_torsos(folder)[tumour]:
            kind, other = ("with", 0) if tumour else ("without", 1)
            remedy = f"make a larger library, or train a pancreas stage with --synthesis tumours={other}"
            raise InputError(folder, f"it has no torso {kind} a tumour", remedy)
    return check_library(folder)


def list_source(labels: str) -> Sequence[Path]:
    """List the label maps or torsos that ``Synthesis.labels`` names.

    Raises:
        InputError: As for ``list_maps`` and ``list_torsos``.
    """
    folder = find_library(labels)
    return list_maps(labels) if folder is None else sum(list_torsos(folder).values(), ())


def draw_torso(rng: np.random.Generator, settings: Synthesis) -> Torso | PaintedTorso:
    """Draw the torso of a patient: one of a library if ``settings`` name one, otherwise a new one.

    Raises:
        InputError: If a label map or a torso cannot be used.
    """
    folder = find_library(settings.labels) if settings.labels else None
    if folder is None:
        return random_torso(rng, settings)
    paths = list_torsos(folder)[bool(rng.random() < settings.tumours)]
    return read_torso(paths[int(rng.integers(len(paths)))])[0]
