"""The command behind the four evaluation scripts: segment the held-out cases, score them, show them."""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from tqdm import tqdm

from data.errors import EXIT_BAD_INPUT, InputError, command
from data.files import replacing
from data.samples import INFERENCE_MARGIN_MM, target_mask
from data.splits import NONE_HELD_OUT, Split, choose_splits, frozen_splits, select
from data.store import DEFAULT_STORE, PANCREAS, TUMOUR, Case, read_store
from data.volume import Grid, read_label, write_mask
from engine.cascade import StageModel, load_model, segment_stage, tumour_fine_roi
from engine.checkpoint import DEFAULT_CHECKPOINTS, find_run
from engine.device import choose_device
from engine.metrics import case_metrics
from engine.pictures import overlay
from engine.plots import distributions
from engine.report import failed, pick_cases, read_cases, summary_table, write_cases, write_summary
from engine.stages import STAGES, Stage

PLOTTED = ("dice", "nsd_2mm", "hd95_mm", "volume_error_ml")


def parse(stage: Stage, argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of a stage's evaluation script."""
    parser = argparse.ArgumentParser(
        description=f"Evaluate the stage {stage.title} on the held-out centre of every split.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", metavar="CENTRE", help="evaluate the split that holds out this centre alone")
    parser.add_argument("--time", help="the run to evaluate, YYYY_MM_DD_HH_MM_SS; the newest by default")
    parser.add_argument("--thresh", type=float, help="binarise here instead of where the validation part chose")
    parser.add_argument("--gpu", default="auto", help="auto, the number of a GPU, or cpu")
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, help="prepared centres")
    parser.add_argument("--path", type=Path, default=DEFAULT_CHECKPOINTS, help="where runs are kept")
    if stage.sampling.target == "tumour":
        parser.add_argument(
            "--roi",
            choices=("predicted", "reference"),
            default="predicted",
            help="the pancreas that the cascade looks in: as predicted, or the reference to compare on equal ground",
        )
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
    for split in choose_splits(frozen_splits(args.store, centres), args.data):
        try:
            model = load_model(args.path, stage_name, split.held_out, device, args.time, args.thresh)
            evaluation = Evaluation.start(model, split, args.path, getattr(args, "roi", None))
            faults += evaluation.run(select(centres, split.test))
        except InputError as error:
            faults.append(str(error))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


def evaluation_folder(run: Path, roi: str | None) -> Path:
    """Where the results of a run lie: its tumour stages have one folder per kind of pancreas they looked in."""
    return run / ("evaluation" if roi is None else f"evaluation_{roi}")


@dataclass(frozen=True)
class Evaluation:
    """One run on its held-out centre. ``before`` holds the results of the stages that say where to look."""

    model: StageModel
    folder: Path
    before: dict[str, Path]
    roi: str | None

    @staticmethod
    def start(model: StageModel, split: Split, checkpoints: Path, roi: str | None) -> "Evaluation":
        """Find what the stage needs and open its folder; what is there of the same evaluation is kept.

        Raises InputError naming the script to run where a stage before it was not evaluated, or where the model was
        trained on another split: its training cases could be among the test cases.
        """
        if model.split_hash != split.hash:
            raise InputError(f"{model.run}: trained on another split than {split.held_out} is now; train again")
        before = {name: _evaluated(checkpoints, STAGES[name], split, roi) for name in _needed(model.stage, roi)}
        evaluation = Evaluation(model, evaluation_folder(model.run, roi), before, roi)
        evaluation._open()
        return evaluation

    def _open(self) -> None:
        settings = {
            "run": self.model.run.name,
            "epoch": self.model.epoch,
            "threshold": self.model.threshold,
            "roi": self.roi,
            "before": {name: yaml.safe_load((f / "settings.yaml").read_text()) for name, f in self.before.items()},
        }
        path = self.folder / "settings.yaml"
        if path.exists() and yaml.safe_load(path.read_text()) == settings:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "predictions").mkdir(parents=True)
        with replacing(path) as unfinished:
            unfinished.write_text(yaml.safe_dump(settings, sort_keys=False))

    def run(self, cases: Sequence[Case]) -> list[str]:
        """Segment and score every case, write tables and pictures. Returns a line per failed case."""
        title = f"{self.model.stage.title}, {cases[0].centre} held out"
        table = self.folder / "cases.csv"
        rows = [row for row in read_cases(table) if not failed(row)] if table.exists() else []
        done = {row["case"] for row in rows}
        for case in tqdm([case for case in cases if case.key not in done], desc=title, unit="case"):
            rows.append(self._row(case))
            write_cases(table, rows)
        text = summary_table(rows, f"{title} ({self.model.run.name}, threshold {self.model.threshold:g})")
        (self.folder / "summary.txt").write_text(text)
        write_summary(self.folder / "summary.json", rows)
        self._draw(rows, {case.key: case for case in cases}, title)
        print(f"\n{text}\nper case: {table}\npictures: {self.folder}/*.png")
        return [f"{row['case']}: {row['error']}" for row in rows if failed(row)]

    def _row(self, case: Case) -> dict:
        try:
            return self._evaluate(case)
        except InputError as error:
            return {"case": case.key, "centre": case.centre, "error": str(error)}
        except torch.OutOfMemoryError:
            shape = "x".join(map(str, case.shape))
            error = f"a scan of {shape} needs more memory than {self.model.device} has; use --gpu cpu"
            return {"case": case.key, "centre": case.centre, "error": error}

    def _evaluate(self, case: Case) -> dict:
        start = time.monotonic()
        roi, hint = self._roi(case)
        mask, note = segment_stage(self.model, case.image(), case.spacing, roi)
        seconds = time.monotonic() - start
        write_mask(self._prediction(case), mask.astype(np.uint8), Grid.from_json(case.grid))
        reference = target_mask(np.asarray(case.label()), self.model.stage.sampling.target)
        return {
            "case": case.key,
            "centre": case.centre,
            **case_metrics(mask, reference, case.spacing, INFERENCE_MARGIN_MM),
            "seconds": round(seconds, 2),
            "threshold": self.model.threshold,
            "note": "; ".join(filter(None, (hint, note))),
        }

    def _roi(self, case: Case) -> tuple[np.ndarray | None, str]:
        """The mask around which the stage looks, with a note."""
        masks = {
            name: read_label(folder / "predictions" / f"{case.name}.nii.gz") for name, folder in self.before.items()
        }
        arrays = {name: volume.array > 0 for name, volume in masks.items()}
        if self.roi == "reference":
            arrays["pancreas_fine"] = np.asarray(case.label()) > 0
        if self.model.stage.name == "tumor_fine":
            return tumour_fine_roi(arrays["tumor_coarse"], arrays["pancreas_fine"], case.spacing)
        return arrays.get(self.model.stage.predecessor), ""

    def _prediction(self, case: Case) -> Path:
        return self.folder / "predictions" / f"{case.name}.nii.gz"

    def _draw(self, rows: list[dict], cases: dict[str, Case], title: str) -> None:
        scored = [row for row in rows if not failed(row)]
        if scored:
            distributions(self.folder / "distributions.png", scored, PLOTTED, title)
        code = TUMOUR if self.model.stage.sampling.target == "tumour" else PANCREAS
        for rank, row in pick_cases(rows)._asdict().items():
            if row is None:
                continue
            case = cases[row["case"]]
            reference = target_mask(np.asarray(case.label()), self.model.stage.sampling.target) * code
            prediction = read_label(self._prediction(case)).array * code
            caption = f"{title}: {rank}, {case.name}, Dice {row['dice']:.2f}"
            overlay(self.folder / f"{rank}.png", np.asarray(case.image()), reference, prediction, case.spacing, caption)


def _needed(stage: Stage, roi: str | None) -> list[str]:
    """The stages whose results say where ``stage`` looks; the reference pancreas needs none of the pancreas stages."""
    needed = [stage.predecessor] if stage.predecessor else []
    if stage.name == "tumor_fine":
        needed.append("pancreas_fine")
    return [name for name in needed if not (roi == "reference" and name == "pancreas_fine")]


def _evaluated(checkpoints: Path, stage: Stage, split: Split, roi: str | None) -> Path:
    roi = roi if stage.sampling.target == "tumour" else None
    folder = evaluation_folder(find_run(checkpoints, stage, split.held_out), roi)
    if not (folder / "summary.json").exists():
        option = f" --roi {roi}" if roi == "reference" else ""
        command_line = f"{stage.script('evaluate')} --data {split.held_out}{option}"
        raise InputError(f"{folder}: the stage {stage.title} is not evaluated yet; run {command_line}")
    return folder
