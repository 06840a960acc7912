"""Scans and patients that a centre shares with another one: a centre of the store, or one verified in the same run."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.cases.store import read_store
from data.duplicates.match import match_thumbnails
from data.duplicates.patients import patient_ids, patient_of_set
from data.duplicates.thumbnail import THUMBNAIL, load_thumbnails
from data.sources.centres import Centre
from data.verify.findings import Finding, Inspection

KEEP_ONE = "keep one of them, in one centre; training refuses a split between them"


@dataclass(frozen=True)
class CaseIdentity:
    """What identifies the scan and the patient of a case.

    Attributes:
        centre: Name of its centre.
        name: Name of the case.
        patient_ids: The identifiers under which its patient can be compared with others.
        thumbnail: Record of dtype THUMBNAIL.
    """

    centre: str
    name: str
    patient_ids: list[tuple[str, ...]]
    thumbnail: np.ndarray

    @property
    def key(self) -> str:
        """The case in the form ``centre/case``."""
        return f"{self.centre}/{self.name}"


def identities_in_store(store: Path, excluded: Container[str]) -> list[CaseIdentity]:
    """Identify all cases of the store but those of the ``excluded`` centres.

    Raises:
        InputError: If a case cannot be read, or if the cases were prepared in different ways.
    """
    if not any(store.glob("[!.]*/[!.]*/case.json")):
        return []
    cases = [case for centre, cases in read_store(store).items() if centre not in excluded for case in cases]
    return [
        CaseIdentity(case.centre, case.name, patient_ids(case), thumbnail)
        for case, thumbnail in zip(cases, load_thumbnails(cases), strict=True)
    ]


def identities_of(centre: Centre, cases: Sequence[Inspection]) -> list[CaseIdentity]:
    """Identify those cases of a centre that could be read."""
    return [
        CaseIdentity(centre.name, case.name, [patient_of_set(str(centre.root), case.patient)], case.thumbnail)
        for case in cases
        if case.thumbnail is not None
    ]


def find_overlap(ours: Sequence[CaseIdentity], others: Sequence[CaseIdentity]) -> list[Finding]:
    """Find scans that a centre holds twice or shares with other centres, and patients that it shares with them.

    Args:
        ours: The cases of the centre.
        others: The cases of the other centres.
    """
    our_thumbnails, other_thumbnails = (
        np.stack([case.thumbnail for case in cases]) if cases else np.zeros(0, THUMBNAIL) for cases in (ours, others)
    )
    found = [
        Finding("warning", f"{kind}, twice in this centre", ours[i].name, KEEP_ONE, ours[j].name)
        for i, j, kind, _ in match_thumbnails(our_thumbnails)
    ]
    for i, j, kind, _ in match_thumbnails(our_thumbnails, other_thumbnails):
        problem = f"{kind}, as in centre {others[j].centre}"
        found.append(Finding("warning", problem, ours[i].name, KEEP_ONE, others[j].key))
    patients = {patient: other for other in others for patient in other.patient_ids}
    for case in ours:
        for other in (patients[patient] for patient in case.patient_ids if patient in patients):
            found.append(Finding("warning", f"patient also in centre {other.centre}", case.name, KEEP_ONE, other.key))
    return found
