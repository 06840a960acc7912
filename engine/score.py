"""Command: score any folder of predictions against the prepared references of a centre, as the evaluations do.

    python -m engine.evaluate --predictions DIR --centre CENTRE --label tumour --out DIR

A prediction is found by its case's name (``<case>.nii.gz`` or another format, or the name that ``data.export`` gave
it) and must lie on its scan's own grid. One that is missing, damaged or elsewhere is a failed case.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from tqdm import tqdm

from data.errors import EXIT_BAD_INPUT, InputError, command
from data.export import exported_name, own_grid
from data.files import replacing
from data.grid import Grid
from data.samples import target_mask
from data.sources import case_name
from data.store import PANCREAS, TUMOUR, Case, digest, read_store
from data.volume import SAME_GRID_MM, WRITTEN, Volume, read_label
from engine.metrics import case_metrics
from engine.options import add_store
from engine.report import Row, failed, write_cases
from engine.results import write_results
from engine.stages import STAGES

LABELS, MASK = "labels", "mask"


@dataclass(frozen=True)
class Predictions:
    """A folder of predictions. ``values`` says what its voxels mean: "labels" 0/1/2, or a "mask" of the target."""

    folder: Path
    pattern: str | None
    target: str
    values: str

    def path(self, case: Case) -> Path:
        """The file of a case. Raises InputError where there is none, or more than one."""
        found = [path for path in self._candidates(case) if path.is_file()]
        if not found:
            looked_for = self._candidates(case)[0].name
            raise InputError(f"{self.folder}: no prediction of {case.key} ({looked_for}); add it, or say --pattern")
        if len(found) > 1:
            raise InputError(f"{found[0]}: {found[1].name} is a prediction of the same case; keep one of them")
        return found[0]

    def _candidates(self, case: Case) -> list[Path]:
        if self.pattern:
            named = self.pattern.replace("{case}", case.name).replace("{export}", exported_name(case))
            return [self.folder / named]
        return [self.folder / f"{name}{suffix}" for name in (case.name, exported_name(case)) for suffix in WRITTEN]

    def read(self, case: Case) -> Volume:
        """The prediction of a case. Raises InputError where it lies neither on the scan's grid nor on the export's."""
        path, scan = self.path(case), Grid.from_json(case.grid)
        predicted = read_label(path)
        if not any(same_grid(predicted, grid) for grid in (scan, own_grid(case))):
            shape = "x".join(map(str, scan.size))
            where = (
                f"prediction {predicted.described()}, scan {shape} voxels as in {case.source.get('image', 'the store')}"
            )
            raise InputError(f"{path}: not on its scan's grid: {where}; write it on the grid of the scan")
        return predicted

    def mask(self, case: Case) -> tuple[np.ndarray, bool]:
        """Where a case's target was predicted (bool, (D, H, W), LPS), and whether that is on the scan's own grid."""
        predicted = self.read(case)
        codes = predicted.array
        present = np.flatnonzero(np.bincount(codes.ravel())).tolist()
        wrong = len(set(present) - {0}) > 1 if self.values == MASK else bool(set(present) - {0, PANCREAS, TUMOUR})
        if wrong:
            remedy = f"give labels 0/1/2 (--values {LABELS}) or masks of a single value (--values {MASK})"
            raise InputError(f"{self.path(case)}: has the values {', '.join(map(str, present))}; {remedy}")
        mask = codes > 0 if self.values == MASK or self.target == "pancreas" else codes == TUMOUR
        return mask, same_grid(predicted, Grid.from_json(case.grid))

    def prepared(self, case: Case) -> np.ndarray:
        """The same on the grid of the prepared case."""
        mask, scanned = self.mask(case)
        return Grid.from_json(case.grid).take(mask) if scanned else mask


def same_grid(volume: Volume, grid: Grid) -> bool:
    """Whether each voxel of ``volume`` lies where the whole ``grid`` has one, to 1e-3 mm."""
    like = Volume(np.broadcast_to(np.uint8(0), grid.lps_shape), *grid.lps_frame(), grid)
    return volume.array.shape == grid.lps_shape and np.abs(volume.corners() - like.corners()).max() <= SAME_GRID_MM


def settle_values(predictions: Predictions, cases: Sequence[Case]) -> str:
    """What the voxels mean where the command line does not say: labels where any file tells, never by guessing.

    Raises InputError where no file tells a mask of the tumour from labels without any tumour.
    """
    if predictions.target == "pancreas":
        return LABELS  # a mask of the pancreas reads the same
    highest = 0
    for case in cases:
        try:
            highest = max(highest, int(predictions.read(case).array.max()))
        except InputError:
            continue  # its own row will say so
        if highest > PANCREAS:
            return LABELS if highest == TUMOUR else MASK
    if highest:
        ask = f"say --values {MASK} if they are masks of the tumour, --values {LABELS} if no tumour was found"
        raise InputError(f"{predictions.folder}: holds 0 and 1 alone, tumour or pancreas? {ask}")
    return LABELS


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m engine.evaluate",
        description="Score a folder of predictions against the prepared references of a centre.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    named = {"required": True, "default": argparse.SUPPRESS}
    parser.add_argument("--predictions", type=Path, metavar="DIR", help="one mask a case, on its scan's grid", **named)
    parser.add_argument("--centre", metavar="CENTRE", help="whose references", **named)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--label", choices=("pancreas", "tumour"), help="what is scored; pancreas: with its tumour")
    what.add_argument("--stage", choices=STAGES, help="the same, by the stage that segments it")
    parser.add_argument(
        "--values",
        choices=("auto", LABELS, MASK),
        default="auto",
        help="of the voxels: labels 0/1/2, or a mask of what is scored; auto: as the files tell",
    )
    pattern = "file name, {case} for the case, {export} for its name in data.export; else both, in any format"
    parser.add_argument("--pattern", metavar="NAME", help=pattern)
    add_store(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where tables and pictures go", **named)
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Score as the command line says. Returns the exit code: 2 when a case failed."""
    args = parse(argv)
    centres = read_store(args.store)
    if args.centre not in centres:
        raise InputError(f"--centre {args.centre}: no such centre is prepared; choose one of {', '.join(centres)}")
    if args.pattern and "{case}" not in args.pattern and "{export}" not in args.pattern:
        raise InputError(f"--pattern {args.pattern}: names one file for all cases; put {{case}} or {{export}} in it")
    if not args.predictions.is_dir():
        raise InputError(f"{args.predictions}: no such folder; check --predictions")
    cases = centres[args.centre]
    target = args.label or STAGES[args.stage].sampling.target
    predictions = Predictions(args.predictions, args.pattern, target, args.values)
    say_strangers(predictions, cases)
    if args.values == "auto":
        values = settle_values(predictions, cases)
        predictions = Predictions(args.predictions, args.pattern, target, values)
    open_folder(args.out, predictions, cases)
    rows = score(predictions, cases, args.out)
    for row in filter(failed, rows):
        print(f"error: {row['case']}: {row['error']}", file=sys.stderr)
    return EXIT_BAD_INPUT if any(map(failed, rows)) else 0


def say_strangers(predictions: Predictions, cases: Sequence[Case]) -> None:
    """Print which scans in the folder belong to no case. Raises InputError where none belongs to any."""
    scans = {path for path in predictions.folder.iterdir() if case_name(path.name)}
    wanted = {path for case in cases for path in predictions._candidates(case)}
    if not scans & wanted:
        example = predictions._candidates(cases[0])[0].name
        raise InputError(
            f"{predictions.folder}: no prediction of {cases[0].centre} in it, such as {example}; say --pattern"
        )
    if strangers := sorted(path.name for path in scans - wanted):
        print(
            f"not of {cases[0].centre}, left out: {', '.join(strangers[:4])}"
            + f" and more, {len(strangers)} in all" * (len(strangers) > 4)
        )


def open_folder(out: Path, predictions: Predictions, cases: Sequence[Case]) -> None:
    """Make ``out`` this command's own. Raises InputError where it holds anything else, such as another evaluation."""
    record = out / "settings.yaml"
    settings = yaml.safe_load(record.read_text()) if record.exists() else None
    if out.exists() and any(out.iterdir()) and not (isinstance(settings, dict) and "predictions" in settings):
        raise InputError(f"{out}: not empty and not made by this command; choose another --out")
    for made in (*out.glob("*.png"), *out.glob("summary.*"), *out.glob("cases.csv")):
        made.unlink()
    settings = {
        "predictions": str(predictions.folder.resolve()),
        "label": predictions.target,
        "values": predictions.values,
        "pattern": predictions.pattern,
        "cases": digest(cases),
    }
    with replacing(record) as unfinished:
        unfinished.write_text(yaml.safe_dump(settings, sort_keys=False))


def score(predictions: Predictions, cases: Sequence[Case], out: Path) -> list[Row]:
    """Score every case and write what an evaluation writes. Returns the rows, those of failed cases among them."""
    title = f"{predictions.target}, {cases[0].centre}, {predictions.folder.resolve().name}"
    rows: list[Row] = []
    for case in tqdm(cases, desc=title, unit="case"):
        rows.append(score_case(predictions, case))
        write_cases(out / "cases.csv", rows)
    by_key = {case.key: case for case in cases}
    write_results(out, rows, by_key, predictions.target, (title, title), predictions.prepared)
    return rows


def score_case(predictions: Predictions, case: Case) -> Row:
    """The row of one case, scored where it was prepared, as our own evaluations do."""
    row = {"case": case.key, "centre": case.centre}
    grid, reference = Grid.from_json(case.grid), target_mask(np.asarray(case.label()), predictions.target)
    try:
        mask, scanned = predictions.mask(case)
    except InputError as error:
        return row | {"error": str(error)}
    if not scanned or grid.part is None:
        return row | case_metrics(mask, reference, case.spacing)
    if mask.sum() > mask[grid.part.slices].sum():
        # Something was found outside the part that was prepared: only the whole scan does it justice.
        return row | case_metrics(mask, grid.to_lps(grid.from_lps(reference)), grid.lps_frame()[0])
    return row | case_metrics(grid.take(mask), reference, case.spacing)


if __name__ == "__main__":
    sys.exit(main())
