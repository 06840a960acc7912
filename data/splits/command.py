"""Splits beside leaving one centre out: a cross-validation, and fixed lists; and the command that adds them
(python -m data.splits) and shows all as a table.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from data.cases.store import DEFAULT_STORE, Case, read_store
from data.common.errors import InputError, command
from data.common.text import is_valid_name
from data.sources.tables import read_table, require_columns
from data.splits.leave_one_out import (
    FOLDS,
    NONE_HELD_OUT,
    SPLIT_PARTS,
    Split,
    drawn_patients,
    freeze,
    frozen_splits,
    read_splits,
    select,
)

LEAST_FOLDS = 3  # one tests, one validates, and something is left to train on


def make_folds(centres: dict[str, list[Case]], folds: int, name: str = FOLDS) -> dict[str, Split]:
    """A cross-validation inside these centres: the splits ``name_1`` to ``name_<folds>``.

    Each part of the patients is tested on once, and validated on in the split before. Every centre is spread over
    all parts, its patients with a tumour apart from those without. Raises InputError for more folds than patients.
    """
    if folds < LEAST_FOLDS:
        raise InputError(f"--folds {folds}: one part tests, one validates; give {LEAST_FOLDS} or more")
    part_of: dict[str, int] = {}
    dealt = 0  # goes on from group to group, so that the first part does not get the odd patient of each
    for cases in centres.values():
        for patients in drawn_patients(cases):
            fold_of = {patient: (dealt + i) % folds for i, patient in enumerate(patients)}
            part_of |= {case.key: fold_of[case.patient] for case in cases if case.patient in fold_of}
            dealt += len(patients)
    if dealt < folds:
        raise InputError(f"--folds {folds}: there are only {dealt} patients; give fewer folds")
    splits = {}
    for fold in range(folds):
        role = {fold: "test", (fold + 1) % folds: "validation"}
        keys = {part: tuple(key for key in part_of if role.get(part_of[key], "train") == part) for part in SPLIT_PARTS}
        splits[f"{name}_{fold + 1}"] = Split(f"{name}_{fold + 1}", **keys)
    return splits


def read_lists(path: Path, centres: dict[str, list[Case]]) -> dict[str, Split]:
    """Splits from a file that a user wrote.

    JSON: ``{name: {"train": [...], "validation": [...], "test": [...]}}`` or one such split alone, which is then
    called like the file. CSV: columns ``case``, ``part`` and, for several splits, ``split``. Cases are named
    ``centre/case``; validation and test may be empty, and cases of the store left out.

    Raises InputError for anything else, for a case that the store has not, one that is named twice, and a patient on
    two sides of a split.
    """
    if path.stem.endswith(FOLDS) or not is_valid_name(path.stem):
        raise InputError(f"{path}: its name names the lists; use letters, digits, _ - . only, not ending in {FOLDS}")
    named = _from_json(path) if path.suffix.lower() == ".json" else _from_table(path)
    splits = {}
    for name, parts in named.items():
        if not is_valid_name(name) or name in (*centres, NONE_HELD_OUT):
            raise InputError(f"{path}: split {name}: a centre's name or not usable as a name; call it otherwise")
        splits[name] = Split(name, **{part: tuple(parts.get(part, ())) for part in SPLIT_PARTS})
        _check_list(path, splits[name], centres)
    return splits


def _from_json(path: Path) -> dict[str, dict[str, list[str]]]:
    shape = '{"train": ["centre/case", ...], "validation": [...], "test": [...]} or names of such'
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); write {shape}") from error
    if isinstance(content, dict) and set(content) <= set(SPLIT_PARTS):
        content = {path.stem: content}
    sound = isinstance(content, dict) and all(
        isinstance(parts, dict) and set(parts) <= set(SPLIT_PARTS) and all(map(_is_list_of_text, parts.values()))
        for parts in content.values()
    )
    if not sound:
        raise InputError(f"{path}: not lists of cases; write {shape}")
    return content


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _from_table(path: Path) -> dict[str, dict[str, list[str]]]:
    rows = read_table(path)
    require_columns(path, rows, "case", "part")
    named: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if row.get("part") not in SPLIT_PARTS:
            raise InputError(
                f"{path}: part {row.get('part')!r} of {row['case']}; write one of {', '.join(SPLIT_PARTS)}"
            )
        named.setdefault(row.get("split") or path.stem, {}).setdefault(row["part"], []).append(row["case"])
    return named


def _check_list(path: Path, split: Split, centres: dict[str, list[Case]]) -> None:
    where = f"{path}: split {split.name}"
    known = {case.key for cases in centres.values() for case in cases}
    keys = [key for part in SPLIT_PARTS for key in getattr(split, part)]
    if unknown := [key for key in keys if key not in known]:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise InputError(f"{where}: the store has no case {unknown[0]}{more}; name prepared cases as centre/case")
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise InputError(f"{where}: names {twice[0]} twice; name each case once")
    if not split.train:
        raise InputError(f"{where}: has no training case; list some under train")
    side: dict[tuple[str, str], str] = {}
    for part in SPLIT_PARTS:
        for case in select(centres, getattr(split, part)):
            before = side.setdefault((case.centre, case.patient), part)
            if before != part:
                who = f"patient {case.patient} of {case.centre} is in {before} and in {part} ({case.key})"
                raise InputError(f"{where}: {who}; keep all scans of a patient on one side")


def table(splits: dict[str, Split], centres: dict[str, list[Case]]) -> str:
    """One row per split and part: cases/patients/patients with a tumour, of all centres and of each."""
    rows = [("split", "hash", "part", "all", *centres)]
    for name, split in splits.items():
        for part in SPLIT_PARTS:
            cases = select(centres, getattr(split, part))
            first = (name, split.hash) if part == SPLIT_PARTS[0] else ("", "")
            each = [_counts([case for case in cases if case.centre == centre]) for centre in centres]
            rows.append((*first, part, _counts(cases), *each))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(["cases/patients/patients with a tumour", *lines])


def _counts(cases: list[Case]) -> str:
    patients = {(case.centre, case.patient) for case in cases}
    tumours = {(case.centre, case.patient) for case in cases if case.tumour_box}
    return f"{len(cases)}/{len(patients)}/{len(tumours)}" if cases else "-"


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data.splits",
        description="Show the splits of a store, and add some.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, metavar="DIR", help="where prepared cases live")
    parser.add_argument("--folds", type=int, metavar="N", help="add a cross-validation of N folds")
    parser.add_argument("--within", metavar="CENTRE", help="with --folds: inside this centre, not over all")
    parser.add_argument("--from", dest="lists", type=Path, metavar="FILE", help="add the lists of this JSON or CSV")
    args = parser.parse_args(argv)
    centres = read_store(args.store)
    splits = frozen_splits(args.store, centres)
    if args.within and not args.folds:
        raise InputError(f"--within {args.within}: says where to make folds; give --folds too")
    if args.within and args.within not in centres:
        raise InputError(f"--within {args.within}: no such centre is prepared; choose one of {', '.join(centres)}")
    if args.folds is not None:
        name = f"{args.within}_{FOLDS}" if args.within else FOLDS
        of = {args.within: centres[args.within]} if args.within else centres
        _add(args.store / f"splits_{name}.json", make_folds(of, args.folds, name), splits)
    if args.lists:
        _add(args.store / f"splits_{args.lists.stem}.json", read_lists(args.lists, centres), splits)
    print(table(frozen_splits(args.store, centres), centres))


def _add(path: Path, more: dict[str, Split], splits: dict[str, Split]) -> None:
    if path.exists() and read_splits(path) != more:
        raise InputError(f"{path}: has other splits already; delete it, with what was trained on them, to replace them")
    if not path.exists() and (twice := more.keys() & splits.keys()):
        raise InputError(f"{min(twice)}: is the name of a split or centre already; choose another")
    freeze(path, more)
