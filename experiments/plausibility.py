"""Do the randomised patients look like real CT, and what gives them away?

    python experiments/plausibility.py OUT [--real FOLDER --label NAME=FILE:CODES ... --organs NAME=FILE:ORGANS ...]

Everything is compared as a network sees it: patients are rendered on voxels of --spacing, and real scans (folders as
for real_scans.py) are resampled to them. Writes to OUT

    axial.png, coronal.png   sixteen random patients, and the real scans in frames, all at one scale, with the gland
    figures.png              grey values within the body and noise power by spatial frequency, for the patients the
                             median and the band from the 10th to the 90th percentile; mean and standard deviation of
                             organs
    figures.csv              single figures: 5th, 50th and 95th percentile of the patients, and each real scan

experiments/texture.py says how noise is measured. Mean and standard deviation of an organ are, for patients, those
drawn for its material with the noise of the scanner, and for the pancreas and for real scans those of the image, a
voxel within the edge.
"""

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.common.errors import InputError, command
from data.common.files import check_writable, replacing
from data.common.progress import progress
from data.common.text import HelpFormatter
from data.phantom.anatomy import Tissue
from data.samples import NetworkGrid
from data.scans.boxes import triple
from data.scans.volume import read_image, read_label
from data.synthesis.acquisition import HIGHEST_HU, LOWEST_HU, acquire, random_acquisition, resampled
from data.synthesis.materials import random_materials
from data.synthesis.patient import render_patient
from data.synthesis.settings import Synthesis
from data.warp import low_pass, resample
from engine.options import add_changes, read_synthesis
from engine.report.pictures import BACKGROUND, save_figure
from experiments.common import draw_outline
from experiments.real_scans import Scan, find_scans, parse_label, read_reference
from experiments.texture import EDGES_HU, Figures, Image, Spacing, frequencies, measure

SHOWN = 16
MATERIALS: dict[str, tuple[int, ...]] = {
    "fat": (Tissue.FAT,),
    "muscle": (Tissue.MUSCLE,),
    "liver": (Tissue.LIVER,),
    "spleen": (Tissue.SPLEEN,),
    "kidney": (Tissue.CORTEX, Tissue.MEDULLA),
    "aorta": (Tissue.ARTERY,),
    "vein": (Tissue.VEIN,),
    "cava": (Tissue.CAVA,),
    "gallbladder": (Tissue.GALL,),
}
ORGANS = (*MATERIALS, "pancreas")
MATERIAL_DRAWS = 400
# Rows and columns in mm that a picture shows, axial and coronal.
FIELD_MM = ((330.0, 440.0), (420.0, 440.0))


def parse_organs(text: str) -> tuple[str, tuple[str, dict[str, tuple[int, ...]]]]:
    """Read NAME=FILE:liver=6,kidney=2+3: the name of a patient's folder, its label, and the codes of organs in it.

    Raises:
        argparse.ArgumentTypeError: If that is not such an entry.
    """
    name, _, source = text.partition("=")
    file, _, listed = source.partition(":")
    try:
        pairs = [pair.split("=") for pair in listed.split(",")]
        codes = {organ: tuple(map(int, numbers.split("+"))) for organ, numbers in pairs}
    except ValueError:
        codes = {}
    if not (name and file and codes) or not codes.keys() <= set(ORGANS):
        known = ", ".join(ORGANS)
        raise argparse.ArgumentTypeError(f"{text} is not NAME=FILE:ORGAN=CODES,... with organs among {known}")
    return name, (file, codes)


def read_real(scan: Scan, spacing: Spacing, organs: tuple[str, dict[str, tuple[int, ...]]] | None) -> Image:
    """Read a real scan with its labels, and resample it as for a network."""
    volume = read_image(scan.path)
    masks = {"gland": read_reference(scan, volume)}
    if organs is not None:
        codes = read_label(scan.path.parent / organs[0], volume).array
        masks |= {organ: np.isin(codes, numbers) for organ, numbers in organs[1].items()}
    factor = triple(new / old for new, old in zip(spacing, volume.spacing, strict=True))
    grid = NetworkGrid(triple(max(1, round(n / f)) for n, f in zip(volume.array.shape, factor, strict=True)), factor)
    image = torch.from_numpy(np.clip(volume.array, LOWEST_HU, HIGHEST_HU).astype(np.float32))[None, None]
    hu = resample(low_pass(image, factor), grid, beyond="border")[0, 0].numpy()
    found = {
        name: resample(torch.from_numpy(mask.astype(np.float32))[None, None], grid)[0, 0].numpy() >= 0.5
        for name, mask in masks.items()
    }
    return Image(scan.name, hu, found.pop("gland"), found)


def draw_panels(path: Path, images: Sequence[Image], real: int, spacing: Spacing, axis: int) -> None:
    """Write a PNG with a slice of each image through the middle of its gland, all at one scale.

    Args:
        path: The file.
        images: The last ``real`` of them are real scans, which get a frame.
        real: Number of real scans.
        spacing: Voxel spacing (z, y, x) in mm.
        axis: Across which axis to cut: 0 for axial slices, 1 for coronal ones.
    """
    columns = 4
    lines = -(-(len(images) - real) // columns) + -(-real // columns)
    rows_mm, columns_mm = FIELD_MM[axis]
    figure = Figure(figsize=(16, 16 / columns * lines * rows_mm / columns_mm + 0.3), dpi=100, facecolor=BACKGROUND)
    across, along = spacing[2], spacing[1] if axis == 0 else spacing[0]
    for number, image in enumerate(images):
        is_real = number >= len(images) - real
        place = (
            number if not is_real else (lines * columns - columns * -(-real // columns)) + number - len(images) + real
        )
        axes = figure.add_subplot(lines, columns, place + 1)
        areas = image.gland.sum(axis=tuple(a for a in range(3) if a != axis))
        index = int(areas.argmax()) if areas.any() else image.hu.shape[axis] // 2
        turned = slice(None) if axis == 0 else slice(None, None, -1)
        plane, gland = (np.take(volume, index, axis)[turned] for volume in (image.hu, image.gland))
        height, width = plane.shape
        extent = (-width * across / 2, width * across / 2, height * along / 2, -height * along / 2)
        axes.imshow(plane, cmap="gray", vmin=-160, vmax=240, extent=extent)
        draw_outline(axes, gland, "#ffe040", 0.6, extent=extent, origin="upper")
        axes.set(xlim=(-columns_mm / 2, columns_mm / 2), ylim=(rows_mm / 2, -rows_mm / 2), xticks=[], yticks=[])
        axes.set_facecolor("black")
        axes.set_title(image.name, color="#ffb020" if is_real else "0.7", fontsize=8, pad=2, parse_math=False)
        for side in axes.spines.values():
            side.set(color="#ffb020" if is_real else "black", linewidth=2)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.25 / figure.get_figheight(), 0.02, 0.07)
    save_figure(figure, path)


def draw_organs(axes: Axes, name: str, drawn: Mapping[str, np.ndarray], real: Mapping[str, Figures]) -> None:
    """Draw violins of what patients have and a dot for each real scan; ``name`` is HU or SD."""
    axes.violinplot([drawn[organ] for organ in ORGANS], showmedians=True, widths=0.8)
    for number, (scan, figures) in enumerate(real.items()):
        numbers = {**figures.numbers, f"pancreas {name}": figures.numbers.get(f"gland {name}", np.nan)}
        values = [numbers.get(f"{organ} {name}", np.nan) for organ in ORGANS]
        axes.plot(np.arange(1, len(ORGANS) + 1), values, "o", color=f"C{number + 1}", label=scan)
    axes.set_xticks(np.arange(1, len(ORGANS) + 1), ORGANS, rotation=30)
    axes.set_ylabel("mean, HU" if name == "HU" else "standard deviation, HU")
    axes.grid(axis="y", alpha=0.3)


def draw_figures(
    path: Path,
    drawn: Sequence[Figures],
    real: Mapping[str, Figures],
    organs: Mapping[str, Mapping[str, np.ndarray]],
    spacing: Spacing,
) -> None:
    """Write a PNG with four panels: grey values, noise power, and mean and standard deviation of organs.

    Args:
        path: The file.
        drawn: Of the patients.
        real: Of the real scans by name.
        organs: For "HU" and "SD", the values that patients have by organ.
        spacing: Voxel spacing (z, y, x) in mm.
    """
    figure = Figure(figsize=(14, 9), dpi=100, layout="constrained")
    (grey, noise), (means, deviations) = figure.subplots(2, 2)
    edges = frequencies(spacing)
    for axes, places, curves in (
        (grey, (EDGES_HU[1:] + EDGES_HU[:-1]) / 2, {n: f.histogram for n, f in real.items()}),
        (noise, (edges[1:] + edges[:-1]) / 2, {n: f.power for n, f in real.items()}),
    ):
        own = np.array([f.histogram if axes is grey else f.power for f in drawn])
        low, middle, high = np.nanpercentile(own, (10, 50, 90), axis=0)
        axes.fill_between(places, low, high, color="C0", alpha=0.25, label="patients, 10th to 90th percentile")
        axes.plot(places, middle, color="C0", label="their median")
        for number, (scan, curve) in enumerate(curves.items()):
            axes.plot(places, curve, color=f"C{number + 1}", label=scan)
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
    grey.set(xlabel="HU", ylabel="share of the body in 5 HU", ylim=(1e-4, 0.2))
    noise.set(xlabel="spatial frequency, 1/mm", ylabel="noise power in the plane, HU² mm²")
    grey.legend(fontsize=8)
    for axes, name in ((means, "HU"), (deviations, "SD")):
        draw_organs(axes, name, organs[name], real)
    save_figure(figure, path)


def draw_materials(settings: Synthesis, drawn: Sequence[Figures], spacing: Spacing) -> dict[str, dict[str, np.ndarray]]:
    """Draw the materials of many patients; return for "HU" and "SD" the values by organ.

    Those of the pancreas are measured in the images.
    """
    values: dict[str, dict[str, list[float]]] = {name: {organ: [] for organ in ORGANS} for name in ("HU", "SD")}
    for seed in range(MATERIAL_DRAWS):
        rng = np.random.default_rng([seed, 1])
        materials = random_materials(rng, settings.intensity)
        scanner = resampled(random_acquisition(rng, settings.resolution), spacing)
        calibration = replace(scanner, noise=0.0, streaks=0.0, edge=0.0, slice_mm=1.0)
        seen = acquire(rng, materials.mean[None, :, None].copy(), (1.0, 1.0, 1.0), calibration)[0, :, 0]
        for organ, codes in MATERIALS.items():
            mean, fine, coarse = (v[list(codes)] for v in (seen.astype(float), materials.fine, materials.coarse))
            values["HU"][organ].append(mean.mean())
            values["SD"][organ].append(np.sqrt(np.mean(fine**2 + coarse**2) + scanner.noise**2 + mean.var()))
    for name in values:
        values[name]["pancreas"] = [f.numbers[f"gland {name}"] for f in drawn if f"gland {name}" in f.numbers]
    return {name: {organ: np.array(found) for organ, found in organs.items()} for name, organs in values.items()}


def write_figures(path: Path, drawn: Sequence[Figures], real: Mapping[str, Figures]) -> str:
    """Write the figures of the patients and of each real scan as CSV; return them as a table to read.

    A star marks what lies beyond the 5th to the 95th percentile of the patients.
    """
    names = list(dict.fromkeys(name for figures in (*drawn, *real.values()) for name in figures.numbers))
    lines = [f"{'':<30}{'5 %':>9}{'median':>9}{'95 %':>9}  " + "".join(f"{scan[-18:]:>20}" for scan in real)]
    with replacing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["figure", "5 %", "median", "95 %", *real])
        for name in names:
            own = [f.numbers[name] for f in drawn if np.isfinite(f.numbers.get(name, np.nan))]
            low, middle, high = np.percentile(own, (5, 50, 95)) if own else (np.nan,) * 3
            values = [figures.numbers.get(name, np.nan) for figures in real.values()]
            writer.writerow([name, *(f"{v:.4g}" for v in (low, middle, high, *values))])
            marks = ["*" if v < low or v > high else " " for v in values]
            cells = "".join(f"{v:>19.3g}{mark}" for v, mark in zip(values, marks, strict=True))
            lines.append(f"{name:<30}{low:>9.3g}{middle:>9.3g}{high:>9.3g}  {cells}")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for pictures and the table")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="folder of real scans (default: none)")
    parser.add_argument(
        "--label",
        type=parse_label,
        action="append",
        default=[],
        metavar="NAME=FILE:CODES",
        help="label of the pancreas of a real scan, as for real_scans.py (repeatable)",
    )
    parser.add_argument(
        "--organs",
        type=parse_organs,
        action="append",
        default=[],
        metavar="NAME=FILE:ORGANS",
        help="other organs of a real scan, such as patient_7=organs.nii.gz:liver=6,kidney=2+3 (repeatable)",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        default=(3.0, 2.0, 2.0),
        help="voxel spacing in mm of the comparison (default: 3 2 2, that of pancreas coarse)",
    )
    parser.add_argument("--patients", type=int, default=32, metavar="N", help="patients to render")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the patients")
    add_changes(parser, "--synthesis", Synthesis(), "change a setting of the patients")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Render patients, measure them and the real scans, and write pictures and table."""
    args = parse(argv)
    settings = read_synthesis(args.synthesis)
    spacing, organs = triple(args.spacing), dict(args.organs)
    if args.patients < 1:
        raise InputError(f"--patients {args.patients}", "there is nothing to look at", "give a number above 0")
    scans = find_scans(args.real, dict(args.label)) if args.real else []
    real = [read_real(scan, spacing, organs.get(scan.patient)) for scan in scans if not scan.path.is_dir()]
    check_writable(args.out)
    shown, drawn = [], []
    for number in progress(range(args.patients), title="rendering", unit="patient"):
        hu, label = render_patient([args.seed, number], settings, spacing)
        image = Image(f"patient {number}", hu.astype(np.float32), label > 0)
        drawn.append(measure(image, spacing))
        shown += [image] if number < SHOWN else []
    measured = {image.name: measure(image, spacing) for image in real}
    for axis, name in enumerate(("axial", "coronal")):
        draw_panels(args.out / f"{name}.png", [*shown, *real], len(real), spacing, axis)
    draw_figures(args.out / "figures.png", drawn, measured, draw_materials(settings, drawn, spacing), spacing)
    print(write_figures(args.out / "figures.csv", drawn, measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
