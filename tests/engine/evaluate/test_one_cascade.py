"""The evaluation scripts and predict.py are one cascade: they give the same masks, which are scored as written.

The networks are stand-ins whose masks depend on the whole box that they see, as those of real networks do: a region of
interest that differs in one slice shows in the masks of all later stages.
"""

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn

import engine.recipe
from data.augment import Augmentation
from data.cases.case import Case
from data.cases.labels import target_mask
from data.cases.store import read_store
from data.common.errors import InputError
from data.prepare import command as prepare
from data.samples import mask_box, reference_box
from data.scans.volume import read_label
from data.splits.frozen import frozen_splits
from engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from engine.evaluate import folder as score
from engine.evaluate import stage as evaluate
from engine.evaluate.masks import read_prepared_mask, write_prepared_mask
from engine.infer import predict
from engine.metrics import COLUMNS, case_metrics
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.report import results
from engine.report.tables import read_case_table, write_case_table
from engine.stages import STAGES
from models.dual_task_net import DualTaskOutput
from pancreas_dual_task import report
from tests.conftest import affine_of, save

SPACING = ["--spacing", "1.6", "3.5", "3.1"]  # mm; the slices become thinner than those of the scans, the pixels larger
WAYS = {"plain": ["--crop", "none"], "cropped": ["--crop", "body"], "resampled": ["--crop", "body", *SPACING]}
TIME = "2026_01_01_00_00_00"
WRITTEN = re.compile(r"[Ww]ritten on [^<]*")  # in a report


@dataclass(frozen=True)
class World:
    """Scans of a held-out centre, their store, a model of every stage, and what both commands made of them."""

    root: Path
    scans: list[Path]

    @property
    def options(self) -> list[str]:
        return ["--data", "east", "--store", str(self.root / "store"), *self.models]

    @property
    def models(self) -> list[str]:
        return ["--path", str(self.root / "checkpoints"), "--gpu", "cpu"]

    @property
    def cases(self) -> list[Case]:
        return read_store(self.root / "store")["east"]

    def evaluation(self, stage: str) -> Path:
        name = "evaluation_predicted" if STAGES[stage].predecessor else "evaluation"
        return self.root / "checkpoints" / stage / "east" / TIME / name

    def copied_to(self, root: Path) -> "World":
        shutil.copytree(self.root, root)
        return replace(self, root=root)


def write_scan(root: Path, name: str, seed: int, tumour: bool) -> Path:
    """A body in air with a bright gland and an even brighter lesion in it; the label lies within the body."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((30, 44, 48)) - np.array([15, 22, 24]).reshape(3, 1, 1, 1)
    body = (y / 14) ** 2 + (x / 16) ** 2 < 1
    z, y, x = (axis - offset for axis, offset in zip((z, y, x), rng.uniform(-2, 2, 3), strict=True))
    gland = (z / 4) ** 2 + (y / 5) ** 2 + (x / 8) ** 2 < 1
    lesion = gland & ((z / 3) ** 2 + (y / 3) ** 2 + ((x - 3) / 4) ** 2 < 1) & tumour
    texture = ndimage.gaussian_filter(rng.normal(size=z.shape), 1.5)
    image = np.where(body, 20 + 20 * texture / texture.std() + 90 * gland + 90 * lesion, -1000)
    affine = affine_of((1, 0, 2), (-1, 1, -1), (3.0, 5.0, 0.0), (2.6, 2.4, 4.1))
    for kind, array in (("images", image.astype(np.int16)), ("labels", gland + lesion.astype(np.uint8))):
        (root / kind).mkdir(parents=True, exist_ok=True)
        save(root / kind / f"{name}.nii.gz", array.T, affine)
    return root / "images" / f"{name}.nii.gz"


class BrighterThanTheBox(nn.Module):
    """Marks what is brighter than the mean of the box by ``offset`` (in shares of the HU window)."""

    def __init__(self, **_: object) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> DualTaskOutput:
        return DualTaskOutput(40 * (F.avg_pool3d(x, 3, 1, 1) - x.mean() - self.offset), None, None, None)


def write_model(root: Path, stage_name: str, case: Case, split_hash: str) -> None:
    """A checkpoint whose network marks the target of the stage in the box of the reference."""
    stage = STAGES[stage_name]
    sampling = stage.sampling
    box = reference_box(case, sampling)
    image, target = case.image()[box.slices], target_mask(case.label()[box.slices], sampling.target) > 0
    low, high = sampling.hu_window
    mean = ((np.clip(image, low, high) - low) / (high - low)).mean()
    dimmest = (np.median(image[target]) - 50 - low) / (high - low)
    checkpoint = Checkpoint(
        stage=stage_name,
        split="east",
        split_hash=split_hash,
        data_hash="",
        recipe=Recipe(
            NetworkSettings(), stage.method, sampling, Augmentation(), TrainSettings(epochs=1), case.preparation
        ),
        spacing_range=None,
        epoch=1,
        net={"offset": torch.tensor(dimmest - mean, dtype=torch.float32)},
        thresholds={"segmentation": 0.5},
    )
    save_checkpoint(root / "checkpoints" / stage_name / "east" / TIME / "best.pt", checkpoint)


@pytest.fixture(scope="module", autouse=True)
def _stand_in_networks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.recipe, "DualTaskNet", BrighterThanTheBox)
        yield


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    for number, centre in enumerate(("west", "east")):
        for index in range(2):
            write_scan(root / centre, f"scan{index}", 10 * number + index, tumour=index == 0)
    return root


@pytest.fixture(scope="module", params=WAYS)
def world(request, scans, tmp_path_factory) -> World:
    """The four stages evaluated in their order, and the same scans given to predict.py."""
    root = tmp_path_factory.mktemp(request.param)
    for centre in ("west", "east"):
        options = ["--centre", centre, "--workers", "1", "--store", str(root / "store"), *WAYS[request.param]]
        assert prepare.main(["folder", str(scans / centre), *options]) == 0
    centres = read_store(root / "store")
    split = frozen_splits(root / "store", centres)["east"]
    for stage in STAGES:
        write_model(root, stage, centres["west"][0], split.hash)
    world = World(root, sorted((scans / "east" / "images").iterdir()))
    for stage in STAGES:
        assert evaluate.main(stage, world.options) == 0
    arguments = [*map(str, world.scans), "-o", str(root / "predicted"), "--data", "east", *world.models]
    assert predict.main(arguments) == 0
    return world


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_both_commands_give_the_same_mask_voxel_for_voxel(world):
    for scan, case in zip(world.scans, world.cases, strict=True):
        name = scan.name.removesuffix(".nii.gz")
        predicted = read(world.root / "predicted" / f"{name}_pancreas_tumour.nii.gz")
        pancreas, tumour = (
            read(world.evaluation(stage) / "predictions" / f"{case.name}.nii.gz") > 0
            for stage in ("pancreas_fine", "tumor_fine")
        )
        assert case.name == name and predicted.shape == read(scan).shape
        assert np.array_equal(predicted, np.where(tumour, 2, pancreas))
        assert pancreas.any() and pancreas.mean() < 0.3 and tumour.any() >= (case.tumour_box is not None)


def test_a_kept_mask_is_complete_where_the_written_prediction_has_too_thick_slices_to_hold_it(world):
    """Otherwise the next stage would look in another box, which makes the comparison of the commands above strict."""
    boxes = []
    for stage in STAGES:
        for case in world.cases:
            folder = world.evaluation(stage)
            kept = read_prepared_mask(folder / "masks" / f"{case.name}.npz", case.shape, command="")
            file = read_label(folder / "predictions" / f"{case.name}.nii.gz").array
            assert np.array_equal(case.grid.to_lps(case.grid.to_file(kept)), file)
            through_file = case.grid.to_prepared(file)
            if case.shape == case.scan_label().shape:
                assert np.array_equal(kept, through_file)
            boxes.append([mask_box(mask, case.spacing, STAGES[stage].sampling) for mask in (kept, through_file)])
    was_resampled = world.cases[0].shape != world.cases[0].scan_label().shape
    assert any(box != box_through_file for box, box_through_file in boxes) == was_resampled


def test_scores_are_those_of_the_written_mask_against_the_label_as_it_was_drawn(world, scans):
    for stage in STAGES:
        target = STAGES[stage].sampling.target
        rows = {row["case"]: row for row in read_case_table(world.evaluation(stage) / "cases.csv")}
        for case in world.cases:
            prediction = read_label(world.evaluation(stage) / "predictions" / f"{case.name}.nii.gz")
            drawn = read_label(scans / "east" / "labels" / f"{case.name}.nii.gz").array
            part = case.grid.part.slices if case.grid.part else ...
            expected = case_metrics(prediction.array[part], target_mask(drawn, target)[part], prediction.spacing)
            scores = {name: rows[case.key][name] for name in COLUMNS}
            assert scores == pytest.approx(expected, nan_ok=True, rel=1e-12)


@pytest.mark.parametrize("stage", ["pancreas_fine", "tumor_fine"])
def test_a_folder_with_the_same_masks_gets_the_same_scores(world, tmp_path, stage):
    options = ["--predictions", str(world.evaluation(stage) / "predictions"), "--store", str(world.root / "store")]
    more = ["--stage", stage, "--centre", "east", "--values", "mask", "--out", str(tmp_path / "out")]
    assert score.main([*options, *more]) == 0
    tables = [read_case_table(folder / "cases.csv") for folder in (tmp_path / "out", world.evaluation(stage))]
    for folder_row, evaluation_row in zip(*tables, strict=True):
        assert str([folder_row[name] for name in COLUMNS]) == str([evaluation_row[name] for name in COLUMNS])


@pytest.mark.parametrize("world", ["resampled"], indirect=True)
@pytest.mark.parametrize("damage", ["missing", "truncated", "of another case"])
def test_a_lost_mask_is_made_again_by_the_command_that_the_next_stage_names(world, tmp_path, capsys, damage):
    world = world.copied_to(tmp_path / "world")
    lost = world.evaluation("pancreas_coarse") / "masks" / "scan0.npz"
    content = lost.read_bytes()
    lost.unlink()
    if damage == "truncated":
        lost.write_bytes(content[: len(content) // 2])
    elif damage == "of another case":
        write_prepared_mask(lost, np.ones((3, 4, 5), bool))
    shutil.rmtree(world.evaluation("pancreas_fine"))
    assert evaluate.main("pancreas_fine", world.options) == 2
    places = f"--data east --store {world.root / 'store'} --path {world.root / 'checkpoints'}"
    (fault,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert fault.startswith(f"error: east/scan0: {lost}: ")
    assert fault.endswith(
        f"Run this evaluation again: python evaluate_pancreas/evaluate_sh_pancreas_coarse.py {places}"
    )
    other = world.evaluation("pancreas_coarse") / "masks" / "scan1.npz"
    before = other.stat().st_mtime_ns
    assert evaluate.main("pancreas_coarse", world.options) == 0
    assert np.array_equal(*(np.load(file)["bits"] for file in (lost, backup(content, tmp_path))))
    assert other.stat().st_mtime_ns == before  # the other case was done
    assert evaluate.main("pancreas_fine", world.options) == 0


def blind(world: World, *stages: str) -> None:
    """Let stages find nothing, and evaluate the whole cascade anew."""
    for stage in STAGES:
        if stage in stages:
            best = world.evaluation(stage).parent / "best.pt"
            checkpoint = load_checkpoint(best, stage)
            save_checkpoint(best, replace(checkpoint, net={"offset": torch.tensor(9.0)}))
        shutil.rmtree(world.evaluation(stage))
        assert evaluate.main(stage, world.options) == 0


@pytest.mark.parametrize("world", ["cropped"], indirect=True)
@pytest.mark.parametrize(
    ("blinded", "expected"),
    [
        (["tumor_fine"], "tumor_fine"),
        (["tumor_coarse"], ""),  # tumour fine then searches the pancreas, and finds the tumour
        (["tumor_coarse", "tumor_fine"], "tumor_coarse"),
        (["pancreas_coarse"], "pancreas_coarse"),
    ],
)
def test_a_lost_case_says_which_stage_lost_it(world, tmp_path, blinded, expected):
    world = world.copied_to(tmp_path / "world")
    blind(world, *blinded)
    folder = world.evaluation("tumor_fine")
    with_tumour, without = (row.get("lost_in", "") for row in read_case_table(folder / "cases.csv"))
    assert (with_tumour, without) == (expected, "")
    assert "lost_in" in (folder / "cases.csv").read_text().splitlines()[0].split(",")
    where = f"1 of 1: 1 in {STAGES[expected].title}" if expected else "0 of 1"
    assert f"\nlost             {where} (Dice below 0.1)\n" in (folder / "summary.txt").read_text()
    counted = {expected: 1} if expected else {}
    lost = json.loads((folder / "summary.json").read_text())["lost"]
    assert lost == {"with_target": 1, "lost": len(counted), "stages": counted}
    if not expected:
        return
    table = read_case_table(folder / "cases.csv")  # as an earlier version wrote it
    write_case_table(folder / "cases.csv", [{k: v for k, v in row.items() if k != "lost_in"} for row in table])
    assert evaluate.main("tumor_fine", world.options) == 0
    assert {row["case"]: row.get("lost_in", "") for row in read_case_table(folder / "cases.csv")} == {
        case.key: expected if case.tumour_box else "" for case in world.cases
    }


@pytest.mark.parametrize("world", ["plain"], indirect=True)
def test_what_speaks_against_a_mask_is_in_the_table_and_on_the_picture(world, tmp_path, monkeypatch):
    world = world.copied_to(tmp_path / "world")
    shutil.rmtree(world.evaluation("pancreas_coarse"))
    shown = []
    monkeypatch.setattr(results, "draw_overlay", lambda path, *_, doubts, notes, **__: shown.append((doubts, notes)))
    monkeypatch.setattr(evaluate, "find_doubts", lambda image: ("the values are no HU",) if image.any() else ())
    monkeypatch.setattr(evaluate, "select_roi", lambda *_: (None, "a remark"))
    assert evaluate.main("pancreas_coarse", world.options) == 0
    rows = read_case_table(world.evaluation("pancreas_coarse") / "cases.csv")
    assert {(row["unreliable"], row["note"]) for row in rows} == {("yes", "the values are no HU; a remark")}
    assert set(shown) == {(("the values are no HU; a remark",), ())}
    shown.clear()
    shutil.rmtree(world.evaluation("pancreas_coarse"))
    monkeypatch.setattr(evaluate, "find_doubts", lambda image: ())
    assert evaluate.main("pancreas_coarse", world.options) == 0
    assert set(shown) == {((), ("a remark",))}
    table = world.evaluation("pancreas_coarse") / "cases.csv"
    content = table.read_text()
    (table.parent / "masks" / "scan1.npz").unlink()  # made again: the columns stay, also those that are empty
    assert evaluate.main("pancreas_coarse", world.options) == 0
    assert table.read_text().splitlines()[0] == content.splitlines()[0]
    earlier = [{k: v for k, v in row.items() if k != "unreliable"} for row in read_case_table(table)]
    write_case_table(table, earlier)  # as an earlier version wrote it, which did not say what is reliable
    monkeypatch.setattr(evaluate, "find_doubts", lambda image: ("the values are no HU",))
    assert evaluate.main("pancreas_coarse", world.options) == 0
    assert {row["unreliable"] for row in read_case_table(table)} == {"yes"}


@pytest.mark.parametrize("world", ["resampled"], indirect=True)
def test_the_reports_of_a_run_are_written_again_from_its_evaluations(world, tmp_path, capsys):
    world = world.copied_to(tmp_path / "world")
    folder = world.evaluation("tumor_fine")
    before = (folder / "report.html").read_text()
    table = (folder / "cases.csv").read_bytes()
    (folder / "report.html").unlink()
    with (folder.parent / "settings.yaml").open("w") as file:  # of a training, which made no such run here
        file.write("stage: tumor_fine\nsplit: east\n")
    assert report.main([str(folder.parent), "--store", str(world.root / "store")]) == 0
    assert f"report: {folder / 'report.html'}" in capsys.readouterr().out
    assert WRITTEN.sub("", (folder / "report.html").read_text()) == WRITTEN.sub("", before)
    assert (folder / "cases.csv").read_bytes() == table
    assert report.main([str(folder), "--store", str(tmp_path)]) == 2
    (world.root / "store" / "splits.json").unlink()
    shutil.rmtree(world.root / "store" / "east" / "scan1")
    assert report.main([str(folder), "--store", str(world.root / "store")]) == 2
    assert "has the case east/scan1, which" in capsys.readouterr().err


def backup(content: bytes, folder: Path) -> Path:
    path = folder / "backup.npz"
    path.write_bytes(content)
    return path


def test_a_mask_is_read_as_it_was_written(tmp_path):
    mask = np.random.default_rng(0).random((3, 5, 7)) < 0.5
    write_prepared_mask(tmp_path / "new" / "mask.npz", mask)
    assert np.array_equal(read_prepared_mask(tmp_path / "new" / "mask.npz", mask.shape, command=""), mask)
    with pytest.raises(InputError) as error:
        read_prepared_mask(tmp_path / "none.npz", mask.shape, command="python x.py")
    assert (error.value.path, error.value.command) == (tmp_path / "none.npz", "python x.py")
