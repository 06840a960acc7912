"""Leaks: scans or patients that are in more than one part of a split, so that a model is tested on what it has seen."""

from collections.abc import Iterable
from typing import NamedTuple

from data.cases.case import Case
from data.common.errors import InputError
from data.duplicates.pairs import find_duplicates
from data.duplicates.patients import find_same_patients
from data.splits.split import Split

MAX_NAMED_LEAKS = 3


class InseparablePair(NamedTuple):
    """Two cases, given by their keys, that belong into the same part of a split, and the reason."""

    first: str
    second: str
    reason: str


def find_inseparable_pairs(
    splits: Iterable[Split], cases: Iterable[Case], *, save: bool = True
) -> list[InseparablePair]:
    """Find all pairs of cases that show the same scan or the same patient.

    Comparing all cases takes a while, so this is done once for all splits of a run.

    Args:
        splits: The splits to be checked; only their cases are compared.
        cases: All cases of the store.
        save: Whether the result, and thumbnails that have to be made, are kept in the store.

    Returns:
        The pairs, those of the same scan first.

    Raises:
        InputError: If a case is damaged.
    """
    keys = {key for split in splits for key in split.all_keys}
    cases = list(cases)
    others = [case for case in cases if case.key not in keys]
    cases = [case for case in cases if case.key in keys]
    pairs = [InseparablePair(d.first, d.second, d.kind) for d in find_duplicates(cases, others=others, save=save)]
    same_scan = {frozenset((pair.first, pair.second)) for pair in pairs}
    for first, second, patient in find_same_patients(cases):
        if frozenset((first, second)) not in same_scan:
            pairs.append(InseparablePair(first, second, f"patient {patient}"))
    return pairs


def check_leaks(split: Split, pairs: Iterable[InseparablePair], *, allow: bool = False) -> list[str]:
    """Check that no scan and no patient is in more than one part of a split.

    Args:
        split: The split to check.
        pairs: The pairs that ``find_inseparable_pairs`` found; they may include cases that are not in the split.
        allow: Whether leaks are returned instead of raised.

    Returns:
        One line for each leak.

    Raises:
        InputError: If there are leaks and they are not allowed; it names up to three of them.
    """
    part_of_case = {key: part for part, keys in split.parts.items() for key in keys}
    leaks = [
        f"{first} ({part_of_case[first]}) and {second} ({part_of_case[second]}): {reason}"
        for first, second, reason in pairs
        if {first, second} <= part_of_case.keys() and part_of_case[first] != part_of_case[second]
    ]
    if leaks and not allow:
        named = leaks[:MAX_NAMED_LEAKS]
        if len(leaks) > MAX_NAMED_LEAKS:
            named.append(f"and {len(leaks) - MAX_NAMED_LEAKS} more pairs")
        raise InputError(
            f"split {split.name}",
            f"its parts have scans or patients in common, {'; '.join(named)}",
            "delete one case of each pair and splits.json from the store, or accept the leaks with --allow-duplicates",
        )
    return leaks
