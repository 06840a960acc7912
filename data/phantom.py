"""Synthetic centres: abdomens with a pancreas and its tumour, scanned by scanners that differ.

    python -m data.phantom OUT [--cases 8] [--seed 0] [--size small|full] [--anatomy DIR] [--centres NAME ...]

writes ``OUT/<centre>/images/<case>.nii.gz`` (int16 HU) and ``OUT/<centre>/labels/<case>.nii.gz`` (0 background,
1 pancreas, 2 tumour): the layout ``folder`` of ``data.prepare``. The same seed gives the same voxels.
"""

import argparse
import json
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from data.errors import EXIT_BAD_INPUT, InputError, command
from data.phantom_anatomy import Scene, Tissue, procedural_scene, real_scene
from data.store import TUMOUR
from data.volume import read_label, write_lps

VERSION = 1  # to be raised when the same seed gives other voxels
FULL_HEIGHT = (235.0, 265.0)  # mm, least and most
SMALL_HEIGHT = (150.0, 180.0)
SLAB = 32  # slices rendered at once: bounds the memory of long scans


@dataclass(frozen=True)
class Scanner:
    """One centre: its scanner, its protocol and its patients."""

    name: str
    small: tuple[float, float, float]  # spacing (z, y, x) mm of --size small
    full: tuple[float, float, float]  # spacing (z, y, x) mm of --size full
    view: tuple[float, float]  # field of view (y, x) mm of --size small; full has 512 x 512 voxels
    portal: float  # contrast phase: 0 late arterial ... 1 portal venous
    noise: float  # sd in HU at the slice thickness of ``small``, centre of the body
    grain: float  # correlation of the noise, sd in pixels
    blur: float  # softness of the kernel, sd in mm
    edge: float  # edge enhancement of the kernel: share of the unsharp mask
    bias: float  # HU
    contrast: tuple[float, float]  # tumour below parenchyma, HU, least and most
    real_contrast: tuple[float, float]  # the same around real label maps: harder
    tumour: tuple[float, float]  # diameter in mm, least and most


# fmt: off
SCANNERS = (  # a centre: its grids, then portal, noise, grain, blur, edge, bias, contrasts and sizes of the tumour
    Scanner("north", (3.0, 2.5, 2.5), (2.5, 0.78, 0.78), (270, 345),
            1.0, 9, 0.45, 0.6, 0.0, 0, (42, 52), (15, 40), (24, 38)),
    Scanner("south", (4.0, 2.9, 2.9), (5.0, 0.88, 0.88), (290, 370),
            0.35, 13, 0.7, 1.0, 0.0, -6, (44, 54), (8, 30), (26, 40)),
    Scanner("west", (2.5, 2.4, 2.4), (1.5, 0.70, 0.70), (275, 350),
            0.75, 11, 0.3, 0.4, 0.35, 8, (38, 50), (10, 35), (22, 36)),
    Scanner("east", (3.5, 2.6, 2.6), (1.0, 0.82, 0.82), (280, 360),
            0.9, 10, 0.55, 0.7, 0.1, 3, (36, 48), (5, 30), (22, 38)),
)
# fmt: on
DEFAULT_CENTRES = ("north", "south", "west")

# HU in the late arterial and in the portal venous phase, and the sd of fine and coarse texture.
HOUNSFIELD = {
    Tissue.AIR: (-1000, -1000, 0, 0),
    Tissue.SKIN: (30, 30, 5, 5),
    Tissue.FAT: (-102, -102, 4, 4),
    Tissue.VISCERAL: (-96, -96, 8, 8),
    Tissue.MUSCLE: (52, 56, 9, 6),
    Tissue.BONE: (420, 420, 60, 30),
    Tissue.MARROW: (190, 200, 35, 15),
    Tissue.CORD: (35, 35, 4, 0),
    Tissue.LUNG: (-820, -820, 40, 25),
    Tissue.HEART: (150, 140, 5, 8),
    Tissue.LIVER: (72, 106, 5, 5),
    Tissue.GALL: (10, 10, 2, 2),
    Tissue.SPLEEN: (128, 116, 5, 4),
    Tissue.CORTEX: (190, 165, 8, 5),
    Tissue.MEDULLA: (95, 150, 8, 6),
    Tissue.WALL: (80, 88, 10, 10),
    Tissue.CONTENT: (28, 28, 14, 18),
    Tissue.GAS: (-930, -930, 15, 20),
    Tissue.ARTERY: (270, 132, 4, 4),
    Tissue.VEIN: (110, 154, 4, 4),
    Tissue.CAVA: (90, 125, 10, 12),
    Tissue.PARENCHYMA: (108, 92, 10, 5),
    Tissue.LESION: (0, 0, 6, 6),  # its mean is the parenchyma's less the contrast
    Tissue.DUCT: (30, 32, 2, 2),
    Tissue.BILE: (18, 22, 2, 2),
}
PANCREAS_TISSUES = (Tissue.PARENCHYMA, Tissue.DUCT)


def render_case(
    scanner: Scanner, index: int, seed: int, size: str = "small", anatomy: Path | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Scan one synthetic patient.

    Args:
        index: number of the case within the centre.
        size: "small" (voxels of about 2.5 mm) or "full" (512 x 512; a label map's own grid).
        anatomy: a label map (.npz) to take the place of the procedural pancreas and vessels.

    Returns:
        image int16 HU (D, H, W), LPS; label uint8 0/1/2 of the same shape; spacing (z, y, x) mm.

    Raises:
        InputError: the label map cannot be used.
    """
    entropy = [seed, zlib.crc32(scanner.name.encode()), index]
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    if anatomy is None:
        scene = procedural_scene(rng, *_grid(scanner, size, rng), tumour=_tumour(scanner, seed, index, rng))
    else:
        scene = real_scene(rng, anatomy, scanner.small if size == "small" else None)
    hounsfield, fine, coarse = _tissue_table(scanner, rng, scene.real is not None)
    image = np.empty(scene.shape, np.int16)
    label = np.empty(scene.shape, np.uint8)
    for first in range(0, scene.shape[0], SLAB):
        last = min(first + SLAB, scene.shape[0])
        low, high = max(0, first - 3), min(scene.shape[0], last + 3)  # neighbours for the blur
        tissues = scene.tissues(low, high)
        inner = slice(first - low, last - low)
        label[first:last] = np.isin(tissues[inner], PANCREAS_TISSUES) + 2 * (tissues[inner] == Tissue.LESION)
        attenuation = hounsfield[tissues]
        for amount, texture in zip((fine, coarse), scene.texture(low, high), strict=True):
            attenuation += amount[tissues] * texture
        sharp = _kernel(attenuation, scanner, scene.spacing)[inner]
        sharp += _noise(scanner, scene, entropy, first, last) + scanner.bias
        image[first:last] = np.clip(np.rint(sharp), -1024, 3071)
    return image, label, scene.spacing


def _grid(scanner: Scanner, size: str, rng: np.random.Generator) -> tuple[tuple[int, int, int], tuple[float, ...]]:
    """Shape and spacing (z, y, x) of a procedural scan."""
    if size == "full":
        return (round(rng.uniform(*FULL_HEIGHT) / scanner.full[0]), 512, 512), scanner.full
    extent = (rng.uniform(*SMALL_HEIGHT), *scanner.view)
    return tuple(round(e / s) for e, s in zip(extent, scanner.small, strict=True)), scanner.small


def _tumour(scanner: Scanner, seed: int, index: int, rng: np.random.Generator) -> float | None:
    """Diameter in mm; None for one case in six, counted from a place that depends on the centre."""
    spared = (seed + zlib.crc32(scanner.name.encode())) % 6
    diameter = rng.uniform(*scanner.tumour)
    return None if index % 6 == spared else diameter


def _tissue_table(scanner: Scanner, rng: np.random.Generator, real: bool) -> np.ndarray:
    """Mean, fine and coarse texture of each tissue in this patient: float32 (3, tissues)."""
    table = np.array([HOUNSFIELD[tissue] for tissue in Tissue], np.float32)
    portal = np.clip(scanner.portal + rng.normal(0, 0.08), 0, 1.1)
    mean = table[:, 0] + portal * (table[:, 1] - table[:, 0])
    enhanced = (mean > 60) & (mean < 300)
    mean[enhanced] *= rng.normal(1, 0.05)  # cardiac output and dose of contrast agent
    mean += rng.normal(0, 2, len(mean))
    mean[Tissue.LESION] = mean[Tissue.PARENCHYMA] - rng.uniform(*(scanner.real_contrast if real else scanner.contrast))
    fine = table[:, 2]
    fine[Tissue.PARENCHYMA] *= rng.uniform(0.8, 1.5)  # fat between the lobules
    return np.stack([mean, fine, table[:, 3]]).astype(np.float32)


def _kernel(attenuation: np.ndarray, scanner: Scanner, spacing: Sequence[float]) -> np.ndarray:
    """Slice profile, voxel averaging and reconstruction kernel."""
    sigma = [0.35] + [float(np.hypot(scanner.blur / s, 0.29)) for s in spacing[1:]]  # 0.29: sd of a voxel's width
    soft = gaussian_filter(attenuation, sigma, mode="nearest", truncate=3)
    if scanner.edge:
        soft += scanner.edge * (soft - gaussian_filter(soft, (0, 1, 1), mode="nearest", truncate=3))
    return soft


def _noise(scanner: Scanner, scene: Scene, entropy: list[int], first: int, last: int) -> np.ndarray:
    """Correlated noise of slices ``first`` to ``last``; each slice has its own generator, so slabs do not matter."""
    sd = scanner.noise * np.sqrt(scanner.small[0] / scene.spacing[0])  # the fewer photons the thinner the slice
    sd = float(np.clip(sd, 10, 30)) if scene.real is not None else sd
    slices = []
    for k in range(first, last):
        rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(k,)))
        white = rng.standard_normal(scene.shape[1:], dtype=np.float32)
        soft = gaussian_filter(white, scanner.grain, mode="wrap", truncate=3)
        slices.append(soft / soft.std())
    return np.stack(slices) * np.float32(sd) * scene.attenuated()


@dataclass(frozen=True)
class Job:
    """One case to write: everything a worker needs."""

    scanner: Scanner
    index: int
    seed: int
    size: str
    anatomy: Path | None
    folder: Path

    @property
    def name(self) -> str:
        return self.anatomy.stem if self.anatomy else f"{self.scanner.name}_{self.index:03d}"

    @property
    def files(self) -> tuple[Path, Path]:
        centre = self.folder / self.scanner.name
        return tuple(centre / kind / f"{self.name}.nii.gz" for kind in ("images", "labels"))

    def run(self) -> str | None:
        """Write the case where it is not there yet; returns what is wrong with its label map, if anything is."""
        if all(path.exists() for path in self.files):
            return None
        try:
            image, label, spacing = render_case(self.scanner, self.index, self.seed, self.size, self.anatomy)
        except InputError as error:
            return str(error)
        for path, array in zip(self.files, (image, label), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_lps(path, array, spacing)
        return None


def plan(args: argparse.Namespace) -> list[Job]:
    """The cases that the command line asks for."""
    if args.anatomy is None:
        known = {scanner.name: scanner for scanner in SCANNERS}
        names = list(dict.fromkeys(args.centres or DEFAULT_CENTRES))
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"--centres {unknown[0]}: unknown; choose from {', '.join(known)}")
        chosen = [(known[name], [None] * args.cases) for name in names]
    else:
        chosen = _real_centres(args.anatomy, args.centres, args.cases)
    return [
        Job(scanner, index, args.seed, args.size, path, args.out)
        for scanner, paths in chosen
        for index, path in enumerate(paths)
    ]


def _real_centres(folder: Path, names: Sequence[str] | None, cases: int) -> list[tuple[Scanner, list[Path]]]:
    found = {path.name: sorted(path.glob("*.npz")) for path in sorted(folder.glob("*/"))}
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        raise InputError(f"{folder}: no sub-folder with label maps (.npz); give the folder that holds the centres")
    if unknown := [name for name in names or () if name not in found]:
        raise InputError(f"--centres {unknown[0]}: no such folder in {folder}; choose from {', '.join(found)}")
    scanners = {name: replace(SCANNERS[i % len(SCANNERS)], name=name) for i, name in enumerate(found)}
    return [(scanners[name], found[name][:cases]) for name in dict.fromkeys(names or found)]


def _claim(folder: Path, settings: dict) -> None:
    """Make OUT ours: new, empty, or written earlier with the same settings."""
    mark = folder / "phantom.json"
    text = json.dumps(settings, indent=1)
    if mark.exists():
        if mark.read_text() != text:
            raise InputError(f"{folder}: holds a phantom made with other settings; delete it or choose another folder")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already and is not a phantom; choose another folder")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(text)


def _run(jobs: list[Job], workers: int) -> list[str]:
    """Write all cases; returns the faults found."""
    bar = {"total": len(jobs), "unit": "case", "desc": "phantom"}
    if workers == 1:
        faults = [job.run() for job in tqdm(jobs, **bar)]
    else:
        with ProcessPoolExecutor(workers) as pool:
            faults = list(tqdm(pool.map(Job.run, jobs), **bar))
    return [fault for fault in faults if fault]


def _summary(jobs: list[Job]) -> str:
    """One line per centre, read back from what was written."""
    lines = [f"{'centre':<10} {'cases':>5} {'with tumour':>11}  spacing z y x (mm)  shape"]
    written = [job for job in jobs if all(path.exists() for path in job.files)]
    for centre in dict.fromkeys(job.scanner.name for job in written):
        labels = [read_label(job.files[1]) for job in written if job.scanner.name == centre]
        tumours = sum(bool((label.array == TUMOUR).any()) for label in labels)
        spacing = " ".join(f"{s:.2f}" for s in np.median([label.spacing for label in labels], axis=0))
        shape = " x ".join(str(int(n)) for n in np.median([label.array.shape for label in labels], axis=0))
        lines.append(f"{centre:<10} {len(labels):>5} {tumours:>11}  {spacing:<18}  {shape}")
    return "\n".join(lines)


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _seed(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.phantom",
        description="Write synthetic centres in the layout 'folder' (images/ + labels/).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("out", metavar="OUT", type=Path, help="folder to write; a sub-folder per centre")
    add("--cases", type=_count, default=8, help="cases per centre (with --anatomy: at most)")
    add("--seed", type=_seed, default=0, help="the same seed gives the same voxels")
    add("--size", choices=("small", "full"), default="small", help="small: voxels of about 2.5 mm; full: clinical")
    add("--anatomy", type=Path, metavar="DIR", help="real label maps DIR/<centre>/*.npz; else all is procedural")
    add("--centres", nargs="+", metavar="NAME", help=f"else {', '.join(DEFAULT_CENTRES)}, or all folders of DIR")
    add("--workers", type=_count, default=2, help="cases made at the same time")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    jobs = plan(args)
    anatomy = str(args.anatomy.resolve()) if args.anatomy else None
    scanners = [asdict(scanner) for scanner in SCANNERS]
    _claim(
        args.out, {"version": VERSION, "seed": args.seed, "size": args.size, "anatomy": anatomy, "scanners": scanners}
    )
    faults = _run(jobs, args.workers)
    print(_summary(jobs))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


if __name__ == "__main__":
    sys.exit(main())
