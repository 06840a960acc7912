"""Parts shared by the tests of the study: invented cases, and the files that a finished run leaves behind."""

from pathlib import Path

import yaml

from engine.report.tables import write_case_table, write_summary
from engine.stages import STAGES, with_variant
from engine.study.runs import Run

CENTRES = ("east", "north", "west")


def case(name: str, dice: float, hd95: float = 5.0, reference_ml: float = 2.0, found_ml: float = 2.0) -> dict:
    row = {"case": name, "centre": name.split("/")[0], "dice": dice, "recall": dice, "precision": dice}
    row |= {"nsd_2mm": dice, "hd95_mm": hd95, "reference_ml": reference_ml, "prediction_ml": found_ml}
    return row | {"reference_lesions": 1, "detected_lesions": 1, "false_positive_components": 0}


def fake_run(folder: Path, run: Run, rows: list[dict], evaluation: str = "evaluation_reference") -> Path:
    """Write the files that a training and its evaluation leave behind, without the weights. Returns the run folder."""
    made = folder / run.variant / f"seed_{run.seed}" / "tumor_coarse" / run.centre / "2026_01_01_00_00_00"
    (made / evaluation).mkdir(parents=True)
    (made / "best.pt").touch()
    settings = {
        "stage": "tumor_coarse",
        "split": run.centre,
        "device": "cpu",
        "network": {"width": 8},
        "method": with_variant(STAGES["tumor_coarse"], run.variant).method.to_record(),
        "sampling": {"hu_window": [-100.0, 240.0]},
        "training": {"epochs": 2, "seed": run.seed},
    }
    (made / "settings.yaml").write_text(yaml.safe_dump(settings))
    (made / "losses.csv").write_text(
        "epoch,lr,loss,validation_dice,seconds\n1,0.01,0.9,0.25,1.5\n2,0.005,0.8,0.125,1.5\n"
    )
    made_with = {"run": made.name, "epoch": 1, "threshold": 0.45, "roi": "reference", "before": {}}
    (made / evaluation / "settings.yaml").write_text(yaml.safe_dump(made_with))
    write_case_table(made / evaluation / "cases.csv", rows)
    write_summary(made / evaluation / "summary.json", rows)
    return made


def options(store: Path, folder: Path, *more: str) -> list[str]:
    """Return the command line of ``run`` on a store of tests."""
    common = ["--store", str(store), "--gpu", "cpu", "--epochs", "2", "--width", "8", "--workers", "0"]
    return ["run", str(folder), *common, *more]


def parse_tables(text: str) -> list[list[list[str]]]:
    """Return the Markdown tables of a text as rows of cells."""
    tables, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            assert line.endswith("|")
            rows.append([cell.strip() for cell in line[1:-1].split("|")])
        elif rows:
            assert {len(row) for row in rows} == {len(rows[0])} and all(set(cell) == {"-"} for cell in rows[1])
            tables.append([rows[0], *rows[2:]])
            rows = []
    return tables
