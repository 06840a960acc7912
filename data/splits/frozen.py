"""The splits of a store, kept as JSON files beside its cases so that every run uses the same ones.

    <store>/splits.json          the splits that leave one centre out, drawn when they are first needed
    <store>/splits_<name>.json   a cross-validation or lists that were added with ``python -m data.splits``; or the
                                 folds of the only centre, made when a split is needed and none is named

Each file holds ``{split: {"kind": "centre", "train": ["centre/case", ...], "validation": [...], "test": [...]}}``, and
for each split a checksum, so that a file that was damaged or edited is noticed.
"""

import json
from collections.abc import Container, Iterable
from functools import cache
from pathlib import Path
from typing import get_args

from data.cases.case import Case
from data.common.errors import InputError
from data.common.files import replacing
from data.common.records import CHECKSUM, checksum, read_json, verify_checksum
from data.splits.folds import FOLDS, MIN_FOLDS, make_folds
from data.splits.leave_one_out import make_splits
from data.splits.split import NONE_HELD_OUT, SPLIT_PARTS, Split, SplitKind, centre_of, choose_splits

OWN_FOLDS = 5  # of the patients of an only centre: three are trained on, one is validated on and one is tested on


def select_splits(
    store: Path,
    centres: dict[str, list[Case]],
    name: str | None,
    among: Container[str] | None = None,
    *,
    save: bool = True,
) -> list[Split]:
    """Select the splits of a run from those of the store.

    An only centre cannot be held out. If no split is named, its patients are divided instead: the first of its folds is
    used, which are made if the store has none yet, and a line says so.

    Args:
        store: Folder of the prepared cases.
        centres: Its cases by centre.
        name: As for ``choose_splits``.
        among: As for ``choose_splits``.
        save: As for ``frozen_splits``; also of the folds.

    Raises:
        InputError: As for ``frozen_splits`` and ``choose_splits``, or if an only centre has too few patients.
    """
    splits = frozen_splits(store, centres, save=save)
    if name is not None or len(centres) > 1 or not all(among is None or centre in among for centre in centres):
        return choose_splits(splits, name, among)
    (centre,) = centres
    own = f"{centre}_{FOLDS}"
    folds = {split.name: split for split in splits.values() if split.cross_validation == own}
    if not folds:
        patients = len({case.patient for case in centres[centre]})
        if patients < MIN_FOLDS:
            problem = f"the only prepared centre, with {patients} patient(s): none is left to test on"
            raise InputError(
                centre, problem, f"prepare another centre, or train on all its scans: --data {NONE_HELD_OUT}"
            )
        folds = make_folds(centres, min(OWN_FOLDS, patients), own)
        if save:
            write_splits(Path(store) / f"splits_{own}.json", folds)
    first = next(iter(folds.values()))
    trained, validated, tested = map(len, first.parts.values())
    _say_once(
        f"{centre} is the only prepared centre, so its patients are divided: {first.name} trains on {trained} cases, "
        f"validates on {validated} and tests on {tested}.\n"
        f"  --data {own} takes all {len(folds)} folds. Tests within a centre do not show how a model works elsewhere."
    )
    return [first]


@cache
def _say_once(text: str) -> None:
    """Print a message once, however many stages of a cascade use the same split."""
    print(text)


def frozen_splits(store: Path, centres: dict[str, list[Case]], *, save: bool = True) -> dict[str, Split]:
    """Read all splits of a store; those that leave one centre out are drawn if they are not there yet.

    Args:
        store: Folder of the prepared cases.
        centres: Its cases by centre.
        save: Whether splits that had to be drawn are written to ``splits.json``.

    Returns:
        The splits by name.

    Raises:
        InputError: If a file is damaged, two splits have the same name, or the cases of the store have changed: the
            splits that leave one centre out and a cross-validation must hold every case of their centres, lists must
            not name a case that is gone.
    """
    path = Path(store) / "splits.json"
    splits = read_splits(path) if path.exists() else make_splits(centres)
    if save and not path.exists():
        write_splits(path, splits)
    if NONE_HELD_OUT not in splits:
        problem = f'the file cannot be read as splits (the split "{NONE_HELD_OUT}" is missing)'
        raise InputError(path, problem, "delete it to draw new splits")
    in_store = {case.key for cases in centres.values() for case in cases}
    _check_cases(path, set(splits[NONE_HELD_OUT].all_keys), in_store)
    for added in sorted(path.parent.glob("splits_*.json")):
        more = read_splits(added)
        in_file = {key for split in more.values() for key in split.all_keys}
        cross_validations = {split.cross_validation for split in more.values() if split.kind == "fold"}
        if FOLDS in cross_validations:
            expected = in_store
        elif cross_validations:
            within = {centre_of(key) for key in in_file}
            expected = {key for key in in_store if centre_of(key) in within}
        else:
            expected = in_store & in_file
        _check_cases(added, in_file, expected)
        if repeated := more.keys() & splits.keys():
            problem = f'"{min(repeated)}" is also the name of another split or of a centre'
            raise InputError(added, problem, "rename or delete it")
        splits |= more
    return splits


def _check_cases(path: Path, in_file: set[str], expected: set[str]) -> None:
    if in_file == expected:
        return
    new, gone = expected - in_file, in_file - expected
    changed = ", ".join(sorted({centre_of(key) for key in new | gone}))
    problem = f"the splits were made for other cases: the store has {len(new)} new and lacks {len(gone)} ({changed})"
    remedy = "delete it to make new splits, then train again"
    new_centres = sorted({centre_of(key) for key in new} - {centre_of(key) for key in in_file})
    if new_centres and not gone:
        remedy += f"; or keep it and delete {', '.join(str(path.parent / centre) for centre in new_centres)}"
    raise InputError(path, problem, remedy)


def describe_new_cases(store: Path, keys: Iterable[str]) -> str:
    """Say which of these cases were prepared after the splits of the store were drawn.

    Args:
        store: Folder of the prepared cases.
        keys: Keys of the cases.

    Returns:
        One line with what to do; empty if ``splits.json`` holds all the cases or does not exist.

    Raises:
        InputError: If ``splits.json`` is damaged.
    """
    path = Path(store) / "splits.json"
    everything = read_splits(path).get(NONE_HELD_OUT) if path.exists() else None
    new = set(keys).difference(everything.all_keys) if everything else set()
    if not new:
        return ""
    drawn = f"{path} was drawn without {len(new)} cases of the store, such as {min(new)}"
    return f"{drawn}; delete it to draw new splits, then train again"


def write_splits(path: Path, splits: dict[str, Split]) -> None:
    """Write splits to a JSON file atomically."""
    records = {}
    for name, split in splits.items():
        record = {"kind": split.kind, **split.parts}
        records[name] = record | {CHECKSUM: checksum({"name": name, **record})}
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(records, indent=1))


def read_splits(path: Path) -> dict[str, Split]:
    """Read the splits in a file, by name.

    Raises:
        InputError: If the file does not hold splits, or was changed after they were written.
    """
    splits = {}
    try:
        for name, record in read_json(path).items():
            if unknown := sorted(record.keys() - {"kind", *SPLIT_PARTS, CHECKSUM}):
                raise ValueError(f"unknown field {unknown[0]!r}")
            verify_checksum({"name": name, **record})
            train, validation, test = (tuple(record[part]) for part in SPLIT_PARTS)
            if not all(isinstance(key, str) and "/" in key for key in (*train, *validation, *test)):
                raise ValueError("its cases are not named centre/case")
            kind = record["kind"] if "kind" in record else _kind_without_record(path, name)
            if kind not in get_args(SplitKind):
                raise ValueError(f"unknown kind {kind!r}")
            splits[name] = Split(name, train, validation, test, kind)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        problem = f"the file cannot be read as splits ({error!r})"
        raise InputError(path, problem, "delete it to draw new splits") from error
    return splits


def _kind_without_record(path: Path, name: str) -> SplitKind:
    # Older stores have files without kinds. They are still read, because new splits would make every model that was
    # trained on the old ones useless. At that time only a cross-validation could have a file name that ends in "folds".
    if path.stem == "splits":
        return "none" if name == NONE_HELD_OUT else "centre"
    return "fold" if path.stem.endswith(FOLDS) else "list"
