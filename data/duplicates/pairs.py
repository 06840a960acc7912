"""Find cases that show the same scan, within a centre and across centres.

Public sets are nested: PANORAMA contains studies of MSD and NIH, and PanTS was built from both. A model may therefore
have been trained on the scans of a held-out centre under other names. Two cases count as the same scan if

- their voxels are identical, which a hash tells; or
- their bodies have the same extent in mm and the thumbnails of the whole body correlate; or
- the thumbnails of the surroundings of the pancreas correlate over the region that both scans reach. This also finds
  a cropped scan, provided that the two label maps agree on the centre of the pancreas to about 5 mm.

Stored cases are cropped, so even a scan and its own prepared case differ voxel by voxel; PROCESSED covers that.

The comparison of thumbnails is in ``match.py``. The store keeps its result (``compared.py``), so that only new cases
are compared with the others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data.cases.case import Case
from data.duplicates.compared import Compared, Pair, identify, read_compared, write_compared
from data.duplicates.match import RULES, Match, match_thumbnails
from data.duplicates.thumbnail import load_thumbnails

HELD_CASES = 2048  # cases whose thumbnails are in memory at a time: 134 MB, twice


@dataclass(frozen=True)
class Duplicate:
    """Two cases, given by their keys, that show the same scan."""

    first: str
    second: str
    kind: str  # IDENTICAL or PROCESSED
    correlation: float  # of their thumbnails


def find_duplicates(cases: Iterable[Case], *, others: Iterable[Case] = (), save: bool = True) -> list[Duplicate]:
    """Find all pairs of cases that show the same scan.

    Unchanged cases that an earlier call compared with each other are not compared again.

    Args:
        cases: The cases of a store to compare with each other.
        others: Its other cases: what earlier calls found out about them is kept, so new cases are compared with them.
        save: Whether the result, and thumbnails that have to be made, are kept in the store.

    Returns:
        The pairs, in the order of the cases.

    Raises:
        InputError: If a case is damaged.
    """
    asked = {identify(case): case for case in cases}
    if not asked:
        return []
    store = next(iter(asked.values())).folder.parents[1]
    record = read_compared(store, RULES)
    if not asked.keys() <= record.cases:
        known = asked | {identity: case for case in others if (identity := identify(case)) in record.cases}
        record = _extend(record, known, save=save)
        if save and all(identify(case) == identity for identity, case in known.items()):  # none was prepared meanwhile
            write_compared(store, RULES, record)
    number = {identity: index for index, identity in enumerate(asked)}
    keys = [case.key for case in asked.values()]
    found = []
    for one, other, kind, correlation in record.pairs:
        if one in number and other in number:
            first, second = sorted((number[one], number[other]))
            found.append((first, second, kind, correlation))
    return [
        Duplicate(keys[first], keys[second], kind, correlation) for first, second, kind, correlation in sorted(found)
    ]


def _extend(record: Compared, cases: dict[str, Case], *, save: bool) -> Compared:
    """Compare those of the cases that a record lacks with each other and with the rest; the record of all these cases.

    Args:
        record: The record of an earlier comparison. It may hold cases that are gone.
        cases: All cases that are to be in the new record, by their identities.
        save: Whether thumbnails that have to be made are kept in the store.
    """
    new = [identity for identity in cases if identity not in record.cases]
    ordered = [*new, *(identity for identity in cases if identity in record.cases)]
    pairs = [pair for pair in record.pairs if pair[0] in cases and pair[1] in cases]
    for top in range(0, len(new), HELD_CASES):
        ours = new[top : top + HELD_CASES]
        held = load_thumbnails([cases[identity] for identity in ours], save=save)
        pairs += _name(match_thumbnails(held), ours, ours)
        for left in range(top + len(ours), len(ordered), HELD_CASES):
            theirs = ordered[left : left + HELD_CASES]
            others = load_thumbnails([cases[identity] for identity in theirs], save=save)
            pairs += _name(match_thumbnails(held, others), ours, theirs)
    return Compared(frozenset(cases), pairs)


def _name(matches: Iterable[Match], first: Sequence[str], second: Sequence[str]) -> list[Pair]:
    return [(first[i], second[j], kind, correlation) for i, j, kind, correlation in matches]
