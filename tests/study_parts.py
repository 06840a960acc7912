"""What the tests of the study share: made-up cases, and runs that left them behind."""

from pathlib import Path

from engine.report.tables import write_case_table, write_summary
from engine.study.runs import Run

CENTRES = ("east", "north", "west")


def case(name: str, dice: float, hd95: float = 5.0, reference_ml: float = 2.0, found_ml: float = 2.0) -> dict:
    row = {"case": name, "centre": name.split("/")[0], "dice": dice, "recall": dice, "precision": dice}
    row |= {"nsd_2mm": dice, "hd95_mm": hd95, "reference_ml": reference_ml, "prediction_ml": found_ml}
    return row | {"reference_lesions": 1, "detected_lesions": 1, "false_positive_components": 0}


def fake_run(folder: Path, run: Run, rows: list[dict], evaluation: str = "evaluation_reference") -> Path:
    """What a training and its evaluation leave behind."""
    place = folder / run.variant / f"seed_{run.seed}" / "tumor_coarse" / run.centre / "2026_01_01_00_00_00"
    (place / evaluation).mkdir(parents=True)
    (place / "best.pt").touch()
    write_case_table(place / evaluation / "cases.csv", rows)
    write_summary(place / evaluation / "summary.json", rows)
    return place


def options(store: Path, folder: Path, *more: str) -> list[str]:
    common = ["--store", str(store), "--gpu", "cpu", "--epochs", "2", "--width", "8", "--workers", "0"]
    return ["run", str(folder), *common, *more]


def parse_tables(text: str) -> list[list[list[str]]]:
    """The Markdown tables of a text, as rows of cells."""
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
