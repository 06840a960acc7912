"""The command behind the four evaluation scripts: segment the held-out cases, score them, show them.

``python -m engine.evaluate --predictions DIR --centre CENTRE --label tumour --out DIR`` scores masks that lie in a
folder already, whoever made them: engine/score.py.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from tqdm import tqdm

from data.cases.labels import target_mask
from data.cases.store import Case, digest, read_store
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import replacing
from data.scans.volume import read_label, write_mask
from data.splits.frozen import frozen_splits
from data.splits.split import NONE_HELD_OUT, Split, centres_with, choose_splits, held_out_cases
from engine.checkpoint import find_run, path_option
from engine.device import choose_device, naming_memory_errors
from engine.infer.cascade import StageModel, load_model, segment_stage, select_roi
from engine.metrics import case_metrics
from engine.options import add_average, add_gpu, add_path, add_store
from engine.report.results import write_results
from engine.report.tables import failed, read_case_table, write_case_table
from engine.stages import STAGES, Stage


def parse(stage: Stage, argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of a stage's evaluation script."""
    parser = argparse.ArgumentParser(
        description=f"Evaluate the stage {stage.title} on the held-out centre of every split.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", metavar="CENTRE", help="evaluate the split that holds out this centre alone")
    parser.add_argument("--time", help="the run to evaluate, YYYY_MM_DD_HH_MM_SS; the newest by default")
    parser.add_argument("--thresh", type=float, help="binarise here instead of where the validation part chose")
    add_gpu(parser)
    add_store(parser)
    add_path(parser)
    if stage.predecessor:
        parser.add_argument(
            "--roi",
            choices=("predicted", "reference"),
            default="predicted",
            help="the pancreas that the stage looks around: as predicted before, or the reference, for equal ground",
        )
    if not is_pancreas(stage):
        add_average(parser)
    return parser.parse_args(argv)


@command
def main(stage_name: str, argv: Sequence[str] | None = None) -> int:
    """Evaluate a stage as the command line says. Returns the exit code: 2 when a split or a case failed."""
    stage = STAGES[stage_name]
    args = parse(stage, argv)
    if args.thresh is not None and not 0 < args.thresh < 1:
        raise InputError(f"--thresh {args.thresh}: must lie between 0 and 1")
    if args.data == NONE_HELD_OUT:
        raise InputError(f"--data {NONE_HELD_OUT}: holds no centre out, so there is nothing to evaluate on")
    device = choose_device(args.gpu)
    centres = read_store(args.store)
    faults = []
    known = centres_with(centres, stage.sampling.target)
    for split in choose_splits(frozen_splits(args.store, centres), args.data, known):
        try:
            cases = held_out_cases(split, centres, stage.sampling.target)
            readout = "average" if getattr(args, "average", False) else "segmentation"
            model = load_model(args.path, stage_name, split.name, device, args.time, args.thresh, readout=readout)
            faults += Evaluation.start(model, split, cases, args).run(cases)
        except InputError as error:
            faults.append(str(error))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


def evaluation_folder(run: Path, roi: str | None, readout: str, threshold: float | None = None) -> Path:
    """Where the results of a run lie: a folder per kind of pancreas that a tumour stage looked in.

    A threshold given on the command line has a folder of its own, so that the stages after never read it.
    """
    averaged = "average" if readout == "average" else None
    parts = ["evaluation", roi, averaged, f"thresh_{threshold:g}" if threshold is not None else None]
    return run / "_".join(filter(None, parts))


@dataclass(frozen=True)
class Evaluation:
    """One run on its test cases. ``before`` holds the results of the stages that say where to look."""

    model: StageModel
    split: Split
    folder: Path
    before: dict[str, Path]
    roi: str | None

    @staticmethod
    def start(model: StageModel, split: Split, cases: Sequence[Case], args: argparse.Namespace) -> "Evaluation":
        """Find what the stage needs and open its folder; what is there of the same evaluation is kept.

        Raises InputError naming the script to run where a stage before it was not evaluated, or where the model was
        trained on another split: its training cases could be among the test cases. And where it was trained on cases
        prepared in another way than these: it would be judged on voxels that it was never meant for.
        """
        if model.split_hash != split.hash:
            raise InputError(f"{model.run}: trained on another split than {split.name} is now; train again")
        if other := next((case for case in cases if case.preparation != model.preparation), None):
            ways = f"{model.preparation}, {other.key} with {other.preparation}"
            raise InputError(f"{model.run}: trained on cases prepared with {ways}; give the --store of its training")
        roi = getattr(args, "roi", None)
        before = evaluations_before(model.stage, args.path, split, roi, model.readout)
        folder = evaluation_folder(model.run, roi, model.readout, args.thresh)
        evaluation = Evaluation(model, split, folder, before, roi)
        evaluation._open(cases)
        return evaluation

    def _open(self, cases: Sequence[Case]) -> None:
        settings = {
            "run": self.model.run.name,
            "epoch": self.model.epoch,
            "readout": self.model.readout,
            "threshold": self.model.threshold,
            "roi": self.roi,
            "cases": digest(cases),
            "before": {name: read_settings(folder) for name, folder in self.before.items()},
        }
        path = self.folder / "settings.yaml"
        if path.exists() and read_settings(self.folder) == settings:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "predictions").mkdir(parents=True)
        with replacing(path) as unfinished:
            unfinished.write_text(yaml.safe_dump(settings, sort_keys=False))

    def run(self, cases: Sequence[Case]) -> list[str]:
        """Segment and score every case, write tables and pictures. Returns a line per failed case."""
        where = f", in the {self.roi} pancreas" if self.roi else ""
        title = f"{self.model.stage.title}, {self.split.name} held out{where}"
        table = self.folder / "cases.csv"
        rows = [row for row in read_case_table(table) if not failed(row)] if table.exists() else []
        done = {row["case"] for row in rows}
        for case in tqdm([case for case in cases if case.key not in done], desc=title, unit="case"):
            rows.append(self._row(case))
            write_case_table(table, rows)
        titles = title, f"{title} ({self.model.run.name}, threshold {self.model.threshold:g})"
        target = self.model.stage.sampling.target
        by_key = {case.key: case for case in cases}
        write_results(self.folder, rows, by_key, target, titles, lambda c: read_mask(self.folder, c, self.split))
        return [f"{row['case']}: {row['error']}" for row in rows if failed(row)]

    def _row(self, case: Case) -> dict:
        try:
            size = "x".join(map(str, case.shape))
            with naming_memory_errors(f"{case.key}: a scan of {size}", self.model.device, "use --gpu cpu"):
                return self._evaluate(case)
        except InputError as error:
            return {"case": case.key, "centre": case.centre, "error": str(error)}

    def _evaluate(self, case: Case) -> dict:
        start = time.monotonic()
        roi, hint = self._roi(case)
        mask, note = segment_stage(self.model, case.image(), case.spacing, roi)
        seconds = time.monotonic() - start
        write_mask(prediction_path(self.folder, case, self.split), mask.astype(np.uint8), case.grid)
        reference = target_mask(np.asarray(case.label()), self.model.stage.sampling.target)
        return {
            "case": case.key,
            "centre": case.centre,
            **case_metrics(mask, reference, case.spacing, self.model.stage.sampling.margin_mm),
            "seconds": round(seconds, 2),
            "threshold": self.model.threshold,
            "note": "; ".join(filter(None, (hint, note))),
        }

    def _roi(self, case: Case) -> tuple[np.ndarray | None, str]:
        """The mask around which the stage looks, with a note."""
        masks = {name: read_mask(folder, case, self.split) for name, folder in self.before.items()}
        if self.roi == "reference":
            pancreas = np.asarray(case.label()) > 0
            masks |= {name: pancreas for name in self.model.stage.before if is_pancreas(STAGES[name])}
        return select_roi(self.model.stage, masks, case.spacing)


def prediction_path(folder: Path, case: Case, split: Split) -> Path:
    """Where an evaluation keeps its mask of a case; of several centres, their names tell the cases apart."""
    name = case.name if case.centre == split.name else case.file_name
    return folder / "predictions" / f"{name}.nii.gz"


def read_mask(folder: Path, case: Case, split: Split) -> np.ndarray:
    """That mask, which lies on the scan's own grid, on the grid of the prepared case (bool, (D, H, W))."""
    return case.grid.to_prepared(read_label(prediction_path(folder, case, split)).array) > 0


def is_pancreas(stage: Stage) -> bool:
    """Whether the stage finds the pancreas, for which the reference can stand."""
    return stage.sampling.target == "pancreas"


def read_settings(folder: Path) -> dict:
    """What an evaluation was made with."""
    return yaml.safe_load((folder / "settings.yaml").read_text())


def evaluations_before(stage: Stage, checkpoints: Path, split: Split, roi: str | None, readout: str) -> dict[str, Path]:
    """The evaluations that say where ``stage`` looks, of the newest runs; the reference pancreas needs none.

    Raises InputError naming the script to run where one is missing, or older than what it was made from.
    """
    found = {}
    for name in stage.before:
        before = STAGES[name]
        if is_pancreas(before):
            if roi == "reference":
                continue
            before_roi, before_readout = "predicted" if before.predecessor else None, "segmentation"
        else:
            before_roi, before_readout = roi, readout
        folder = evaluation_folder(find_run(checkpoints, before, split.name), before_roi, before_readout)
        option = " --roi reference" if before_roi == "reference" else ""
        option += " --average" if before_readout == "average" else ""
        script = f"{before.script('evaluate')} --data {split.name}{option}{path_option(checkpoints)}"
        if not (folder / "summary.json").exists():
            raise InputError(f"{folder}: the stage {before.title} is not evaluated yet; run {script}")
        now = {
            n: read_settings(f)
            for n, f in evaluations_before(before, checkpoints, split, before_roi, before_readout).items()
        }
        if read_settings(folder)["before"] != now:
            raise InputError(f"{folder}: older than the evaluations that it was made from; run {script}")
        found[name] = folder
    return found
