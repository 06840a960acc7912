"""Find cases of the same patient, as far as the identifiers of patients tell.

An identifier says nothing across data sets: "case_001" is a different patient in each. It is comparable within a
centre, and within one downloaded set, which is known by its root folder. The latter also holds if the set was
registered as several centres or read by several sources, such as the parts of PANORAMA that have patients in common.
"""

from collections.abc import Sequence
from itertools import combinations

from data.cases.case import Case


def patient_ids(case: Case) -> list[tuple[str, ...]]:
    """Return the identifiers of a case's patient: one within its centre and, if its root is known, one within its set.

    Two cases that share any of these identifiers are of the same patient.
    """
    ids: list[tuple[str, ...]] = [("centre", case.centre, case.patient)]
    if root := case.source.get("root"):
        ids.append(patient_of_set(root, case.patient))
    return ids


def patient_of_set(root: str, patient: str) -> tuple[str, ...]:
    """Return the identifier of a patient within the downloaded set that has this root folder."""
    return "set", root, patient


def find_same_patients(cases: Sequence[Case]) -> list[tuple[str, str, str]]:
    """Find all pairs of cases of the same patient.

    Returns:
        For each pair the two keys and the patient's own identifier.
    """
    keys_of_patient: dict[tuple[str, ...], list[str]] = {}
    for case in cases:
        for identifier in patient_ids(case):
            keys_of_patient.setdefault(identifier, []).append(case.key)
    pairs = (
        (first, second, identifier[-1])
        for identifier, keys in keys_of_patient.items()
        for first, second in combinations(keys, 2)
    )
    return list(dict.fromkeys(pairs))
