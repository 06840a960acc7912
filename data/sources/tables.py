"""Read the tables that come with data sets (.csv or .xlsx) as text."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.common.errors import InputError

TableRow = dict[str, str]


def read_table(path: Path) -> list[TableRow]:
    """Read a table whose first line names its columns.

    A .csv file is separated by commas or semicolons, whichever its first line has more of. Of an .xlsx file, which
    needs the package openpyxl, the first sheet is read.

    Args:
        path: File of the table.

    Returns:
        One dictionary per row that is not empty, with a value for every column. Values are text without surrounding
        blanks; a missing cell is "".

    Raises:
        InputError: If the file is missing, empty or not a table.
    """
    try:
        lines = _read_xlsx(path) if path.suffix.lower() == ".xlsx" else _read_csv(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            path, f"not readable as a table ({error})", "check the file, or save the table as CSV in UTF-8"
        ) from error
    lines = [[cell.strip() for cell in line] for line in lines]
    lines = [line for line in lines if any(line)]
    if not lines:
        raise InputError(path, "the table is empty", "check the file")
    names, *rows = lines
    return [dict(zip(names, [*row, *[""] * (len(names) - len(row))], strict=False)) for row in rows]


def find_table(folders: Iterable[Path], stem: str) -> Path | None:
    """Find ``stem``.csv or ``stem``.xlsx in the first of the folders that has one; a folder's .csv comes first."""
    choices = [folder / f"{stem}{suffix}" for folder in folders for suffix in (".csv", ".xlsx")]
    return next((path for path in choices if path.is_file()), None)


def require_columns(path: Path, rows: Sequence[TableRow], *names: str) -> None:
    """Check that a table has certain columns.

    Args:
        path: File of the table, for messages.
        rows: Its rows.
        *names: The columns that it must have.

    Raises:
        InputError: If one of them is missing.
    """
    columns = rows[0].keys() if rows else ()
    for name in names:
        if name not in columns:
            problem = f"it has no column {name!r} (its columns: {', '.join(columns) or 'none'})"
            raise InputError(path, problem, "check that it is the right table, or name the column so")


def _read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        file.seek(0)
        return list(csv.reader(file, delimiter=";" if first.count(";") > first.count(",") else ",", strict=True))


def _read_xlsx(path: Path) -> list[list[str]]:
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise InputError(
            path,
            "reading .xlsx files needs the package openpyxl",
            f"save the table as {path.with_suffix('.csv').name} beside it, or install the package",
            command="pip install openpyxl",
        ) from error
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        return [["" if cell is None else str(cell) for cell in row] for row in book.worksheets[0].values]
    except OSError:
        raise
    except Exception as error:  # openpyxl passes on whatever the zip and XML readers raise for a damaged file
        problem = f"not a readable .xlsx file ({error})"
        raise InputError(path, problem, "download it again, or save it as CSV") from error
