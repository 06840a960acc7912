"""What --save-probabilities writes beside the mask, and what an ensemble adds to the table of volumes."""

import csv
import json
import re
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from data.cases.preparation import Preparation
from data.common.errors import InputError
from data.scans.boxes import Box
from data.scans.probability import read_probability
from data.scans.volume import read_image
from engine.infer import predict, prepared
from engine.infer import scan as scan_steps
from engine.infer.candidates import find_candidates
from engine.infer.cascade import CascadeResult
from engine.infer.ensemble import DISAGREEMENT_LIMIT, BoxProbability, Opinions
from engine.infer.maps import find_confidences
from engine.infer.volumes import COLUMNS, LATER, PredictionFolder
from engine.stages import STAGES
from tests.conftest import affine_of, save
from tests.engine.report.html.pages import Reader
from tests.engine.report.html.test_viewer import unpack

BOX = Box((1, 4, 5), (9, 30, 35))


@pytest.fixture
def cascade(monkeypatch, tmp_path):
    """In the place of the models: tissue is pancreas, and what is brighter has a probability."""
    settings = SimpleNamespace(members=(), disagreement=0.1, sha256="of the network", score_threshold=None, kept=[])

    def segment(models, image, spacing, *, keep=()):
        settings.kept.append(tuple(keep))
        values = np.clip(image[BOX.slices] / 1000, 0, 1).astype(np.float32)
        opinions = Opinions(values / 2, settings.disagreement) if settings.members else None
        found = {name: BoxProbability(BOX, values, opinions) for name in keep}
        return CascadeResult((image > -300).astype(np.uint8), (), (), find_candidates(values, spacing), found)

    def load(options):
        stage = STAGES["pancreas_coarse"]
        facts = {"stage": stage, "run": tmp_path, "readout": "segmentation", "threshold": 0.5}
        facts |= {"fast": False, "confirms": False, "only_synthetic": False}
        device = torch.device("cpu")
        facts |= {name: getattr(settings, name) for name in ("members", "sha256", "score_threshold")}
        return {"tumor_fine": SimpleNamespace(preparation=Preparation(), device=device, **facts)}

    monkeypatch.setattr(predict, "load_models", load)
    monkeypatch.setattr(prepared, "segment_scan", segment)
    monkeypatch.setattr(prepared, "find_doubts", lambda scan: ())
    monkeypatch.setattr(prepared, "find_doubts_of_length", lambda grid: ())
    return settings


@pytest.fixture
def scan(tmp_path) -> np.ndarray:
    """A scan whose file runs from head to feet; in LPS a lesion of 0.8 and a smaller one of 0.4."""
    image = np.full((10, 40, 40), -1000, np.int16)
    image[2:8, 10:30, 10:30] = 40
    image[4:6, 12:16, 12:16], image[4:6, 22:25, 22:25] = 800, 400
    save(tmp_path / "a.nii.gz", image[::-1].T, affine_of(signs=(-1, -1, -1), zooms=(2.0, 2.0, 5.0)))
    return image


def row_of(out) -> dict[str, str]:
    with (out / "volumes.csv").open() as file:
        (row,) = csv.DictReader(file)
    return row


def test_maps_and_candidates_lie_in_the_scan(cascade, scan, tmp_path):
    out = tmp_path / "out"
    arguments = [str(tmp_path / "a.nii.gz"), "-o", str(out), "--save-probabilities"]
    assert predict.main(arguments) == 0
    expected = np.zeros(scan.shape)
    expected[BOX.slices] = np.clip(scan[BOX.slices] / 1000, 0, 1)
    for target in ("pancreas", "tumour"):
        file = nib.load(out / f"a_{target}_probability.nii.gz")
        assert np.abs(file.get_fdata().T[::-1] - expected).max() < 0.003
    with (out / "a_candidates.csv").open() as table:
        first, second = csv.DictReader(table)
    assert (first["confidence"], second["confidence"]) == ("0.8", "0.4")
    assert float(first["volume_ml"]) == 2 * 4 * 4 * 20 / 1000 and float(first["diameter_mm"]) == 10.7
    place = np.array([float(second[f"{axis}_mm"]) for axis in "xyz"]) * (-1, -1, 1)  # from LPS to nibabel's RAS
    voxel = np.rint(np.linalg.inv(file.affine) @ [*place, 1])[:3].astype(int)
    assert file.get_fdata()[tuple(voxel)] == pytest.approx(0.4, abs=0.003)
    row = row_of(out)
    assert (row["tumour_score"], row["tumour_disagreement"], row["unreliable"]) == ("0.8", "", "")
    assert not list(out.glob("*uncertainty*"))


def test_a_scan_without_its_maps_is_segmented_again_and_old_maps_do_not_stay(cascade, scan, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(tmp_path / "a.nii.gz"), "-o", str(out)]
    assert predict.main(arguments) == 0 and cascade.kept == [()] and not list(out.glob("a_*_*y.nii.gz"))
    assert predict.main([*arguments, "--save-probabilities"]) == 0
    assert cascade.kept[1:] == [("pancreas_fine", "tumor_fine")]
    assert predict.main([*arguments, "--save-probabilities"]) == 0 and predict.main(arguments) == 0
    assert len(cascade.kept) == 2 and capsys.readouterr().out.count("already segmented") == 2
    cascade.sha256 = "of another network"
    assert predict.main(arguments) == 0
    assert len(cascade.kept) == 3 and [p.name for p in out.glob("a_*")] == ["a_pancreas_tumour.nii.gz"]


@pytest.mark.parametrize("disagreement", [DISAGREEMENT_LIMIT, DISAGREEMENT_LIMIT + 0.01])
def test_an_ensemble_that_disagrees_is_a_doubt(cascade, scan, tmp_path, disagreement):
    cascade.members = tuple(SimpleNamespace(run=tmp_path / name, sha256=name) for name in ("east", "west"))
    cascade.disagreement = disagreement
    words = [str(tmp_path / "a.nii.gz"), "-o", str(tmp_path / "out"), "--save-probabilities", "--report"]
    assert predict.main(words) == 0
    row = row_of(tmp_path / "out")
    assert float(row["pancreas_disagreement"]) == float(row["tumour_disagreement"]) == pytest.approx(disagreement)
    assert (row["unreliable"] == "yes") == (disagreement > DISAGREEMENT_LIMIT)
    assert ("disagree on the tumour (mean Dice of two of them 0.69" in row["note"]) == (row["unreliable"] == "yes")
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{tmp_path / 'east'}, {tmp_path / 'west'}, threshold" in page
    assert ("disagree on the tumour" in page) == (row["unreliable"] == "yes")
    maps = [
        nib.load(tmp_path / "out" / f"a_tumour_{kind}.nii.gz").get_fdata() for kind in ("probability", "uncertainty")
    ]
    assert maps[0].max() > 0.7 and np.abs(maps[1] - maps[0] / 2).max() < 0.005
    names = [f"{kind} of the {target}" for target in ("pancreas", "tumour") for kind in ("probability", "uncertainty")]
    (content,) = re.findall(r'class="case"[^>]*>(.*?)</script>', page)
    shown = {found["name"]: unpack(found["values"]).get_fdata().max() for found in json.loads(content)["maps"]}
    assert list(shown) == names and list(shown.values()) == pytest.approx([0.8, 0.4, 0.8, 0.4], abs=0.005)


def test_an_ensemble_is_another_model_than_its_first_network_and_than_one_with_another_member():
    def hash_with(*members: str) -> str:
        facts = {"sha256": "1", "readout": "segmentation", "threshold": 0.5, "fast": False, "confirms": False}
        return scan_steps.hash_models(
            {"x": SimpleNamespace(members=[SimpleNamespace(sha256=member) for member in members], **facts)}
        )

    assert len({hash_with(), hash_with("1", "1"), hash_with("1", "2"), hash_with("1", "2", "3")}) == 4


def test_what_was_found_without_confirmation_is_not_taken_for_what_was_confirmed():
    facts = {"sha256": "1", "readout": "segmentation", "threshold": 0.5, "fast": False, "members": ()}
    models = [SimpleNamespace(confirms=confirms, **facts) for confirms in (False, True)]
    assert len({scan_steps.hash_models({"x": model}) for model in models}) == 2


def test_the_confidences_lie_in_the_voxels_of_their_candidates(scan):
    values = np.clip(scan[BOX.slices] / 1000, 0, 1).astype(np.float32)
    label, candidates = np.zeros(scan.shape, np.uint8), find_candidates(values, (5.0, 2.0, 2.0))
    result = CascadeResult(label, (), (), candidates, {"tumor_fine": BoxProbability(BOX, values)})
    expected = np.where(scan == 800, 0.8, np.where(scan == 400, 0.4, 0))
    np.testing.assert_allclose(find_confidences(result), expected, atol=1e-6)
    assert not find_confidences(CascadeResult(label, ())).any()  # no pancreas, thus no candidates


def test_saved_maps_are_shown_in_the_report(cascade, scan, tmp_path):
    out = tmp_path / "out"
    assert predict.main([str(tmp_path / "a.nii.gz"), "-o", str(out), "--save-probabilities", "--report"]) == 0
    page = (out / "report.html").read_text()
    assert page.count('"name": "probability of the pancreas"') == page.count('"name": "probability of the tumour"') == 1
    assert '"name": "uncertainty' not in page
    assert "a_candidates.csv" in Reader(out / "report.html").links
    volume = read_image(tmp_path / "a.nii.gz")
    shown = read_probability(out / "a_tumour_probability.nii.gz", volume.grid)
    assert shown.shape == volume.array.shape and shown[5, 13, 13] == pytest.approx(0.8, abs=0.003)
    assert shown[5, 23, 23] == pytest.approx(0.4, abs=0.003) and shown.max() <= 1


@pytest.mark.parametrize(("threshold", "positive"), [(0.75, "yes"), (0.85, "no"), (None, "")])
def test_a_scan_is_positive_from_the_operating_point_on(cascade, scan, tmp_path, capsys, threshold, positive):
    cascade.score_threshold, out = threshold, tmp_path / "out"
    assert predict.main([str(tmp_path / "a.nii.gz"), "-o", str(out), "--report"]) == 0
    row = row_of(out)
    assert (row["tumour_score"], row["tumour_positive"]) == ("0.8", positive)
    page = Reader(out / "report.html").text
    line = f"operating point  a tumour score of at least {threshold:.3f} counts as positive" if threshold else ""
    assert line in page and line in capsys.readouterr().out and ("operating point" in page) == bool(threshold)
    assert f"0.800{positive or '-'}maskpicture" in page.replace("\n", "")


def test_a_scan_without_a_plausible_pancreas_is_not_called_negative(cascade, scan, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.infer.prepared.find_doubts_of_size", lambda pancreas_ml: ("too little for a pancreas",))
    cascade.score_threshold, out = 0.85, tmp_path / "out"
    assert predict.main([str(tmp_path / "a.nii.gz"), "-o", str(out)]) == 0
    assert row_of(out)["tumour_positive"] == "unclear"


@pytest.mark.parametrize("missing", [LATER, ("tumour_positive",)])
def test_a_table_of_an_earlier_version_gets_the_new_columns(tmp_path, missing):
    earlier = {"case": "a", "scan": "/a.nii", "made_from": "abc"}
    header = [column for column in COLUMNS if column not in missing]
    rows = [header, [earlier.get(column, "") for column in header]]
    (tmp_path / "volumes.csv").write_text("".join(f"{','.join(row)}\n" for row in rows))
    folder = PredictionFolder(tmp_path)
    assert folder.read_rows() == [{column: earlier.get(column, "") for column in COLUMNS}]
    folder.put({"case": "b", "scan": "/b.nii", "tumour_score": 0.5, "tumour_positive": "yes"})
    assert [row["tumour_positive"] for row in folder.read_rows()] == ["", "yes"]


def test_a_table_that_lacks_another_column_is_refused(tmp_path):
    (tmp_path / "volumes.csv").write_text(",".join(column for column in COLUMNS if column != "note") + "\n")
    with pytest.raises(InputError, match="not a table that this command wrote"):
        PredictionFolder(tmp_path).read_rows()
