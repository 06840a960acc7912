"""Which prepared cases are one scan? Within a centre and across centres, before a split is trusted.

Public sets are nested (PANORAMA holds studies of MSD and NIH, PanTS was built from both), so a centre that is held
out may have been trained on under another name. Two cases count as one scan where

- their voxels are the same (a hash tells), or
- their bodies have the same extent in mm and the thumbnails of the whole body correlate at ALIKE_WHOLE, or
- the thumbnails of what lies around the pancreas correlate at ALIKE_NEAR, over the part that both scans reach: this
  finds a crop of a scan too, and needs the two label maps to agree on where the pancreas is, to about 5 mm.

Patients: an id says nothing across data sets, "case_001" is a different patient in each. Within a centre
and within one downloaded set (same folder) it does, also where that set was registered as several centres, and by
several adapters: the kinds of PANORAMA have patients in common.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
from tqdm import tqdm

from data.cases.store import Case
from data.common.errors import InputError
from data.duplicates.thumbnail import OUTSIDE, THUMBNAIL, thumbnail_of
from data.splits.leave_one_out import SPLIT_PARTS, Split

# PROCESSED be it by us alone: what the store has was cropped, so its voxels are others than those of its own file.
IDENTICAL, PROCESSED = "identical voxels", "the same scan"
ALIKE_WHOLE, ALIKE_NEAR = 0.90, 0.85
EXTENT_MM, EXTENT_SHARE = 10.0, 0.03  # two cells of the thumbnail's volume, or 3 %
SMALLEST_ML = 2000.0  # of body: what shows less is too little of an abdomen to tell one from another
SHARED_CELLS = 0.15  # of the 17 litres around the pancreas, 2.5 litres
BLOCK = 256  # cases compared at a time
NAMED = 3
SHOWN_AFTER_S = 2


@dataclass(frozen=True)
class Duplicate:
    """Two cases (keys) that show one scan. ``kind`` is IDENTICAL or PROCESSED."""

    first: str
    second: str
    kind: str
    correlation: float  # of their thumbnails


def find_duplicates(cases: Iterable[Case], save: bool = True) -> list[Duplicate]:
    """All pairs of cases that show one scan, in the order of the cases. Raises InputError for a damaged case."""
    cases = list(cases)
    found = like_pairs(thumbnails(cases, save))
    return [Duplicate(cases[i].key, cases[j].key, kind, correlation) for i, j, kind, correlation in found]


def thumbnails(cases: Sequence[Case], save: bool = True) -> np.ndarray:
    """Records (n,) of dtype THUMBNAIL; those that had to be made are kept in the store if ``save``.

    Under a progress bar where these are so many that it takes a while.
    """
    shown = {"desc": "looking for duplicates", "unit": "case", "disable": None, "delay": SHOWN_AFTER_S}
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        made = list(tqdm(pool.map(partial(thumbnail_of, save=save), cases), total=len(cases), **shown))
    return np.stack(made) if made else np.zeros(0, THUMBNAIL)


def like_pairs(first: np.ndarray, second: np.ndarray | None = None) -> list[tuple[int, int, str, float]]:
    """Pairs (index into ``first``, index into ``second``, kind, correlation) of thumbnails that show one scan.

    Without ``second``: pairs within ``first``, each once, the lower index first.
    """
    within = second is None
    second = first if second is None else second
    pairs = []
    for top in range(0, len(first), BLOCK):
        for left in range(top if within else 0, len(second), BLOCK):
            found = _like_pairs(first[top : top + BLOCK], second[left : left + BLOCK])
            pairs += [(top + i, left + j, *rest) for i, j, *rest in found]
    return sorted(pair for pair in pairs if not within or pair[0] < pair[1])


def _like_pairs(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, int, str, float]]:
    identical = first["voxels"].copy().view("V32") == second["voxels"].copy().view("V32").T
    correlation = np.maximum(_whole_correlation(first, second), _near_correlation(first, second))
    for i, j in np.argwhere(identical | (correlation > 0)):
        alike = 1.0 if identical[i, j] else round(float(correlation[i, j]), 3)
        yield int(i), int(j), IDENTICAL if identical[i, j] else PROCESSED, alike


def _whole_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, m), 0 below ALIKE_WHOLE and where the bodies differ in extent or are too small to compare."""
    a, b = (_cells(side["whole"])[0] for side in (first, second))
    length = np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    one, other = first["extent"][:, None], second["extent"][None]
    room = np.maximum(EXTENT_MM, EXTENT_SHARE * np.maximum(one, other))
    comparable = (np.abs(one - other) <= room).all(-1) & (one.prod(-1) / 1000 >= SMALLEST_ML)
    correlation = a @ b.T / np.maximum(length, 1e-6)
    return np.where(comparable & (correlation >= ALIKE_WHOLE), correlation, 0)


def _near_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, m) over the cells that both scans reach, 0 below ALIKE_NEAR and where these are too few."""
    (a, in_a), (b, in_b) = (_cells(side["near"]) for side in (first, second))
    length = np.sqrt((a * a) @ in_b.T * (in_a @ (b * b).T))
    enough = in_a @ in_b.T >= SHARED_CELLS * a.shape[1]
    correlation = a @ b.T / np.maximum(length, 1e-6)
    return np.where(enough & (correlation >= ALIKE_NEAR), correlation, 0)


def _cells(thumbs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Contrasts, 0 outside the scan, and 1 inside the scan, each float32 (n, 32768)."""
    flat = thumbs.reshape(len(thumbs), -1)
    inside = flat != OUTSIDE
    return np.where(inside, flat, 0).astype(np.float32), inside.astype(np.float32)


def inseparable(splits: Iterable[Split], cases: Iterable[Case], save: bool = True) -> list[tuple[str, str, str]]:
    """Pairs (key, key, why) of one scan or one patient, which no split should part; found once for all ``splits``.

    Args:
        cases: at least those of the splits; others are left aside.
        save: in the store, the thumbnails that have to be made.

    Raises InputError for a damaged case.
    """
    keys = {key for split in splits for part in SPLIT_PARTS for key in getattr(split, part)}
    cases = [case for case in cases if case.key in keys]
    pairs = [(d.first, d.second, d.kind) for d in find_duplicates(cases, save)]
    known = {frozenset(pair[:2]) for pair in pairs}
    return pairs + [pair for pair in same_patients(cases) if frozenset(pair[:2]) not in known]


def refuse_leaks(split: Split, pairs: Iterable[tuple[str, str, str]], allow: bool = False) -> list[str]:
    """Look for scans and patients on two sides of a split: train, validation, test.

    Args:
        pairs: those that are ``inseparable``; of cases that are not in the split too.
        allow: return the leaks instead of refusing them.

    Returns a line for each leak. Raises InputError naming up to three of them, unless they are allowed.
    """
    sides = {key: side for side in SPLIT_PARTS for key in getattr(split, side)}
    leaks = [
        f"{first} ({sides[first]}) and {second} ({sides[second]}): {why}"
        for first, second, why in pairs
        if {first, second} <= sides.keys() and sides[first] != sides[second]
    ]
    if leaks and not allow:
        more = f" and {len(leaks) - NAMED} pairs more" if len(leaks) > NAMED else ""
        remedy = "delete one case of each pair and splits.json from the store, or go on with --allow-duplicates"
        raise InputError(f"the split that holds out {split.name} leaks: {', '.join(leaks[:NAMED])}{more}; {remedy}")
    return leaks


def same_patients(cases: Sequence[Case]) -> list[tuple[str, str, str]]:
    """Pairs (key, key, "patient <id>") of cases of one patient, as far as ids tell (see the top of this file)."""
    patients: dict[tuple[str, ...], list[str]] = {}
    for case in cases:
        for name in patient_ids(case):
            patients.setdefault(name, []).append(case.key)
    pairs = ((*pair, f"patient {name[-1]}") for name, keys in patients.items() for pair in combinations(keys, 2))
    return list(dict.fromkeys(pairs))


def patient_ids(case: Case) -> list[tuple[str, ...]]:
    """Whose scan it is: the names under which it may be compared with others, within its centre and within its set."""
    within = [("centre", case.centre, case.patient)]
    root = case.source.get("root")
    return [*within, patient_of_set(root, case.patient)] if root else within


def patient_of_set(root: str, patient: str) -> tuple[str, ...]:
    """The name of a patient among all centres that one downloaded set was registered as."""
    return "set", root, patient
