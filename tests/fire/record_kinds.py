"""Every record that is read back, as a target: how it is written, how the program reads it, how it can be crafted."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import torch
from torch import Tensor

from data.augment import Augmentation
from data.cases.case import Case, write_case
from data.cases.preparation import Preparation
from data.cases.store import digest, read_store
from data.common.errors import InputError
from data.phantom.label_maps import AnatomyLabels
from data.scans.grid import Grid, Part
from data.sources.tables import read_table
from data.splits.folds import make_folds
from data.splits.frozen import frozen_splits, write_splits
from data.splits.lists import read_lists
from data.splits.split import Split
from engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from engine.device import Execution
from engine.evaluate.earlier import read_settings
from engine.evaluate.masks import read_prepared_mask, write_prepared_mask
from engine.infer.models import load_model
from engine.infer.volumes import PredictionFolder
from engine.model_file import read_model_file, write_model_file
from engine.published.command import import_published
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.report.tables import read_case_table
from engine.stages import STAGES
from engine.study.condense import condense
from engine.study.runs import Run, Study, read_studies, write_study
from engine.train.run_log import RunLog
from engine.train.training import prepare_training
from tests.data.splits.populations import LISTS, three_centres
from tests.engine.test_published import release_parameters
from tests.fire import crafted
from tests.fire.crafted import Craft
from tests.study_parts import case as row_of
from tests.study_parts import fake_run

STAGE, CPU, TIME = "pancreas_coarse", torch.device("cpu"), "2026_01_01_00_00_00"
SHAPE, SPACING = (8, 9, 10), (2.5, 0.8, 0.8)
JSON = {
    "other values": crafted.json_with_other_values,
    "without checksum": crafted.json_without_checksum,
    "another kind": crafted.json_of_another_kind,
}
YAML = {
    "code": crafted.yaml_with_code,
    "other values": crafted.yaml_with_other_values,
    "another kind": crafted.yaml_of_another_kind,
}
CSV = {"other cells": crafted.table_with_other_cells}
TORCH = {
    "code": crafted.checkpoint_with_code,
    "valid checksums": crafted.checkpoint_with_other_values,
    "bomb": crafted.checkpoint_that_unpacks,
}
ARRAY = {"code": crafted.array_with_code, "other header": crafted.array_with_another_header}
UNNOTICEABLE = ("valid checksums", "without checksum")  # ways in which a record is crafted that no checksum can tell


@dataclass(frozen=True)
class Kind:
    """A record to damage.

    Attributes:
        write: Writes it and what belongs to it into a folder, in one of two variants; returns its file.
        read: Reads it from that folder as the program does; raises InputError if the program goes on without it.
        crafted: How it can be built on purpose.
        checked: Whether any change of its meaning has to be noticed.
    """

    write: Callable[[Path, int], Path]
    read: Callable[[Path], Any]
    crafted: Mapping[str, Craft]
    checked: bool = False


def _arrays(variant: int, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    label = np.zeros(shape, np.uint8)
    label[2:6, 3:7, 2:8] = 1
    label[3, 4, 4 + variant] = 2
    return np.random.default_rng(variant).integers(-900, 900, shape).astype(np.int16), label


def _write_store(folder: Path, variant: int, part: Part | None = None) -> Path:
    image, label = _arrays(variant)
    grid = Grid.of(SHAPE[::-1], SPACING[::-1], (1.5, -2.5, 30.0 + variant), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    more: dict[str, Any] = {"spacing": SPACING, "grid": grid}
    if part:
        more = {"spacing": (5.0, 0.8, 0.8), "grid": Grid(**{**vars(grid), "part": part}), "scan_label": label}
        image, label = image[::2], label[::2]
    for name in ("one", "two"):
        source = {"image": f"images/{name}.nii.gz", "image_sha256": f"{variant}" * 64}
        write_case(folder / "store", "a", name, image, label, patient=f"p{variant}", source=source, **more)
    return folder / "store" / "a" / "one"


def _store_cases(folder: Path) -> list[Case]:
    return read_store(folder / "store")["a"]


def _recipe(variant: int) -> Recipe:
    stage = STAGES[STAGE]
    settings = TrainSettings(epochs=3 + variant, workers=0)
    return Recipe(NetworkSettings(8), stage.method, stage.sampling, Augmentation(), settings, Preparation())


@cache
def _trained(variant: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the states of a network and of its optimiser after one step."""
    torch.manual_seed(variant)
    net = _recipe(variant).build_network(CPU)
    optimiser = torch.optim.Adam(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimiser.step()
    return net.state_dict(), optimiser.state_dict()


def _write_checkpoint(folder: Path, variant: int, name: str) -> Path:
    _write_store(folder, 0)
    net, optimiser = _trained(variant)
    last = name == "last.pt"
    checkpoint = Checkpoint(
        stage=STAGE,
        split="none",
        split_hash=f"{variant}",
        data_hash=digest(_store_cases(folder)),
        recipe=_recipe(variant),
        spacing_range=[[1.0, 0.5, 0.5], [5.0, 0.9, 0.9]],
        epoch=1,
        net=net,
        thresholds={} if last else {"segmentation": 0.5, "average": 0.45},
        best_dice=0.5,
        optimiser=optimiser if last else None,
    )
    save_checkpoint(folder / STAGE / "none" / TIME / name, checkpoint)
    return folder / STAGE / "none" / TIME / name


def _read_best(folder: Path) -> Any:
    model = load_model(folder, STAGE, "none", CPU)
    return {**vars(model), "net": model.net.state_dict(), "run": None, "sha256": None}


def _write_model(folder: Path, variant: int) -> Path:
    best = _write_checkpoint(folder, variant, "best.pt")
    write_model_file(folder / "model.zip", {STAGE: best}, {"stages": {STAGE: {"split_hash": f"{variant}"}}}, "The card")
    return folder / "model.zip"


def _read_model(folder: Path) -> Any:
    record, stages = read_model_file(folder / "model.zip", [STAGE])
    return {**vars(stages[STAGE].checkpoint), **record}


def _read_last(folder: Path) -> Any:
    checkpoint = load_checkpoint(folder / STAGE / "none" / TIME / "last.pt", STAGE)
    recipe, cases = checkpoint.recipe, _store_cases(folder)
    training = prepare_training(
        stage=STAGES[STAGE],
        split=Split("none", tuple(case.key for case in cases), (), ()),
        recipe=recipe,
        train_cases=cases,
        validation_cases=[],
        execution=Execution(CPU),
        folder=folder,
        checkpoint=checkpoint,
    )
    return training.net.state_dict(), training.optimiser.state_dict(), recipe, training.epochs_done, training.best_dice


def _write_published(folder: Path, variant: int) -> Path:
    torch.manual_seed(variant)
    torch.save(release_parameters(STAGE), folder / "release.pth")
    return folder / "release.pth"


def _read_published(folder: Path) -> Any:
    import_published(folder / "release.pth", stage_name=STAGE, threshold=0.5, checkpoints=folder, split="none")
    return _read_best(folder)


def _write_splits(folder: Path, variant: int) -> Path:
    frozen_splits(folder, three_centres())
    folds = make_folds(three_centres(), 3 + variant)
    write_splits(folder / "splits_folds.json", folds)
    return folder / ("splits_folds.json" if variant else "splits.json")


def _read_splits(folder: Path) -> Any:
    return sorted(frozen_splits(folder, three_centres()).items())  # their order means nothing


def _write_lists(folder: Path, variant: int, suffix: str) -> Path:
    path = folder / f"mine{suffix}"
    parts = LISTS | ({"validation": []} if variant else {})
    if suffix == ".json":
        return _write(path, json.dumps(parts))
    return _write(path, "case,part\n" + "".join(f"{key},{part}\n" for part, keys in parts.items() for key in keys))


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _write_study(folder: Path, variant: int, file: str) -> Path:
    run = fake_run(folder, Run("full", 1, "west"), [row_of(f"west/{i}", 0.5 + 0.1 * variant) for i in range(3)])
    recipe = {"network": {"width": 8}, "training": {"epochs": 2 + variant}}
    study = Study(
        folder=folder,
        stage=STAGES["tumor_coarse"],
        store=Path("store"),
        data_hash="0123",
        split_hashes=("4567", "89ab"),
        recipe=recipe,
        average=False,
        variants={"full": STAGES["tumor_coarse"].method.to_record()},
        readouts={"full": "segmentation"},
        seeds=(1,),
        steps={"west": 4},
        commands=("run",),
    )
    write_study(study)
    return folder / file if file == "study.yaml" else run / file


def _read_study(folder: Path) -> Any:
    read_studies(folder)
    shutil.rmtree(folder / "condensed", ignore_errors=True)
    condense(folder, folder / "condensed")
    return [path.read_text() for path in sorted((folder / "condensed").iterdir())]


def _read_settings(folder: Path) -> Any:
    path = next(folder.rglob("evaluation_reference"))
    if settings := read_settings(path):
        return settings
    raise InputError(path, "no readable record", "the case is evaluated again")


def _write_volumes(folder: Path, variant: int) -> Path:
    predictions = PredictionFolder(folder)
    for name in ("one", "two"):
        volumes = {"pancreas_ml": 80.5 + variant, "tumour_ml": 2.5}
        predictions.put({"case": name, "scan": f"/scans/{name}.nii.gz", **volumes})
    return predictions.table


def _read_losses(folder: Path) -> Any:
    log = RunLog(next(folder.rglob("losses.csv")).parent, epochs_done=1)
    log.close()
    return log.history


def _write_book(folder: Path, variant: int) -> Path:
    book = openpyxl.Workbook()
    for row in (("case", "patient"), ("one", f"p{variant}"), ("two", 3.5)):
        book.active.append(row)
    book.save(folder / "table.xlsx")
    return folder / "table.xlsx"


def _write_mask(folder: Path, variant: int) -> Path:
    write_prepared_mask(folder / "mask.npz", _arrays(variant)[1] > 0)
    return folder / "mask.npz"


def _write_label_map(folder: Path, variant: int) -> Path:
    labels = _arrays(variant)[1]
    path = folder / "map.npz"
    np.savez_compressed(path, labels=labels, box_start=[1, 2, 3], scan_shape=[40, 50, 60], spacing=[2.5, 0.8, 0.8])
    return path


LOSSES = "full/seg/1"
PART = Part((0, 0, 0), SHAPE, (4, 9, 10))
GROUPS: dict[str, dict[str, Kind]] = {
    "checkpoint": {
        "best.pt": Kind(lambda f, v: _write_checkpoint(f, v, "best.pt"), _read_best, TORCH, checked=True),
        "last.pt": Kind(lambda f, v: _write_checkpoint(f, v, "last.pt"), _read_last, TORCH, checked=True),
        "model.zip": Kind(_write_model, _read_model, {}, checked=True),
        "published weights": Kind(
            _write_published, _read_published, {"code": crafted.checkpoint_with_code}, checked=True
        ),
    },
    "splits": {
        "splits.json": Kind(_write_splits, _read_splits, JSON, checked=True),
        "lists.json": Kind(
            lambda f, v: _write_lists(f, v, ".json"), lambda f: read_lists(f / "mine.json", three_centres()), JSON
        ),
        "lists.csv": Kind(
            lambda f, v: _write_lists(f, v, ".csv"), lambda f: read_lists(f / "mine.csv", three_centres()), CSV
        ),
    },
    "manifest": {
        "case.json": Kind(lambda f, v: _write_store(f, v) / "case.json", _store_cases, JSON, checked=True),
        "case.json, resampled": Kind(
            lambda f, v: _write_store(f, v, PART) / "case.json", _store_cases, JSON, checked=True
        ),
    },
    "settings": {
        "run settings.yaml": Kind(lambda f, v: _write_study(f, v, "settings.yaml"), _read_study, YAML),
        "evaluation settings": Kind(
            lambda f, v: _write_study(f, v, "evaluation_reference/settings.yaml"), _read_study, YAML
        ),
        "settings compared": Kind(
            lambda f, v: _write_study(f, v, "evaluation_reference/settings.yaml"), _read_settings, YAML
        ),
        "study.yaml": Kind(lambda f, v: _write_study(f, v, "study.yaml"), _read_study, YAML),
        "summary.json": Kind(lambda f, v: _write_study(f, v, "evaluation_reference/summary.json"), _read_study, JSON),
    },
    "table": {
        "cases.csv": Kind(
            lambda f, v: _write_study(f, v, "evaluation_reference/cases.csv"),
            lambda f: read_case_table(next(f.rglob("cases.csv"))),
            CSV,
        ),
        "volumes.csv": Kind(_write_volumes, lambda f: PredictionFolder(f).read_rows(), CSV),
        "losses.csv": Kind(lambda f, v: _write_study(f, v, "losses.csv"), _read_study, CSV),
        "losses.csv, resumed": Kind(lambda f, v: _write_study(f, v, "losses.csv"), _read_losses, CSV),
        "table.csv": Kind(
            lambda f, v: _write(f / "table.csv", f"case,patient\none,p{v}\ntwo,3\n"),
            lambda f: read_table(f / "table.csv"),
            CSV,
        ),
        "table.xlsx": Kind(_write_book, lambda f: read_table(f / "table.xlsx"), {}, checked=True),
    },
    "array": {
        "image.npy": Kind(
            lambda f, v: _write_store(f, v) / "image.npy",
            lambda f: np.array(_store_cases(f)[0].image()),
            ARRAY,
            checked=True,
        ),
        "scan_label.npz": Kind(
            lambda f, v: _write_store(f, v, PART) / "scan_label.npz",
            lambda f: _store_cases(f)[0].scan_label(),
            {"code": crafted.array_with_code},
            checked=True,
        ),
        "mask.npz": Kind(
            _write_mask,
            lambda f: read_prepared_mask(f / "mask.npz", SHAPE, command="evaluate"),
            {"code": crafted.array_with_code},
            checked=True,
        ),
        "label map": Kind(
            _write_label_map,
            lambda f: vars(AnatomyLabels.read(f / "map.npz")),
            {"code": crafted.array_with_code},
            checked=True,
        ),
    },
}
