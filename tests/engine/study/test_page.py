"""The page of a study has its tables, and leads to the reports of its runs."""

import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from engine.study import command as study
from engine.study.condense import condense
from engine.study.runs import Run
from pancreas_dual_task import report
from tests.engine.report.html.pages import Reader
from tests.study_parts import case, fake_run, options

NAN = float("nan")


@pytest.fixture
def finished(study_store, tmp_path, fake_scripts) -> Path:
    """A study of two variants in a folder with a space; one of the two runs of full has a report."""
    folder = tmp_path / "my study"
    fake_scripts()
    assert study.main(options(study_store, folder, "--variants", "baseline", "--centres", "west", "--seeds", "1")) == 0
    shutil.rmtree(folder / "baseline")
    record = yaml.safe_load((folder / "study.yaml").read_text())
    entry = record["tumor_coarse"]
    entry["variants"]["full"], entry["readouts"]["full"] = entry["variants"]["baseline"], "segmentation"
    entry["seeds"] = [1, 2]
    (folder / "study.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
    for variant, seed, gain in (("baseline", 1, 0.0), ("full", 1, 0.1), ("full", 2, 0.2)):
        rows = [case("west/<b>good", 0.7 + gain), case("west/poor", 0.3 + gain)]
        rows += [case("west/lost", 0.05) | {"lost_in": "tumor_coarse" if variant == "full" else ""}]
        rows += [case("west/empty", NAN, NAN, reference_ml=0.0, found_ml=0.0)]
        rows += [{"case": "west/broken", "centre": "west", "error": "cannot be read"}] if variant == "full" else []
        made = fake_run(folder, Run(variant, seed, "west"), rows)
        if (variant, seed) == ("full", 2):
            (made / "evaluation_reference" / "report.html").touch()
    return folder


def test_the_page_has_the_cases_with_the_worst_first_and_links_the_runs(finished, capsys):
    assert report.main([str(finished)]) == 0  # as `study report`
    assert f"report: {finished / 'report.html'}" in capsys.readouterr().out
    page = Reader(finished / "report.html")
    (link,) = [found for found in page.links if not found.startswith(("#", "data:"))]
    assert (finished / unquote(link)).is_file() and "full/seed_2/tumor_coarse/west/" in link and "my" not in link
    cases = [page.text.rindex(name) for name in ("west/lost", "west/poor", "west/<b>good", "west/empty")]
    assert cases == sorted(cases) and not page.all("b")
    values = [float(found["data-value"] or "nan") for found in page.all("td", class_="number")][-16:]
    assert values[:4] == pytest.approx([2.0, 0.05, 0.05, 0.05])
    # The mean over variants, then each variant.
    assert values[4:12] == pytest.approx([2.0, 0.375, 0.3, 0.45, 2.0, 0.775, 0.7, 0.85])
    assert "Dice - baseline" in page.text and "reference mask of pancreas fine" in page.text
    assert page.all("img") and not page.all("section", id="viewer")


def test_the_page_says_in_which_stage_a_case_was_lost(finished):
    assert study.main(["report", str(finished)]) == 0
    page = Reader(finished / "report.html")
    assert page.text.count("baseline: not recorded; full: tumor coarse") == 1  # of the case, once for both seeds
    assert page.text.count("1 of 3: 1 in tumor coarse") == 2  # the runs of full
    assert "As it looks in the reference pancreas, none is lost in pancreas coarse or pancreas fine." in page.text


def test_a_study_of_which_only_the_tables_are_left_has_its_page(finished, tmp_path):
    condense(finished, tmp_path / "condensed")
    shutil.copy(finished / "study.yaml", tmp_path / "condensed")
    assert study.main(["report", str(tmp_path / "condensed")]) == 0
    page = Reader(tmp_path / "condensed" / "report.html")
    assert not [found for found in page.links if not found.startswith(("#", "data:"))]
    assert "west/poor" in page.text and "full: tumor coarse" in page.text
