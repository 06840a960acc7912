"""An evaluation judges the probabilities of its cases: detection, calibration, and what it leaves behind."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from data.cases.case import read_case, write_case
from data.cases.preparation import Preparation
from data.cases.store import read_store
from data.common.errors import InputError
from data.scans.boxes import Box
from data.scans.grid import Grid, Part
from data.splits.split import Split
from engine.evaluate import stage as evaluate
from engine.evaluate.masks import Reference, read_reference
from engine.evaluate.scores import CaseScores, score_probability
from engine.infer.candidates import find_candidates
from engine.infer.ensemble import NOWHERE, BoxProbability
from engine.infer.models import StageModel
from engine.report.tables import read_case_table
from engine.stages import STAGES
from engine.train.operating_point import choose_score_thresholds, score_case
from models.dual_task_net import DualTaskOutput
from tests.engine.report.html.pages import Reader

CPU = torch.device("cpu")
SPACING = (3.0, 2.0, 2.0)


class Brightness(nn.Module):
    """The probability is the windowed image."""

    def forward(self, x):
        return DualTaskOutput(torch.logit(x.clamp(1e-4, 1 - 1e-4)), None, None, None)


def write_tumour_case(store, name: str, tumour_hu: float, *, labelled: bool, centre: str = "west"):
    """A dark gland with a block of these HU in it, which may be a tumour."""
    label, image = np.zeros((16, 32, 32), np.uint8), np.full((16, 32, 32), -100, np.int16)
    label[4:12, 8:24, 8:24] = 1
    image[6:10, 12:18, 12:18] = tumour_hu
    label[6:10, 12:18, 12:18] += labelled
    facts = {"patient": name, "spacing": SPACING, "grid": Grid.plain(label.shape, SPACING), "source": {}}
    return read_case(write_case(store, centre, name, image, label, **facts))


def model_of(stage: str, run, split_hash: str = "") -> StageModel:
    made = STAGES[stage]
    made = replace(made, sampling=replace(made.sampling, target_mm=SPACING))
    return StageModel(made, Brightness(), "segmentation", 0.5, CPU, run, 1, split_hash, Preparation())


@pytest.fixture
def evaluation(tmp_path):
    """Four held-out cases: a clear tumour (0.9), one below the threshold (0.4), a false positive (0.6), and nothing."""
    store = tmp_path / "store"
    for name, hu, labelled in (("clear", 206, True), ("faint", 36, True), ("false", 104, False), ("free", -100, False)):
        write_tumour_case(store, name, hu, labelled=labelled)
    cases = read_store(store)["west"]
    split = Split("west", (), (), tuple(case.key for case in cases))
    model = replace(model_of("tumor_coarse", tmp_path / "run", split.hash), score_threshold=0.7)

    def run(*options: str) -> evaluate.Evaluation:
        parsed = evaluate.parse(STAGES["tumor_coarse"], ["--roi", "reference", "--data", "west", *options])
        opened = evaluate.open_evaluation(parsed, model, split, cases)
        assert evaluate.run_evaluation(opened) == []
        return opened

    return run


def test_an_evaluation_of_tumours_reports_how_they_are_detected(evaluation, capsys):
    folder = evaluation().folder
    rows = {row["case"].split("/")[1]: row["tumour_score"] for row in read_case_table(folder / "cases.csv")}
    assert rows == pytest.approx({"clear": 0.9, "faint": 0.4, "false": 0.6, "free": 0.0}, abs=0.01)
    figures = json.loads((folder / "detection.json").read_text())
    found = figures["all"]
    assert (found["scans"], found["positive"], found["lesions"]) == (4, 2, 2)
    assert found["auroc"]["value"] == 0.75  # 0.4 is below 0.6
    assert (found["froc"]["0.125"]["value"], found["froc"]["0.25"]["value"]) == (0.5, 1.0)
    assert (found["operating_point"]["sensitivity"]["value"], found["operating_point"]["specificity"]["value"]) == (
        0.5,
        1.0,
    )
    assert found["sizes"]["<20 mm"]["lesions"] == 2 and found["sizes"]["<20 mm"]["found"] == 1
    assert figures["centres"]["west"] == found and figures["calibration"]["error"] > 0
    text = (folder / "detection.txt").read_text()
    assert text in capsys.readouterr().out
    assert "AUROC            0.750\n" in text and "score >= 0.700: sensitivity 0.500, " in text  # too few for intervals
    assert {path.name for path in folder.glob("*.png")} >= {"detection.png", "calibration.png"}
    listed = Reader(folder / "report.html").text.partition("Candidates")[2].split("\n")
    cells = "".join(listed[listed.index("caseresultconfidenceIoUlesion mm") + 1 :])
    order = [cells.index(text) for text in ("west/clearhit0.9", "west/falsefalse positive0.6", "west/fainthit0.4")]
    assert order == sorted(order) and cells.count("west/free") == 0
    page = (folder / "report.html").read_text()
    assert "tumour score" in page and "score &gt;= 0.700: sensitivity 0.500, " in page
    assert "How well scans with a tumour and lesions are found" in page and "by their probability" in page
    assert '"name": "probability"' not in page
    assert not (folder / "probabilities").exists()


def test_saved_probabilities_are_those_of_the_mask_and_a_lost_file_is_made_again(evaluation):
    folder = evaluation().folder
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "masks").iterdir()}
    assert evaluation("--save-probabilities").folder == folder
    assert (folder / "report.html").read_text().count('"name": "probability"') == 4
    for path in (folder / "probabilities").iterdir():
        probability, mask = (
            nib.load(folder / kind / path.name).get_fdata() for kind in ("probabilities", "predictions")
        )
        assert np.array_equal(probability > 0.5, mask > 0)
    written = {path.name: path.stat().st_mtime_ns for path in (folder / "masks").iterdir()}
    assert all(written[name] > before[name] for name in before)
    (folder / "probabilities" / "clear.nii.gz").unlink()
    (folder / "scores" / "faint.json").write_text("{}")
    evaluation("--save-probabilities")
    again = {path.stem for path in (folder / "masks").iterdir() if path.stat().st_mtime_ns > written[path.name]}
    assert again == {"clear", "faint"}


def test_the_command_repeats_that_probabilities_are_saved_and_earlier_stages_need_none(evaluation):
    parsed = evaluate.parse(STAGES["tumor_coarse"], ["--save-probabilities"])
    assert parsed.command().endswith(" --save-probabilities")


def test_lesions_are_compared_on_the_voxels_of_the_scan(tmp_path):
    """The case was resampled to voxels of twice the size; the lesion is drawn on those of the scan."""
    scan_label = np.zeros((8, 16, 16), np.uint8)
    scan_label[2:6, 4:10, 4:10] = 2
    grid = replace(Grid.plain((8, 16, 16), (1.0, 1.0, 1.0)), part=Part((0, 0, 0), (8, 16, 16), (4, 8, 8)))
    label = np.ascontiguousarray(scan_label[::2, ::2, ::2])
    facts = {"patient": "p", "spacing": (2.0, 2.0, 2.0), "grid": grid, "source": {}}
    facts |= {"preparation": Preparation(spacing=(2.0, 2.0, 2.0)), "scan_label": scan_label}
    case = read_case(write_case(tmp_path, "west", "one", label.astype(np.int16), label, **facts))
    box = Box((1, 1, 1), (4, 6, 6))
    values = np.where(label[box.slices] == 2, 0.9, 0.02).astype(np.float32)
    found = BoxProbability(box, values)
    candidates = find_candidates(values, case.spacing)
    scores = score_probability(case, "tumour", found, read_reference(case, "tumour"), candidates)
    (lesion,) = scores.detection.lesions
    assert lesion.iou == 1 and lesion.diameter_mm == pytest.approx((6 * 4 * 6 * 6 / np.pi) ** (1 / 3))
    assert scores.detection.patient == "west/p" and scores.reliability.voxels.sum() == values.size
    nothing = score_probability(
        case, "tumour", NOWHERE, read_reference(case, "tumour"), find_candidates(NOWHERE.values, (1, 1, 1))
    )
    assert nothing.detection.score == 0 and nothing.detection.lesions[0].confidence == 0


@pytest.mark.parametrize("content", ["", "{}", '{"reliability": {"voxels": [1]}, "detection": null}', "[1]"])
def test_damaged_scores_are_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError) as caught:
        CaseScores.read(tmp_path / "a.json")
    assert caught.value.path == tmp_path / "a.json" and "\n" not in str(caught.value)


def test_scores_of_the_pancreas_are_its_calibration_only(tmp_path):
    case = write_tumour_case(tmp_path, "a", 206, labelled=True)
    found = BoxProbability(Box((0, 0, 0), case.shape), np.full(case.shape, 0.5, np.float32))
    reference = Reference(np.asarray(case.label()), SPACING)
    scores = score_probability(case, "pancreas", found, reference, None)
    scores.write(tmp_path / "a.json")
    again = CaseScores.read(tmp_path / "a.json")
    assert again.detection is None and again.reliability.positives.sum() == (case.label() > 0).sum()


@pytest.mark.parametrize("stage", ["tumor_coarse", "tumor_fine"])
def test_the_operating_point_is_chosen_on_the_validation_cases(tmp_path, stage):
    cases = [
        write_tumour_case(tmp_path, name, hu, labelled=labelled)
        for name, hu, labelled in (("a", 206, True), ("b", 172, True), ("c", 36, False), ("d", -100, False))
    ]
    model = model_of(stage, tmp_path)
    scores = [score_case(model, case) for case in cases]
    assert scores == pytest.approx([0.9, 0.8, 0.4, 0.0], abs=0.03)
    chosen = choose_score_thresholds(model, cases, {"segmentation": 0.5})
    assert chosen == {"segmentation score": pytest.approx((scores[1] + scores[2]) / 2)}
    assert choose_score_thresholds(model, cases[:2], {"segmentation": 0.5}) == {}
    assert choose_score_thresholds(model_of("pancreas_fine", tmp_path), cases, {"segmentation": 0.5}) == {}
