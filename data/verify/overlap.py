"""Scans and patients that a centre shares with another: one of the store, or one that was verified just before it."""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.cases.store import read_store
from data.duplicates.pairs import match_thumbnails
from data.duplicates.patients import patient_ids, patient_of_set
from data.duplicates.thumbnail import THUMBNAIL, load_thumbnails
from data.sources.centres import Centre
from data.verify.findings import Finding, Inspection

LEAK = "keep one of them, in one centre; training refuses a split between them"


class Known(NamedTuple):
    """A case that others are compared with; ``thumbnail`` is a record of dtype THUMBNAIL."""

    centre: str
    key: str
    patient_ids: list[tuple[str, ...]]
    thumbnail: np.ndarray


def known_in_store(store: Path, besides: Container[str]) -> list[Known]:
    """All cases of the store but those of the centres ``besides``.

    Raises InputError for a case that cannot be read, or prepared in another way than the others.
    """
    if not any(store.glob("[!.]*/[!.]*/case.json")):
        return []
    cases = [case for centre, cases in read_store(store).items() if centre not in besides for case in cases]
    thumbs = load_thumbnails(cases)
    return [Known(case.centre, case.key, patient_ids(case), one) for case, one in zip(cases, thumbs, strict=True)]


def known_of(centre: Centre, cases: Sequence[Inspection]) -> list[Known]:
    """The cases of a centre that were read."""
    return [
        Known(centre.name, f"{centre.name}/{case.name}", [_patient(centre, case)], case.thumbnail)
        for case in cases
        if case.thumbnail is not None
    ]


def shared_findings(centre: Centre, cases: Sequence[Inspection], others: Sequence[Known]) -> list[Finding]:
    """Scans that this centre holds twice or has in common with ``others``, and patients of two centres."""
    read = [case for case in cases if case.thumbnail is not None]
    ours, theirs = _stacked(read), _stacked(others)
    found = [
        Finding("warning", f"{kind}, twice in this centre", read[i].name, LEAK, read[j].name)
        for i, j, kind, _ in match_thumbnails(ours)
    ]
    for i, j, kind, _ in match_thumbnails(ours, theirs):
        what = f"{kind}, as in centre {others[j].centre}"
        found.append(Finding("warning", what, read[i].name, LEAK, others[j].key))
    patients = {name: other for other in others for name in other.patient_ids}
    for case in read:
        if other := patients.get(_patient(centre, case)):
            found.append(Finding("warning", f"patient also in centre {other.centre}", case.name, LEAK, other.key))
    return found


def _patient(centre: Centre, case: Inspection) -> tuple[str, ...]:
    return patient_of_set(str(centre.root), case.patient)


def _stacked(cases: Sequence[Inspection | Known]) -> np.ndarray:
    return np.stack([case.thumbnail for case in cases]) if cases else np.zeros(0, THUMBNAIL)
