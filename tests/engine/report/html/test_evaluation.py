"""The report of an evaluation lists the worst cases first, and its links lead to files that exist."""

from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from data.cases.store import read_store
from data.common.errors import InputError
from data.prepare import command as prepare
from engine.report.html.evaluation import badness, candidates_tables, view_case
from engine.report.results import write_results
from engine.report.tables import write_case_table
from tests.conftest import affine_of, save
from tests.engine.detection.scans import scan
from tests.engine.report.html.pages import Reader
from tests.study_parts import case

NAN = float("nan")


def test_cases_are_ordered_by_how_bad_their_result_is():
    rows = [
        case("c/good", 0.9),
        case("c/empty", NAN, reference_ml=0.0, found_ml=0.0),
        case("c/small miss", 0.0, NAN, reference_ml=0.5, found_ml=0.0),
        {"case": "c/failed", "error": "damaged"},
        case("c/poor", 0.2),
        case("c/invented", NAN, NAN, reference_ml=0.0, found_ml=20.0),
        case("c/large miss", 0.0, NAN, reference_ml=9.0, found_ml=0.0),
    ]
    ordered = [row["case"].removeprefix("c/") for row in sorted(rows, key=badness)]
    assert ordered == ["failed", "invented", "large miss", "small miss", "poor", "good", "empty"]


def write(folder: Path, store: Path, target: str) -> Reader:
    cases = {found.key: found for found in read_store(store)["west"]}
    dice = dict(zip(cases, (0.9, 0.1, 0.5), strict=True))
    rows = [case(key, value) for key, value in dice.items()]
    folder.mkdir()
    write_case_table(folder / "cases.csv", rows)
    for key in cases:
        (folder / "predictions").mkdir(exist_ok=True)
        (folder / "predictions" / f"{key.replace('/', '__')}.nii.gz").touch()
    write_results(
        folder,
        rows,
        cases=cases,
        target=target,
        title="tumour",
        heading="tumour coarse, west held out",
        read_prediction=lambda found: np.asarray(found.label()) > 0,
        find_mask=lambda found: folder / "predictions" / f"{found.key.replace('/', '__')}.nii.gz",
        curves=folder.parent / "curves.png",
    )
    return Reader(folder / "report.html")


def test_an_evaluation_writes_its_report(study_store, tmp_path):
    page = write(tmp_path / "evaluation", study_store, "tumour")
    keys = [found["data-key"] for found in page.all("script", class_="case")]
    assert keys == ["west/case1", "west/case2", "west/case0"]  # by their Dice
    files = [link for link in page.links if not link.startswith(("#", "data:"))]
    assert len(files) == 3 and all((tmp_path / "evaluation" / unquote(link)).is_file() for link in files)
    assert len(page.all("img")) == 4  # the distributions and three cases; nobody has drawn curves
    assert "lesions          3 of 3 detected" in page.text and "tumour coarse, west held out" in page.text


def test_candidates_are_listed_with_the_most_confident_first():
    scans = [scan("c/a", {20.0: 0.7, 9.0: 0.0}, (0.8, 0.2)), scan("c/b", {}, (0.4,)), scan("c/c")]
    (table,) = candidates_tables(scans)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["c/a", "false positive", "0.800", "-", "-"],
        ["c/a", "hit", "0.700", "0.500", "20.0"],
        ["c/b", "false positive", "0.400", "-", "-"],
        ["c/a", "false positive", "0.200", "-", "-"],
    ]
    assert [row[0].view for row in table.rows] == ["c/a", "c/a", "c/b", "c/a"] and table.is_sortable
    assert "left out" not in "".join(table.below)
    (short,) = candidates_tables(scans, most=3)
    assert short.rows == table.rows[:3]
    assert short.below[0] == "1 less confident candidates of 4 are left out of this table."
    assert candidates_tables([scan("c/c"), scan("c/d", {9.0: 0.0})]) == candidates_tables([]) == []


def test_the_view_of_a_case_shows_what_was_compared(study_store):
    found = read_store(study_store)["west"][0]
    label, prediction = np.asarray(found.label()), np.zeros(found.shape, bool)
    layers = {layer.name: layer.mask for layer in view_case(found, prediction, "tumour").layers}
    assert list(layers) == ["pancreas (reference)", "reference", "prediction"]
    assert np.array_equal(layers["reference"], label == 2) and np.array_equal(layers["pancreas (reference)"], label > 0)
    layers = {layer.name: layer.mask for layer in view_case(found, prediction, "pancreas").layers}
    assert list(layers) == ["reference", "prediction"] and np.array_equal(layers["reference"], label > 0)


def test_saved_probabilities_are_shown_on_the_voxels_of_the_case(tmp_path):
    affine, scan = affine_of((1, 0, 2), (-1, 1, 1), (3.0, 5.0, 0.0), (3.0, 4.0, 5.0)), np.zeros((20, 24, 10), np.int16)
    scan[4:12, 6:18, 3:8] = 50
    write = {"images": scan, "labels": (scan > 0).astype(np.uint8)}
    for kind, array in write.items():
        (tmp_path / "east" / kind).mkdir(parents=True)
        save(tmp_path / "east" / kind / "a.nii.gz", array, affine)
    options = ["--centre", "east", "--workers", "1", "--store", str(tmp_path / "store"), "--spacing", "6", "5", "5"]
    assert prepare.main(["folder", str(tmp_path / "east"), *options]) == 0
    (found,) = read_store(tmp_path / "store")["east"]
    path = save(tmp_path / "probability.nii.gz", np.where(scan > 0, 0.9, 0.1).astype(np.float32), affine)
    prediction = np.zeros(found.shape, bool)
    (shown,) = view_case(found, prediction, "pancreas", path).maps
    inside = np.asarray(found.label()) > 0
    assert shown.values.shape == found.shape and shown.values[inside].mean() > 0.8 > 0.2 > shown.values[~inside].mean()
    assert view_case(found, prediction, "pancreas", tmp_path / "none.nii.gz").maps == []
    save(path, np.zeros((9, 9, 9), np.float32), affine_of(zooms=(1.0, 1.0, 1.3)))
    with pytest.raises(InputError, match="not on the grid of its scan"):
        view_case(found, prediction, "pancreas", path)
