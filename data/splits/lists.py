"""Splits that a user wrote down: lists of cases in a JSON or CSV file."""

from collections import Counter
from pathlib import Path

from data.cases.case import Case
from data.common.errors import InputError
from data.common.records import read_json
from data.common.text import is_valid_name
from data.sources.tables import read_table, require_columns
from data.splits.split import RESERVED_NAMES, SPLIT_PARTS, Split, select_cases

JSON_SHAPE = '{"train": ["centre/case", ...], "validation": [...], "test": [...]}'


def read_lists(path: Path, centres: dict[str, list[Case]]) -> dict[str, Split]:
    """Read splits from a file.

    A JSON file holds ``{name: {"train": [...], "validation": [...], "test": [...]}}``, or a single such split, which is
    then named after the file. A CSV file has the columns ``case``, ``part`` and, for several splits, ``split``. Cases
    are named ``centre/case``. The validation and test lists may be empty, and not every case of the store has to be
    listed.

    Args:
        path: The file; ``.json`` for JSON, anything else is read as a table.
        centres: The prepared cases by centre.

    Returns:
        The splits by name.

    Raises:
        InputError: If the file cannot be read or a name cannot be used; if a split has no training case, a case that is
            not in the store, a case listed twice, or a patient in two parts.
    """
    usable = 'letters, digits, "_", "-" and "." only'
    if not is_valid_name(path.stem):
        raise InputError(path, "the name of the file cannot be used as a name for splits", f"rename it ({usable})")
    named = _read_from_json(path) if path.suffix.lower() == ".json" else _read_from_table(path)
    splits = {}
    for name, parts in named.items():
        if not is_valid_name(name) or name in (*centres, *RESERVED_NAMES):
            problem = f'"{name}" is the name of a centre or cannot be used as a name for a split'
            raise InputError(path, problem, f"choose another name ({usable})")
        train, validation, test = (tuple(parts.get(part, ())) for part in SPLIT_PARTS)
        splits[name] = Split(name, train, validation, test, kind="list")
        _check_cases(path, splits[name], centres)
    return splits


def _read_from_json(path: Path) -> dict[str, dict[str, list[str]]]:
    remedy = f"write {JSON_SHAPE}, or several of these by name"
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(path, f"the file cannot be read as JSON ({error})", remedy) from error

    def is_split(parts: object) -> bool:
        return (
            isinstance(parts, dict)
            and set(parts) <= set(SPLIT_PARTS)
            and all(isinstance(keys, list) and all(isinstance(key, str) for key in keys) for keys in parts.values())
        )

    if isinstance(content, dict) and set(content) <= set(SPLIT_PARTS):
        content = {path.stem: content}
    if not isinstance(content, dict) or not all(map(is_split, content.values())):
        raise InputError(path, "the file does not hold lists of cases", remedy)
    return content


def _read_from_table(path: Path) -> dict[str, dict[str, list[str]]]:
    rows = read_table(path)
    require_columns(path, rows, "case", "part")
    named: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if row["part"] not in SPLIT_PARTS:
            problem = f"the case {row['case']} is in an unknown part, {row['part']!r}"
            raise InputError(path, problem, f"write one of {', '.join(SPLIT_PARTS)}")
        named.setdefault(row.get("split") or path.stem, {}).setdefault(row["part"], []).append(row["case"])
    return named


def _check_cases(path: Path, split: Split, centres: dict[str, list[Case]]) -> None:
    in_store = {case.key for cases in centres.values() for case in cases}
    if unknown := [key for key in split.all_keys if key not in in_store]:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        problem = f"the split {split.name} lists {unknown[0]}{more}, which the store does not have"
        raise InputError(path, problem, "list prepared cases, each as centre/case")
    if repeated := [key for key, times in Counter(split.all_keys).items() if times > 1]:
        raise InputError(path, f"the split {split.name} lists {repeated[0]} twice", "list each case once")
    if not split.train:
        raise InputError(path, f"the split {split.name} has no training case", 'list at least one under "train"')
    part_of_patient: dict[tuple[str, str], str] = {}
    for part, keys in split.parts.items():
        for case in select_cases(centres, keys):
            first = part_of_patient.setdefault((case.centre, case.patient), part)
            if first != part:
                patient = f"patient {case.patient} of {case.centre} is in {first} and in {part} ({case.key})"
                remedy = "put all scans of a patient into the same part"
                raise InputError(path, f"in the split {split.name}, {patient}", remedy)
